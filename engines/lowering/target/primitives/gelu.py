"""`Gelu` by its error function or by its tanh approximation, in float32."""

from __future__ import annotations

import math
from typing import Any

from ....graphs.graph import attributes
from .building import FLOAT, Builder, CannotExpand


def expand_gelu(node: Any, builder: Builder) -> None:
    """Add the nodes of x / 2 · (1 + erf(x / sqrt 2)), or of x / 2 · (1 + tanh(sqrt(2 / π) · (x + 0.044715 x³)))."""
    approximation = attributes(node).get("approximate", b"none").decode()
    element_type = builder.element_type(node.input[0])
    value = node.input[0] if element_type == FLOAT else builder.cast(node.input[0], FLOAT)
    if approximation == "none":
        bend = builder.add("Erf", builder.add("Mul", value, builder.number(math.sqrt(0.5))))
    elif approximation == "tanh":
        square = builder.add("Mul", value, value)
        slope = builder.add("Mul", square, builder.number(0.044715 * math.sqrt(2 / math.pi)))
        slope = builder.add("Add", slope, builder.number(math.sqrt(2 / math.pi)))
        bend = builder.add("Tanh", builder.add("Mul", value, slope))
    else:
        raise CannotExpand(f"the approximation {approximation!r} (approximate)")
    half = builder.add("Mul", value, builder.number(0.5))
    gate = builder.add("Add", bend, builder.number(1.0))
    if element_type == FLOAT:
        builder.add("Mul", half, gate, output=node.output[0])
    else:
        builder.cast(builder.add("Mul", half, gate), element_type, output=node.output[0])
