"""A decoder's graph cut in two: what has to see the whole picture or clip, and what may see a tile or window of it.

front = cut_part(content, "front", "decoder_next.onnx")     latent and its states -> hidden_00, ... and their next states
rear = cut_part(content, "rear", "decoder_next.onnx")       hidden_00, ... and its states -> frames and their next states

Where to cut is told in places.py. The sizes that a part calculates with are those of its own inputs, so that the rear takes
any part of the picture or clip. Weights stay where they are: a part names the same bytes of the same data file. Imports `onnx`
as it loads: import it last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from ...core.errors import EngineError, one_line
from ..options import Part
from .extents import Extent, parse_extent
from .graph import attributes
from .places import CLIP, Dimensions, dimensions, extents_of, place_in_space, place_in_time, probe
from .segments import Flow


def cut_part(content: bytes, part: Part, name: str) -> bytes:
    """Return one part of a serialized model. name: the graph's, for messages.

    The values that are passed on are called hidden_00, hidden_01, ... A graph of one latent frame without Attention is all
    rear. Raises EngineError where there is no front, or where the graph cannot be cut or read.
    """
    flow = Flow(content, sizes_are_constants=True)
    model = onnx.ModelProto.FromString(content)
    last = max((at for at, node in enumerate(flow.steps) if node.op_type == "Attention"), default=-1)
    whole_clip = any(value.name == CLIP for value in model.graph.input)
    if last < 0 and not whole_clip:
        if part == "front":
            raise EngineError(f"{one_line(name)} has no Attention, and so no front: it is all rear")
        return content
    probed = probe(model, name)
    place = (place_in_time if whole_clip else place_in_space)(flow, last, probed, name)
    passed_on = {value: f"hidden_{number:02d}" for number, value in enumerate(flow.passed_on(place))}
    hidden = [
        onnx.helper.make_tensor_value_info(called, probed[0][value].element, dimensions(value, probed))
        for value, called in passed_on.items()
    ]
    if part == "front":
        return _front(flow.segment(0, place).model, passed_on, hidden, model, name)
    return _rear(flow.segment(place, len(flow.steps)).model, passed_on, hidden, model, name)


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
    taken = {value.name: extents_of(value) for value in model.graph.input}
    left_out = {value.name: extents_of(value) for value in whole.graph.input if value.name not in taken}
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
    nodes = [
        made
        for extent, piece in zip(extents, pieces, strict=True)
        for made in _extent_nodes(extent, piece, taken, name)
    ]
    return nodes if len(pieces) == 1 else [*nodes, onnx.helper.make_node("Concat", pieces, [node.output[0]], axis=0)]


def _extent_nodes(extent: int | str, output: str, taken: Mapping[str, Dimensions], name: str) -> list[Any]:
    """Return nodes that give one extent: read where an input has it, calculated where one has a multiple of it."""
    if isinstance(extent, int):
        return [onnx.helper.make_node("Constant", [], [output], value_ints=[extent])]
    for value, extents in taken.items():
        for at, each in enumerate(extents):
            had = parse_extent(str(each))
            if extent and had is not None and had.name == extent:
                return _inverted(had, value, at, output)
    raise EngineError(f"{one_line(name)} cannot be cut: nothing in one part of it has the extent {one_line(extent)!r}")


def _inverted(had: Extent, value: str, at: int, output: str) -> list[Any]:
    """Return nodes that calculate (x + less) / factor of the extent x that a value has at an axis."""
    make = onnx.helper.make_node
    steps = [("Add", had.less)] * (had.less > 0) + [("Div", had.factor)] * (had.factor > 1)
    names = [f"{output}_of_{step}" for step in range(len(steps))] + [output]
    nodes = [make("Shape", [value], [names[0]], start=at, end=at + 1)]
    for step, (operator, number) in enumerate(steps):
        constant = f"{names[step]}_number"
        nodes.append(make("Constant", [], [constant], value_ints=[number]))
        nodes.append(make(operator, [names[step], constant], [names[step + 1]]))
    return nodes
