"""The quantized forms of a weight, against float64 arithmetic written anew, and against ONNX's own evaluator."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel.calibration.forms import BLOCK, dynamic_scales, quantize_weight, round_activations, round_to_float8

pytestmark = pytest.mark.lean

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 9))


def weights(shape, seed, spread=1.0):
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) * spread ** generator.standard_normal(shape)).astype(np.float32)


@settings(max_examples=60)
@given(SHAPES, st.integers(0, 2**31))
def test_int8_is_within_half_a_step_of_each_channel(shape, seed):
    weight = weights(shape, seed, spread=4)
    quantized = quantize_weight(weight, "int8")
    steps = np.abs(weight).astype(np.float64).max(axis=0) / 127
    assert quantized.values.dtype == np.int8
    assert quantized.values.min() >= -127
    error = np.abs(quantized.values * quantized.scales.astype(np.float64) - weight)
    assert (error <= steps * 0.5001).all()


@settings(max_examples=60)
@given(SHAPES, st.integers(0, 2**31))
def test_int4_is_never_worse_than_the_plain_choice_of_scale(shape, seed):
    weight = weights(shape, seed)
    quantized = quantize_weight(weight, "int4")
    inputs, outputs = shape
    assert quantized.scales.shape == (-(-inputs // BLOCK), outputs)
    assert -8 <= quantized.values.min() <= quantized.values.max() <= 7
    found = quantized.dequantized().astype(np.float64)
    for start in range(0, inputs, BLOCK):
        block = weight[start : start + BLOCK]
        # In float32, as what is stored: where a block fits its scale by chance, the rest is that scale's rounding.
        scale = np.maximum(block.max(axis=0) / np.float32(7), -block.min(axis=0) / np.float32(8))
        scale = np.maximum(scale, np.float32(2.0**-120))
        plain = np.clip(np.rint(block / scale), -8, 7) * scale
        of_plain = np.square(plain.astype(np.float64) - block).sum(axis=0)
        assert (np.square(found[start : start + BLOCK] - block).sum(axis=0) <= of_plain * 1.0001 + 1e-12).all()


@settings(max_examples=60)
@given(SHAPES, st.integers(0, 2**31))
def test_float8_keeps_three_bits_after_the_first(shape, seed):
    weight = weights(shape, seed)
    quantized = quantize_weight(weight, "fp8")
    assert quantized.values.dtype == ml_dtypes.float8_e4m3fn
    found = quantized.values.astype(np.float64) * quantized.scales
    smallest = quantized.scales.astype(np.float64) * 2.0**-10  # half of the smallest subnormal step
    assert (np.abs(found - weight) <= np.maximum(np.abs(weight) * 2.0**-4 * 1.0001, smallest * 1.0001)).all()


def test_float8_saturates_and_has_no_infinity():
    assert round_to_float8(np.array([1e9, -1e9, 448, 0.0], np.float32)).astype(np.float32).tolist() == [
        448,
        -448,
        448,
        0,
    ]


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_channels_of_zeros_stay_zeros(kind):
    weight = np.zeros((40, 3), np.float32)
    weight[:, 1] = 1
    found = quantize_weight(weight, kind).dequantized()
    assert np.isfinite(found).all()
    assert (found[:, [0, 2]] == 0).all()
    assert np.allclose(found[:, 1], 1)


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("shape", [(64, 5), (33, 7), (3, 3)])
def test_packed_bytes_are_what_onnx_reads(kind, shape):
    quantized = quantize_weight(weights(shape, 1), kind)
    types = {"int8": onnx.TensorProto.INT8, "int4": onnx.TensorProto.INT4, "fp8": onnx.TensorProto.FLOAT8E4M3FN}
    tensor = onnx.TensorProto(name="w", data_type=types[kind], dims=shape, raw_data=quantized.packed().tobytes())
    read = onnx.numpy_helper.to_array(tensor)
    assert (read.astype(np.float32) == quantized.values.astype(np.float32)).all()


def test_dynamic_scales_are_of_each_token():
    rows = np.array([[1.0, -127.0], [0.5, 0.25], [0, 0]], np.float32)
    assert dynamic_scales(rows)[:2, 0].tolist() == [1.0, np.float32(0.5 / 127)]
    rounded = round_activations(rows, dynamic_scales(rows), "int8")
    assert np.isfinite(rounded).all()
    assert np.abs(rounded - rows).max() <= 0.5
