"""Adaptive norms of one clip at a time: what scales and shifts a LayerNormalization becomes its scale and bias.

(x̂ · s + t) with s, t [1, 1, C] is what the operator computes with s and t [C], in one kernel instead of three: on ONNX
Runtime's CUDA provider, which fuses none of this, two passes over all tokens in float32 less. It holds for a batch of one alone.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx

from ...graphs.graph import Graph, attributes, names_read

Shapes = dict[str, tuple[int | None, ...]]
_RANK = 3


def fold_modulation(graph: Graph, shapes: Shapes) -> int:
    """Fold every Mul and Add behind a plain LayerNormalization into it; return how many norms were changed.

    shapes: extents of the graph's values, None where one varies; a batch that varies is taken to be one, and any other fails
    where the scale is reshaped.
    """
    reads = Counter(name for node in graph.nodes for name in names_read(node))
    count = 0
    for position, add in graph.find("Add"):
        found = _modulated(graph, add, shapes, reads)
        if found is None:
            continue
        norm, scale, shift, width = found
        to = graph.add_constant(f"width_{width}", np.array([width], np.int64))
        flat = [graph.new_name(f"{name}_flat") for name in (scale, shift)]
        nodes = [
            onnx.helper.make_node("Reshape", [name, to], [made], name=made)
            for name, made in zip((scale, shift), flat, strict=True)
        ]
        kept = {name: value for name, value in attributes(norm).items() if name in ("axis", "epsilon", "stash_type")}
        nodes.append(
            onnx.helper.make_node("LayerNormalization", [norm.input[0], *flat], [add.output[0]], name=norm.name, **kept)
        )
        graph.replace(position, nodes)
        count += 1
    return count


def _modulated(graph: Graph, add: Any, shapes: Shapes, reads: Counter[str]) -> tuple[Any, str, str, int] | None:
    """Return the norm, scale, shift and width of x̂ · scale + shift, None where a node is none of this."""
    for product, shift in (add.input[:2], reversed(add.input[:2])):
        mul = graph.maker(product)
        if mul is None or mul.op_type != "Mul" or reads[product] != 1:
            continue
        for normal, scale in (mul.input[:2], reversed(mul.input[:2])):
            norm = graph.maker(normal)
            if norm is None or norm.op_type != "LayerNormalization" or reads[normal] != 1 or not _is_plain(graph, norm):
                continue
            width = int(graph.constant(norm.input[1]).dims[0])  # type: ignore[union-attr]
            if all(_is_one_row(shapes.get(name), width) for name in (scale, shift)):
                return norm, scale, shift, width
    return None


def _is_plain(graph: Graph, norm: Any) -> bool:
    """Return whether a norm over the last axis has a scale of ones and no bias."""
    scale = graph.constant(norm.input[1])
    if scale is None or len(scale.dims) != 1 or any(norm.input[2:]) or any(norm.output[1:]):
        return False
    if scale.data_location == onnx.TensorProto.EXTERNAL or attributes(norm).get("axis", -1) != -1:
        return False
    return bool((onnx.numpy_helper.to_array(scale) == 1).all())


def _is_one_row(shape: tuple[int | None, ...] | None, width: int) -> bool:
    return shape is not None and len(shape) == _RANK and shape[0] in (None, 1) and shape[1:] == (1, width)
