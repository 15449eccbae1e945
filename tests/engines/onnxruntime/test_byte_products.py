from __future__ import annotations

import numpy as np
import pytest

from edgereel.engines.onnxruntime import byte_products

pytestmark = pytest.mark.lean

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def make_probe():
    types = onnx.TensorProto
    inputs = [("a", types.UINT8, [1, 32]), ("b", types.INT8, [32, 16])]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "probe",
        [onnx.helper.make_tensor_value_info(*each) for each in inputs],
        [onnx.helper.make_tensor_value_info("c", types.INT32, [1, 16])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def test_the_probe_is_what_onnx_makes():
    assert onnx.ModelProto.FromString(byte_products.PROBE) == make_probe()


@pytest.mark.parametrize(("found", "exact"), [(32 * 255 * 127, True), (16 * 32767, False)])
def test_the_probe_tells_saturated_sums(monkeypatch, found, exact):
    class Session:
        def __init__(self, *_, **__):
            pass

        def run(self, *_):
            return [np.full((1, 16), found, np.int32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert byte_products.byte_products_are_exact(onnxruntime, None) is exact


def test_the_probe_runs():
    assert byte_products.byte_products_are_exact(onnxruntime, onnxruntime.SessionOptions()) in (True, False)


def without_vnni(a, b):
    """Return the products of unsigned rows and signed columns as such processors add them up: pairs in 16 bits, saturated."""
    products = a.astype(np.int64)[:, :, None] * b.astype(np.int64)[None]
    pairs = products[:, 0::2] + products[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


@pytest.mark.parametrize(
    ("largest", "lowest", "exact"), [(127, -128, True), (255, -64, True), (129, -128, False), (255, -65, False)]
)
def test_seven_bits_on_either_side_are_exact_without_vnni(largest, lowest, exact):
    """Of the activations, or of the weights; one more on either side is not."""
    a = np.full((1, 32), largest, np.uint8)
    b = np.full((32, 1), lowest, np.int8)
    assert bool(without_vnni(a, b)[0, 0] == 32 * largest * lowest) is exact
    random = np.random.default_rng()
    if exact:
        a = random.integers(0, largest + 1, (20, 64)).astype(np.uint8)
        b = random.integers(lowest, -lowest, (64, 20)).astype(np.int8)
        np.testing.assert_array_equal(without_vnni(a, b), a.astype(np.int64) @ b.astype(np.int64))


def test_bits_go_by_what_the_processor_adds_up(monkeypatch):
    assert byte_products.byte_products_are_exact(onnxruntime, onnxruntime.SessionOptions(), 127)
    for exact, bits in ((True, 8), (False, 7)):
        monkeypatch.setattr(byte_products, "byte_products_are_exact", lambda *_, exact=exact: exact)
        assert byte_products.activation_bits(onnxruntime) == bits
