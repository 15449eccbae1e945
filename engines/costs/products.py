"""Multiplications and additions of the operators that nearly all time goes into."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Given = Sequence[Any]
"""The values read or written (see values.Value), None where one is left out."""


def flops_of(node: Any, given: Given, found: Given) -> int:
    """Return 2 for each multiply-add of a matrix product, convolution or attention; 0 for any other operator."""
    count = _COUNTS.get(node.op_type)
    return 0 if count is None else count(node, given, found)


def is_product(node: Any) -> bool:
    """Return whether a node is one of those that `flops_of` counts."""
    return node.op_type in _COUNTS


def attention_extents(node: Any, given: Given) -> tuple[int, int, int, int, int, int]:
    """Return batch, heads, queries, keys, width of a head and width of a value's head.

    Query, key and value are [B, H, S, D] or [B, S, H·D] with the number of heads as an attribute.
    """
    query, key, value = (item.shape for item in given[:3])
    if len(query) == 4:
        return query[0], query[1], query[2], key[2], query[3], value[3]
    heads = {item.name: item.i for item in node.attribute}
    of_query = heads.get("q_num_heads") or heads["num_heads"]
    of_value = heads.get("kv_num_heads") or heads["num_heads"]
    return query[0], of_query, query[1], key[1], query[2] // of_query, value[2] // of_value


def _attention(node: Any, given: Given, _: Given) -> int:
    batch, heads, queries, keys, width, value_width = attention_extents(node, given)
    return 2 * batch * heads * queries * keys * (width + value_width)


def _product(_: Any, given: Given, found: Given) -> int:
    return 2 * int(found[0].size) * int(given[0].shape[-1])


def _transposable_product(node: Any, given: Given, found: Given) -> int:
    first = given[0].shape
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return 2 * int(found[0].size) * int(first[-2 if transposed else -1])


def _convolution(weight_at: int) -> Callable[[Any, Given, Given], int]:
    # A weight is [C_out, C_in / groups, *kernel].
    return lambda _, given, found: 2 * int(found[0].size) * int(math.prod(given[weight_at].shape[1:]))


def _transposed_convolution(_: Any, given: Given, __: Given) -> int:
    # A weight is [C_in, C_out / groups, *kernel].
    return 2 * int(given[0].size) * int(math.prod(given[1].shape[1:]))


_COUNTS: dict[str, Callable[[Any, Given, Given], int]] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "FusedMatMul": _transposable_product,
    "Gemm": _transposable_product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "MatMulIntegerToFloat": _product,
    "MatMulNBits": _product,
    "MultiHeadAttention": _attention,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _product,
}
