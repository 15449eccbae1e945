"""`Attention` as two matrix products around a softmax in float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from ....graphs.graph import attributes
from .building import FLOAT, Builder, CannotExpand

_BFLOAT16 = onnx.TensorProto.BFLOAT16
_BOOL = onnx.TensorProto.BOOL
_NOT_EXPANDED = {"is_causal": "a causal mask", "qk_matmul_output_mode": "a score output"}


def expand_attention(node: Any, builder: Builder) -> None:
    """Add the nodes of softmax(scale · q kᵀ + mask) v, scores and softmax in float32.

    q, k, v are [B, S, H·D] (with `q_num_heads`) or [B, H, S, D]; fewer key than query heads only in the first form. The mask
    broadcasts to [B, H, S, L]; a boolean one is true where attention is allowed. The query is scaled before the product,
    which keeps float16 scores small; bfloat16 would round it coarsely once more, so that its scores are scaled, in float32. A
    query whose every key is masked by booleans attends to all keys. Where the builder asks for half_softmax, plain attention
    in half precision has its scores and softmax in that type too.
    """
    given = attributes(node)
    for name, meaning in _NOT_EXPANDED.items():
        if given.get(name, 0):
            raise CannotExpand(f"{meaning} ({name})")
    if any(node.input[4:]) or any(node.output[1:]):
        raise CannotExpand("a cache of keys and values, or a second output")
    query, key, value = node.input[:3]
    element_type = builder.element_type(query)
    heads = given.get("q_num_heads", 0)
    if heads:
        groups = heads // given.get("kv_num_heads", heads)
        key, value = (_of_heads(builder, name, heads // groups) for name in (key, value))
        if groups > 1:
            each = builder.graph.add_constant("heads_of_groups", np.repeat(np.arange(heads // groups), groups))
            key, value = (builder.add("Gather", name, each, axis=1) for name in (key, value))
    plain = not any(node.input[3:]) and not given.get("softcap", 0.0)
    inner = element_type if builder.half_softmax and plain else FLOAT
    late = element_type == _BFLOAT16 and inner == FLOAT
    query = _of_heads(builder, query, heads) if heads else query
    width = builder.shapes.get(node.input[0], (None,))[-1]
    scale = _scale(builder, query, width // (heads or 1) if width else None, given.get("scale"))
    query = query if late else _scaled(builder, query, scale, element_type)
    scores = builder.add("MatMul", query, builder.add("Transpose", key, perm=[0, 1, 3, 2]))
    scores = scores if element_type == inner else builder.cast(scores, FLOAT)
    scores = _scaled(builder, scores, scale, FLOAT) if late else scores
    if given.get("softcap", 0.0):
        cap = builder.number(given["softcap"])
        scores = builder.add("Mul", builder.add("Tanh", builder.add("Div", scores, cap)), cap)
    if len(node.input) > 3 and node.input[3]:
        scores = _masked(builder, scores, node.input[3])
    weights = builder.add("Softmax", scores, axis=-1)
    weights = weights if element_type == inner else builder.cast(weights, element_type)
    if not heads:
        builder.add("MatMul", weights, value, output=node.output[0])
        return
    mixed = builder.add("Transpose", builder.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    builder.add("Reshape", mixed, builder.integers(0, 0, -1), output=node.output[0])


def _of_heads(builder: Builder, name: str, heads: int) -> str:
    """Return [B, S, H·D] as [B, H, S, D]."""
    split = builder.add("Reshape", name, builder.integers(0, 0, heads, -1))
    return builder.add("Transpose", split, perm=[0, 2, 1, 3])


def _scale(builder: Builder, by_heads: str, width: int | None, scale: float | None) -> float | str:
    """Return what scores are multiplied by: a number, or the name of a float32 value where the width of a head varies."""
    if scale is not None:
        return scale
    if width is not None:
        return 1 / math.sqrt(width)
    width_of_head = builder.cast(builder.add("Shape", by_heads, start=3, end=4), FLOAT)
    return builder.add("Reciprocal", builder.add("Sqrt", width_of_head))


def _scaled(builder: Builder, value: str, scale: float | str, element_type: int) -> str:
    if scale == 1:
        return value
    if isinstance(scale, str):
        scale = scale if element_type == FLOAT else builder.cast(scale, element_type)
        return builder.add("Mul", value, scale)
    return builder.add("Mul", value, builder.number(scale, element_type))


def _masked(builder: Builder, scores: str, mask: str) -> str:
    element_type = builder.element_type(mask)
    if element_type == _BOOL:
        return builder.add("Where", mask, scores, builder.number(float(np.finfo(np.float32).min)))
    return builder.add("Add", scores, mask if element_type == FLOAT else builder.cast(mask, FLOAT))
