"""What lowering made of a graph, in numbers to print, and which files a serialized graph's weights are in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.interrupts import interrupts_wait


@dataclass(frozen=True)
class LoweringSummary:
    """before, after: number of nodes by operator. rewrites: how often each was applied.

    float32_nodes, half_nodes: nodes of the lowered graph that make values of that type (half: float16 or bfloat16) out of
    more than constants, conversions apart.
    """

    before: dict[str, int]
    after: dict[str, int]
    rewrites: dict[str, int]
    float32_nodes: int
    half_nodes: int


def describe_lowering(canonical: bytes, lowered: bytes, rewrites: dict[str, int]) -> LoweringSummary:
    """Return what happened between two serialized graphs; needs onnx."""
    with interrupts_wait():
        import onnx

        from ..graphs.value_types import value_types
    before, after = (onnx.ModelProto.FromString(content) for content in (canonical, lowered))
    types = value_types(after)
    constant = {tensor.name for tensor in after.graph.initializer}
    made: Counter[int] = Counter()
    for node in after.graph.node:
        if any(node.input) and all(name in constant for name in node.input if name):
            constant.update(node.output)
        elif node.op_type != "Cast":
            made[types.get(node.output[0], 0)] += 1
    half = made[onnx.TensorProto.FLOAT16] + made[onnx.TensorProto.BFLOAT16]
    return LoweringSummary(_operators(before), _operators(after), dict(rewrites), made[onnx.TensorProto.FLOAT], half)


def graph_data_files(graph_path: Path, model: bytes) -> tuple[Path, ...]:
    """Return the files that a serialized model's weights are in, sorted, each once; needs onnx.

    graph_path: where the canonical graph lies; a lowered one reads the same files, which are named relative to that folder. A
    parser that takes a path beside the bytes (TensorRT's does) finds them when it is given graph_path.
    """
    with interrupts_wait():
        import onnx
    names = {
        entry.value
        for tensor in onnx.ModelProto.FromString(model).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(graph_path.parent / name for name in sorted(names))


def weight_places(model: bytes) -> list[tuple[str, str, int, int | None]]:
    """Return (name, file, offset, length or None for all of the rest) of a serialized model's weights in data files; needs onnx."""
    with interrupts_wait():
        import onnx
    found = []
    for tensor in onnx.ModelProto.FromString(model).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            length = int(place["length"]) if "length" in place else None
            found.append((tensor.name, place["location"], int(place.get("offset", 0)), length))
    return found


def _operators(model: Any) -> dict[str, int]:
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
