"""A decoder's graph cut in two: what has to see the whole picture, and what may see a tile of it.

front = cut_part(content, "front", "decoder_next.onnx")     latent and its states -> hidden_00, ... and their next states
rear = cut_part(content, "rear", "decoder_next.onnx")       hidden_00, ... and its states -> frames and their next states

The front ends with the last Attention or a little after it, where few values of the size of the latents are passed on. The
sizes that a part calculates with are those of its own inputs, so that the rear takes any part of the picture. Weights stay
where they are: a part names the same bytes of the same data file. Imports `onnx` as it loads: import it last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from ...core.errors import EngineError, one_line
from ..options import Part
from .extents import parse_extent
from .graph import attributes, names_read
from .segments import Flow
from .values import Value, propagate

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_PROBES = (
    {"batch": 1, "frames": 3, "height": 10, "width": 14},
    {"batch": 2, "frames": 5, "height": 22, "width": 26},
)
"""Two sizes to see at which extents of inner values vary, and how. Even, as patches may have it."""
_PICTURES = "frames"
_MAP_AXES = 5
_MOST_PASSED_ON = 2
"""Values that the front hands on: one, and in residual decoders what goes around the next block."""
Dimensions = tuple[int | str, ...]


def cut_part(content: bytes, part: Part, name: str) -> bytes:
    """Return one part of a serialized model. name: the graph's, for messages.

    The values that are passed on are called hidden_00, hidden_01, ... A graph without Attention is all rear. Raises
    EngineError where there is no front, or where the graph cannot be cut or read.
    """
    flow = Flow(content, sizes_are_constants=True)
    last = max((at for at, node in enumerate(flow.steps) if node.op_type == "Attention"), default=None)
    if last is None:
        if part == "front":
            raise EngineError(f"{one_line(name)} has no Attention, and so no front: it is all rear")
        return content
    model = onnx.ModelProto.FromString(content)
    probed = _probe(model, name)
    place = _place(flow, last, probed, name)
    passed_on = {value: f"hidden_{number:02d}" for number, value in enumerate(flow.passed_on(place))}
    hidden = [
        onnx.helper.make_tensor_value_info(called, probed[0][value].element, _dimensions(value, probed))
        for value, called in passed_on.items()
    ]
    if part == "front":
        return _front(flow.segment(0, place).model, passed_on, hidden, model, name)
    return _rear(flow.segment(place, len(flow.steps)).model, passed_on, hidden, model, name)


def _place(flow: Flow, last: int, probed: list[dict[str, Value]], name: str) -> int:
    """Return before which step to cut: after the last Attention, as late as what is passed on is as large as just after it.

    The less the rear has to do with its neighbourhood, the less tiles must overlap; what works at the latents' size takes
    little. `decoder_first` and `decoder_next` are cut alike by that, since they differ only where time is upsampled, after
    it. Where the same values are passed on at several places, the first of these is meant.
    """
    leading = _leading_to_pictures(flow)
    places: dict[tuple[str, ...], int] = {}
    for place in sorted(flow.cuts()):
        passed_on = flow.passed_on(place)
        apart = not flow.inputs_read(0, place) & flow.inputs_read(place, len(flow.steps))
        maps = all(value in leading and _is_map(value, probed) for value in passed_on)
        if place > last and 0 < len(passed_on) <= _MOST_PASSED_ON and maps and apart:
            places.setdefault(passed_on, place)
    if not places:
        raise EngineError(
            f"{one_line(name)} cannot be cut after its last Attention: it cannot be decoded in tiles, choose a smaller size"
        )
    shapes = {place: {probed[0][value].shape for value in values} for values, place in places.items()}
    return max(place for place in shapes if shapes[place] == shapes[min(shapes)])


def _leading_to_pictures(flow: Flow) -> set[str]:
    """Return the values that the pictures depend on; states alone may depend on others."""
    leading = {_PICTURES}
    for node in reversed(flow.steps):
        if leading.intersection(node.output):
            leading.update(names_read(node))
    return leading


def _is_map(value: str, probed: list[dict[str, Value]]) -> bool:
    """Return whether a value can be cut into tiles: [batch, channels, time, height, width] by any factor."""
    extents = [str(extent).partition("*") for extent in _dimensions(value, probed)]
    named = [name for name, _, _ in extents]
    same_factor = extents[-1][2] == extents[-2][2] if len(extents) == _MAP_AXES else False
    return probed[0][value].element in _FLOATS and named[3:] == ["height", "width"] and same_factor


def _front(content: bytes, passed_on: Mapping[str, str], hidden: list[Any], whole: Any, name: str) -> bytes:
    model = onnx.ModelProto.FromString(content)
    outputs = {value.name for value in whole.graph.output}
    kept = [value for value in model.graph.output if value.name in outputs]
    del model.graph.output[:]
    model.graph.output.extend([*hidden, *kept])
    model.graph.node.extend(onnx.helper.make_node("Identity", [value], [called]) for value, called in passed_on.items())
    return _finished(model, whole, name)


def _rear(content: bytes, passed_on: Mapping[str, str], hidden: list[Any], whole: Any, name: str) -> bytes:
    model = onnx.ModelProto.FromString(content)
    kept = [value for value in model.graph.input if value.name not in passed_on]
    nodes = [onnx.helper.make_node("Identity", [called], [value]) for value, called in passed_on.items()]
    nodes += model.graph.node
    del model.graph.input[:], model.graph.node[:]
    model.graph.input.extend([*hidden, *kept])
    model.graph.node.extend(nodes)
    return _finished(model, whole, name)


def _finished(model: Any, whole: Any, name: str) -> bytes:
    """Return a part serialized, its sizes taken from its own inputs and these in the order of the whole graph's."""
    order = [value.name for value in (*whole.graph.input, *whole.graph.output)]
    for values in (model.graph.input, model.graph.output):
        ordered = sorted(values, key=lambda value: order.index(value.name) if value.name in order else -1)
        del values[:]
        values.extend(ordered)
    taken = {value.name: _extents(value) for value in model.graph.input}
    left_out = {value.name: _extents(value) for value in whole.graph.input if value.name not in taken}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] in left_out:
            nodes += _shape_of_others(node, left_out[node.input[0]], taken, name)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _shape_of_others(node: Any, wanted: Dimensions, taken: Mapping[str, Dimensions], name: str) -> list[Any]:
    """Return nodes that give the same extents as a Shape does, of inputs that there are."""
    given = attributes(node)
    extents = wanted[given.get("start", 0) : given.get("end", len(wanted))]
    pieces = [f"{node.output[0]}_{at}" for at in range(len(extents))] if len(extents) != 1 else [node.output[0]]
    nodes = [_extent_node(extent, piece, taken, name) for extent, piece in zip(extents, pieces, strict=True)]
    return nodes if len(nodes) == 1 else [*nodes, onnx.helper.make_node("Concat", pieces, [node.output[0]], axis=0)]


