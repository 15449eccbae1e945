"""The quantized forms of a weight, as arrays: int8 by output channel, int4 by block of inputs, fp8 by output channel.

All are symmetric and round to nearest, ties to even, as ONNX's QuantizeLinear does. onnxruntime.quantization has the same
arithmetic, but `quantize_dynamic` writes integer operators in the place of DequantizeLinear, its 4-bit quantizer writes
contrib operators or packs whole models in memory, and neither has float8 by channel; the arithmetic is the short part.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

WeightKind = Literal["int8", "int4", "fp8"]
Floats = NDArray[np.float32]

BLOCK = 32
"""Inputs that share a scale in int4."""
LARGEST: dict[WeightKind, float] = {"int8": 127.0, "int4": 7.0, "fp8": 448.0}
"""The largest magnitude a scale of 1 can store."""
_SMALLEST_SCALE = np.float32(2.0**-120)  # for a channel of zeros; its inverse is still finite
_INT4_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)


class QuantizedWeight(NamedTuple):
    """values: int8 [K, N] (for int4 from -8 to 7) or float8_e4m3fn [K, N]. scales: float32 [N], for int4 [K / 32, N]."""

    kind: WeightKind
    values: NDArray[Any]
    scales: Floats

    def dequantized(self) -> Floats:
        """Return the weight, float32 [K, N], that engines calculate with."""
        scales = self.scales
        if self.kind == "int4":
            scales = np.repeat(scales, BLOCK, axis=0)[: len(self.values)]
        weight: Floats = self.values.astype(np.float32) * scales
        return weight

    def packed(self) -> NDArray[np.uint8]:
        """Return the values as ONNX stores them, flat bytes: two int4 to a byte, the first in the lower half."""
        if self.kind != "int4":
            return np.ascontiguousarray(self.values).reshape(-1).view(np.uint8)
        nibbles: NDArray[np.uint8] = self.values.reshape(-1).view(np.uint8) & np.uint8(15)
        if nibbles.size % 2:
            nibbles = np.append(nibbles, np.uint8(0))
        packed: NDArray[np.uint8] = nibbles[0::2] | (nibbles[1::2] << np.uint8(4))
        return packed


def quantize_weight(weight: Floats, kind: WeightKind) -> QuantizedWeight:
    """Quantize a linear's weight, finite float32 [K inputs, N outputs]."""
    if kind == "int4":
        return _quantize_int4(weight)
    scales = _at_least_smallest(np.abs(weight).max(axis=0) / np.float32(LARGEST[kind]))
    if kind == "fp8":
        return QuantizedWeight(kind, round_to_float8(weight / scales), scales)
    return QuantizedWeight(kind, np.clip(np.rint(weight / scales), -127, 127).astype(np.int8), scales)


def round_to_float8(values: Floats) -> NDArray[Any]:
    """Round to E4M3 (1 sign, 4 exponent and 3 mantissa bits, no infinity); what is larger than 448 becomes 448."""
    return np.clip(values, -LARGEST["fp8"], LARGEST["fp8"]).astype(ml_dtypes.float8_e4m3fn)


def round_activations(values: Floats, scale: np.float32 | Floats, kind: WeightKind) -> Floats:
    """Return what is left of activations that go through QuantizeLinear and DequantizeLinear; kind: int8 or fp8."""
    scaled = values / scale
    if kind == "fp8":
        rounded: Floats = round_to_float8(scaled).astype(np.float32)
    else:
        rounded = np.clip(np.rint(scaled), -128, 127)
    return rounded * scale


def dynamic_scales(rows: Floats) -> Floats:
    """Return the int8 scale of each token, [R, 1] of rows [R, K]: its largest magnitude over 127."""
    return _at_least_smallest(np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127))


def _quantize_int4(weight: Floats) -> QuantizedWeight:
    """Per block, of a few scales the one that leaves the smallest squared error.

    Ranges that are shrunk clip a few values and resolve the others better.
    """
    inputs, outputs = weight.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((blocks * BLOCK, outputs), np.float32)
    padded[:inputs] = weight
    cells = padded.reshape(blocks, BLOCK, outputs)
    highest, lowest = cells.max(axis=1), cells.min(axis=1)
    widest = np.maximum(highest / np.float32(7), -lowest / np.float32(8))
    best_scales = np.ones_like(widest)
    best_errors = np.full_like(widest, np.inf)
    best_values = np.zeros(cells.shape, np.int8)
    for shrink in _INT4_SHRINKS:
        scales = _at_least_smallest(widest * np.float32(shrink))
        values = np.clip(np.rint(cells / scales[:, None]), -8, 7)
        errors = np.square(values * scales[:, None] - cells).sum(axis=1)
        better = errors < best_errors
        best_errors = np.where(better, errors, best_errors)
        best_scales = np.where(better, scales, best_scales)
        best_values = np.where(better[:, None], values.astype(np.int8), best_values)
    return QuantizedWeight("int4", best_values.reshape(-1, outputs)[:inputs], best_scales)


def _at_least_smallest(scales: Floats) -> Floats:
    result: Floats = np.maximum(scales, _SMALLEST_SCALE).astype(np.float32)
    return result
