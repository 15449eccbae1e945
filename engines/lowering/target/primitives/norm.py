"""`RMSNormalization` as a mean of squares, in float32; `LayerNormalization` with all of its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....graphs.graph import attributes
from .building import FLOAT, Builder, CannotExpand


def expand_rms_norm(node: Any, builder: Builder) -> None:
    """Add the nodes of x / sqrt(mean(x²) + epsilon) · weight; the mean is over the last axes, from `axis` on."""
    given = attributes(node)
    value, weight = node.input[:2]
    axis = given.get("axis", -1)
    axis = axis if axis < 0 else axis - builder.axes(value)
    element_type = builder.element_type(value)
    wide = value if element_type == FLOAT else builder.cast(value, FLOAT)
    mean = builder.add("ReduceMean", builder.add("Mul", wide, wide), builder.integers(*range(axis, 0)), keepdims=1)
    root = builder.add("Sqrt", builder.add("Add", mean, builder.number(given.get("epsilon", 1e-5))))
    normal = builder.add("Div", wide, root)
    normal = normal if element_type == FLOAT else builder.cast(normal, element_type)
    builder.add("Mul", normal, weight, output=node.output[0])


def add_layer_norm_bias(node: Any, builder: Builder) -> None:
    """Add the same LayerNormalization with a bias of zeros: importers in older releases of TensorRT read one unasked."""
    scale = node.input[1]
    shape = builder.constant_shape(scale)
    if shape is None:
        raise CannotExpand(f"the shape of its scale {scale} cannot be told")
    zeros = builder.graph.add_constant("zeros", np.zeros(shape, np.float32))
    element_type = builder.element_type(scale)
    bias = zeros if element_type == FLOAT else builder.cast(zeros, element_type)
    builder.add(node.op_type, *node.input[:2], bias, output=node.output[0], **attributes(node))
    builder.nodes[-1].name = node.name
