"""The state that one run of a decoder or encoder hands on to the next: float16 where products are, half of the memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from ...graphs.graph import Graph

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
_STATE = "state_"


def narrow_state(model: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Declare the float32 states of a model float16, in place. Within, they have other names, which are float32 still.

    Returns the inputs and the outputs that are states now in float16, by their names within: whoever lowers the model makes
    the one of the other. The last convolution that reads a state calculates in float16, so that little is lost.
    """
    graph = Graph(model)
    given, made = ({graph.new_name(f"{value.name}_float32"): value for value in _states(ends)}
                   for ends in (model.graph.input, model.graph.output))  # fmt: skip
    for value in (*given.values(), *made.values()):
        value.type.tensor_type.elem_type = FLOAT16
    within = {value.name: name for name, value in (*given.items(), *made.items())}
    for node in model.graph.node:
        _rename(node, within)
    return {name: value.name for name, value in given.items()}, {name: value.name for name, value in made.items()}


def give_states(nodes: list[Any], states: dict[str, str], inputs: Iterable[str]) -> None:
    """Let what float16 values are called become the names of the outputs that they are: {output: value}.

    A value that is an input, or another output too, is copied under the name.
    """
    taken = set(inputs)
    renamed: dict[str, str] = {}
    for output, value in states.items():
        if value in taken:
            source = renamed.get(value, value)
            nodes.append(onnx.helper.make_node("Identity", [source], [output], name=output))
        else:
            renamed[value] = output
            taken.add(value)
    for node in nodes:
        _rename(node, renamed)


def _states(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value.name.startswith(_STATE) and value.type.tensor_type.elem_type == FLOAT]


def _rename(node: Any, names: dict[str, str]) -> None:
    for values in (node.input, node.output):
        for place, name in enumerate(values):
            values[place] = names.get(name, name)
