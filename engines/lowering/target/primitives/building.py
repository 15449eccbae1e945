"""What the expansions share: nodes that take the place of one, and the reason why there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from ....graphs.graph import Graph

FLOAT = onnx.TensorProto.FLOAT


class CannotExpand(Exception):
    """An operator has something that its expansion does not compute; the message says what, without naming the node."""


class Builder:
    """The nodes that take the place of one node; the values between them are named after its first output.

    types: element type of every value of the graph, by name. shapes: their extents, None where one varies; a value whose
    number of axes is not known is not there. half_softmax: see Target.
    """

    def __init__(
        self,
        graph: Graph,
        node: Any,
        types: dict[str, int],
        shapes: dict[str, tuple[int | None, ...]],
        half_softmax: bool = False,
    ) -> None:
        self.nodes: list[Any] = []
        self.graph, self.types, self.shapes, self.half_softmax = graph, types, shapes, half_softmax
        self._stem = node.output[0]

    def add(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node of one output and return the output's name."""
        name = output or self.graph.new_name(f"{self._stem}_{op_type.lower()}")
        self.nodes.append(onnx.helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, value: str, count: int, axis: int) -> list[str]:
        """Add a node that cuts a value into equal parts and return their names."""
        names = [self.graph.new_name(f"{self._stem}_part") for _ in range(count)]
        self.nodes.append(onnx.helper.make_node("Split", [value], names, name=names[0], axis=axis, num_outputs=count))
        return names

    def cast(self, value: str, to: int, output: str | None = None) -> str:
        """Add a node that converts a value to an element type."""
        return self.add("Cast", value, output=output, to=to)

    def integers(self, *values: int) -> str:
        """Return the name of an int64 constant, one axis."""
        stem = "_".join(str(value).replace("-", "minus_") for value in values)
        return self.graph.add_constant(f"integers_{stem}", np.array(values, np.int64))

    def number(self, value: float, element_type: int = FLOAT) -> str:
        """Return the name of a scalar constant of a floating point type."""
        name = self.graph.add_constant(f"{self._stem}_constant", np.array(value, np.float32))
        return name if element_type == FLOAT else self.cast(name, element_type)

    def of_constants(self, node: Any) -> bool:
        """Return whether a node reads constants of the graph alone."""
        return all(self.graph.constant(name) is not None for name in node.input if name)

    def element_type(self, value: str) -> int:
        """Return the element type of one of the graph's values; CannotExpand where it cannot be told."""
        if value not in self.types:
            raise CannotExpand(f"the type of its input {value} cannot be told")
        return self.types[value]

    def constant_shape(self, value: str) -> tuple[int, ...] | None:
        """Return the extents of one of the graph's values, None where one of them varies or is not known."""
        tensor = self.graph.constant(value)
        shape = self.shapes.get(value, (None,)) if tensor is None else tuple(tensor.dims)
        known = tuple(extent for extent in shape if extent is not None)
        return known if len(known) == len(shape) else None

    def axes(self, value: str) -> int:
        """Return the number of axes of one of the graph's values; CannotExpand where it cannot be told."""
        if value not in self.shapes:
            raise CannotExpand(f"the number of axes of its input {value} cannot be told")
        return len(self.shapes[value])
