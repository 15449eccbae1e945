"""The element type of every value of a graph, without the data of its weights.

onnx's own inference stops at operators of other domains; these few rules do not.
"""

from __future__ import annotations

from typing import Any

import onnx

from .graph import attributes

_TYPES = onnx.TensorProto
_FIXED = {
    **dict.fromkeys(("Shape", "Size", "NonZero", "ArgMax", "ArgMin"), _TYPES.INT64),
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"), _TYPES.BOOL),
    **dict.fromkeys(("And", "Or", "Not", "Xor", "IsNaN", "IsInf"), _TYPES.BOOL),
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), _TYPES.INT32),
}
_AS_INPUT = {"Where": 1, "DequantizeLinear": 1, "CastLike": 1, "MatMulIntegerToFloat": 2}
"""Operators whose outputs have the type of another input than the first."""


def value_types(model: Any) -> dict[str, int]:
    """Return the TensorProto data type of every value whose type is known, by name."""
    known: dict[str, int] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    known.update((value.name, value.type.tensor_type.elem_type) for value in model.graph.input)
    for node in model.graph.node:
        element_type = _made_by(node, known)
        if element_type is not None:
            known.update((name, element_type) for name in node.output if name)
    return known


def _made_by(node: Any, known: dict[str, int]) -> int | None:
    given = attributes(node)
    if node.op_type == "Cast":
        return int(given["to"])
    if node.op_type in ("If", "Loop", "Scan"):
        return None
    if given.get("output_dtype"):
        return int(given["output_dtype"])
    if node.op_type == "QuantizeLinear":
        return known.get(node.input[2]) if len(node.input) > 2 and node.input[2] else _TYPES.UINT8
    if node.op_type in ("ConstantOfShape", "Constant"):
        return int(given["value"].data_type) if "value" in given else _TYPES.FLOAT
    if node.op_type in _FIXED:
        return int(_FIXED[node.op_type])
    at = _AS_INPUT.get(node.op_type, 0)
    return known.get(node.input[at]) if len(node.input) > at else None
