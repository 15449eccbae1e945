"""Norms over channels: `ReduceL2` to a convolution with ones, whose kernel reads memory in order.

ONNX Runtime's CPU provider reduces an axis that others lie within number by number: 7 to 8 times as slow.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from ..graphs.graph import Graph, attributes

_CHANNELS = 1
"""The axis that is reduced, of [batch, channels, ...]."""
_DIMENSIONS = (4, 5)
"""Of what a convolution takes."""
_MOST_CHANNELS = 2**14
_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def lower_norms(graph: Graph) -> int:
    """Rewrite every ReduceL2 over channels whose number is known; return how many.

    It is told by what the normed value is multiplied with: a constant [channels, 1, ...] of one axis less. Values must be
    float32, which they are where no half precision is in the graph, or right behind a Cast.
    """
    half = any(node.op_type == "Cast" and attributes(node).get("to") == _HALF for node in graph.nodes)
    readers: dict[str, list[Any]] = {}
    for node in graph.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    count = 0
    for position, node in graph.find("ReduceL2"):
        if half and not _is_widened(graph, node.input[0]):
            continue
        gains = _gains(graph, readers, node) if _is_over_channels(graph, node) else None
        if gains is None:
            continue
        graph.replace(position, _as_convolution(graph, node, gains))
        count += 1
    return count


def _is_widened(graph: Graph, value: str) -> bool:
    maker = graph.maker(value)
    return maker is not None and maker.op_type == "Cast" and attributes(maker).get("to") == _FLOAT


def _is_over_channels(graph: Graph, node: Any) -> bool:
    if len(node.input) != 2 or attributes(node).get("keepdims", 1) != 1:
        return False
    axes = graph.constant(node.input[1])
    if axes is None or axes.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return bool(onnx.numpy_helper.to_array(axes).tolist() == [_CHANNELS])


def _gains(graph: Graph, readers: dict[str, list[Any]], node: Any) -> tuple[int, ...] | None:
    """Return the shape of the constant that the normed value is multiplied with, None where there is no such one."""
    value, divided = node.output[0], None
    while divided is None:
        following = readers.get(value, [])
        if len(following) != 1 or following[0].op_type not in ("Clip", "Max", "Expand", "Cast", "Div"):
            return None
        divided = following[0] if following[0].op_type == "Div" else None
        value = following[0].output[0]
    for product in readers.get(value, []):
        if product.op_type == "Mul":
            others = [name for name in product.input if name != value]
            shape = _constant_shape(graph, others[0]) if others else None
            if shape is not None and len(shape) + 1 in _DIMENSIONS and math.prod(shape) == shape[0] <= _MOST_CHANNELS:
                return shape
    return None


def _constant_shape(graph: Graph, name: str, depth: int = 4) -> tuple[int, ...] | None:
    """Return the shape of a value that is made of constants alone, the longest of theirs."""
    if (constant := graph.constant(name)) is not None:
        return tuple(constant.dims)
    maker = graph.maker(name)
    if maker is None or maker.op_type not in ("Mul", "Cast") or not depth:
        return None
    shapes = [_constant_shape(graph, each, depth - 1) for each in maker.input]
    known = [shape for shape in shapes if shape is not None]
    return max(known, key=lambda shape: (len(shape), math.prod(shape))) if len(known) == len(shapes) else None


def _as_convolution(graph: Graph, node: Any, gains: tuple[int, ...]) -> list[Any]:
    ones = graph.add_constant("ones", np.ones((1, gains[0], *(1 for _ in gains[1:])), np.float32))
    squares, summed = (graph.new_name(f"{node.output[0]}_{part}") for part in ("squares", "summed"))
    make = onnx.helper.make_node
    return [
        make("Mul", [node.input[0], node.input[0]], [squares]),
        make("Conv", [squares, ones], [summed]),
        make("Sqrt", [summed], [node.output[0]]),
    ]