def _extent_node(extent: int | str, output: str, taken: Mapping[str, Dimensions], name: str) -> Any:
    if isinstance(extent, int):
        return onnx.helper.make_node("Constant", [], [output], value_ints=[extent])
    for value, extents in taken.items():
        if extent and extent in extents:
            at = extents.index(extent)
            return onnx.helper.make_node("Shape", [value], [output], start=at, end=at + 1)
    raise EngineError(f"{one_line(name)} cannot be cut: nothing in one part of it has the extent {one_line(extent)!r}")


def _probe(model: Any, name: str) -> list[dict[str, Value]]:
    """Return all values of a model at each of the probes' sizes."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: _extents(value) for value in model.graph.input if value.name not in constants}
    return [
        propagate(model, {value: _sizes(extents, probe, name) for value, extents in inputs.items()})
        for probe in _PROBES
    ]


def _sizes(extents: Dimensions, probe: Mapping[str, int], name: str) -> tuple[int, ...]:
    sizes = []
    for extent in extents:
        parsed = (str(extent), 1) if isinstance(extent, int) else parse_extent(extent)
        if parsed is None or not (isinstance(extent, int) or parsed[0] in probe):
            raise EngineError(
                f"{one_line(name)} has the extent {one_line(str(extent))!r}: its parts cannot be told apart"
            )
        sizes.append(extent if isinstance(extent, int) else probe[parsed[0]] * parsed[1])
    return tuple(sizes)


def _dimensions(value: str, probed: list[dict[str, Value]]) -> list[int | str | None]:
    """Return the extents of an inner value in terms of what the inputs' extents are named after, None where it has none."""
    dimensions: list[int | str | None] = []
    for sizes in zip(*(values[value].shape for values in probed), strict=True):
        if len(set(sizes)) == 1:
            dimensions.append(sizes[0])
            continue
        found = None
        for extent in _PROBES[0]:
            factors = {size / probe[extent] for size, probe in zip(sizes, _PROBES, strict=True)}
            factor = factors.pop()
            if not factors and factor == int(factor):
                found = extent if factor == 1 else f"{extent}*{int(factor)}"
        dimensions.append(found)
    return dimensions


def _extents(value: Any) -> Dimensions:
    return tuple(
        int(each.dim_value) if each.HasField("dim_value") else str(each.dim_param)
        for each in value.type.tensor_type.shape.dim
    )
