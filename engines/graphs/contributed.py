"""What ONNX Runtime's own operators (`com.microsoft`) give, which `onnx` has no schemas of. Imports `onnx` as it loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from ...core.errors import EngineError

Given = Sequence[Any]
"""The values read (see values.Value), None where an input is left out."""
Found = list[tuple[int, tuple[int, ...]]]
"""Element type and shape of each output."""


def _attribute(node: Any, name: str, default: int = 0) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _as_first(node: Any, given: Given) -> Found:
    return [(given[0].element, given[0].shape)] * len(node.output)


def _attention(node: Any, given: Given) -> Found:
    query, value = given[0], given[2]
    if len(node.output) > 1 or value is None or len(query.shape) != 3 or len(value.shape) != 3:
        raise EngineError("cannot tell what MultiHeadAttention with packed inputs or a cache costs")
    return [(query.element, (*query.shape[:2], value.shape[2]))]


def _product(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return (*np.broadcast_shapes(first[:-2], second[:-2]), first[-2], second[-1])


def _integer_product(_: Any, given: Given) -> Found:
    return [(onnx.TensorProto.FLOAT, _product(given[0].shape, given[1].shape))]


def _fused_product(node: Any, given: Given) -> Found:
    first, second = given[0].shape, given[1].shape
    if _attribute(node, "transA"):
        first = (*first[:-2], first[-1], first[-2])
    if _attribute(node, "transB"):
        second = (*second[:-2], second[-1], second[-2])
    return [(given[0].element, _product(first, second))]


def _blocks_product(node: Any, given: Given) -> Found:
    return [(given[0].element, (*given[0].shape[:-1], _attribute(node, "N")))]


CONTRIBUTED: dict[str, Callable[[Any, Given], Found]] = {
    "BiasGelu": _as_first,
    "FastGelu": _as_first,
    "FusedMatMul": _fused_product,
    "Gelu": _as_first,
    "GroupNorm": _as_first,
    "MatMulIntegerToFloat": _integer_product,
    "MatMulNBits": _blocks_product,
    "MultiHeadAttention": _attention,
    "QuickGelu": _as_first,
    "RotaryEmbedding": _as_first,
    "SkipLayerNormalization": _as_first,
    "SkipSimplifiedLayerNormalization": _as_first,
}
"""Operator → rule for its outputs."""
