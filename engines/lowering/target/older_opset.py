"""From the canonical graphs' opset down to a target's: signatures that changed, and a refusal of what is not there."""

from __future__ import annotations

from typing import Any

import onnx

from ...graphs.graph import Graph, attributes
from .primitives.building import CannotExpand

_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
_AXES_BECAME_AN_INPUT = 18
_NEW_VALUES: dict[tuple[str, str], tuple[int, set[bytes]]] = {
    ("Pad", "mode"): (19, {b"wrap"}),
    ("Resize", "coordinate_transformation_mode"): (19, {b"half_pixel_symmetric"}),
    ("ScatterElements", "reduction"): (18, {b"max", b"min"}),
    ("ScatterND", "reduction"): (18, {b"max", b"min"}),
}
"""Values of attributes that older versions of an operator do not know, and the opset since which they exist."""


def lower_opset(node: Any, graph: Graph, opset: int, types: dict[str, int]) -> Any:
    """Return a standard node as an opset has it: the node itself where nothing changed.

    Raises CannotExpand, saying why, where that opset has no such operator, or not with these inputs, types or attributes.
    """
    node = _with_axes_as_attribute(node, graph, opset) if node.op_type in _REDUCTIONS else node
    try:
        schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset, domain="")
    except onnx.defs.SchemaError:
        raise CannotExpand(f"opset {opset} has no such operator") from None
    if schema.deprecated:
        raise CannotExpand(f"opset {opset} has no such operator")
    node = _without_new_attributes(node, schema, opset)
    if len(node.input) > schema.max_input:
        raise CannotExpand(f"opset {opset} has no input {len(node.input)} of it")
    _check_types(node, schema, types, opset)
    return node


def accepts(op_type: str, element_type: int, opset: int) -> bool:
    """Return whether an opset has an operator for first inputs of a type."""
    try:
        schema = onnx.defs.get_schema(op_type, max_inclusive_version=opset, domain="")
    except onnx.defs.SchemaError:
        return True  # one that will be expanded
    return not schema.inputs or _tensor(element_type) in _allowed(schema, 0)


def _with_axes_as_attribute(node: Any, graph: Graph, opset: int) -> Any:
    if opset >= _AXES_BECAME_AN_INPUT or len(node.input) < 2 or not node.input[1]:
        return node
    axes = graph.constant(node.input[1])
    if axes is None or axes.data_location == onnx.TensorProto.EXTERNAL:
        raise CannotExpand(f"opset {opset} needs constant axes")
    given = attributes(node)
    values = [int(axis) for axis in onnx.numpy_helper.to_array(axes)]
    if not values and given.get("noop_with_empty_axes", 0):
        return onnx.helper.make_node("Identity", [node.input[0]], list(node.output), name=node.name)
    some = {"axes": values} if values else {}
    keep = given.get("keepdims", 1)
    return onnx.helper.make_node(
        node.op_type, [node.input[0]], list(node.output), name=node.name, keepdims=keep, **some
    )


def _without_new_attributes(node: Any, schema: Any, opset: int) -> Any:
    """Return a node without the attributes that its older version lacks, where they say what that version does."""
    newest = onnx.defs.get_schema(node.op_type, domain="")
    kept = []
    for item in node.attribute:
        value = onnx.helper.get_attribute_value(item)
        since, values = _NEW_VALUES.get((node.op_type, item.name), (0, set()))
        if opset < since and value in values:
            raise CannotExpand(f"opset {opset} does not have its {item.name} {value.decode()!r}")
        if item.name in schema.attributes:
            kept.append(item)
        elif (node.op_type, item.name) != ("Split", "num_outputs") and not _is_default(newest, item.name, value):
            raise CannotExpand(f"opset {opset} does not have its attribute {item.name}")
    if len(kept) == len(node.attribute):
        return node
    older = onnx.NodeProto()
    older.CopyFrom(node)
    del older.attribute[:]
    older.attribute.extend(kept)
    return older


def _is_default(schema: Any, name: str, value: Any) -> bool:
    known = schema.attributes.get(name)
    if known is None or not known.default_value.type:
        return not value
    return bool(onnx.helper.get_attribute_value(known.default_value) == value)


def _check_types(node: Any, schema: Any, types: dict[str, int], opset: int) -> None:
    for at, name in enumerate(node.input):
        if name in types and schema.inputs and _tensor(types[name]) not in _allowed(schema, at):
            raise CannotExpand(f"opset {opset} does not have it for {_tensor(types[name])} ({name})")


def _allowed(schema: Any, at: int) -> set[str]:
    """Return the types that an input may have; the last formal input stands for all that follow it."""
    formal = schema.inputs[min(at, len(schema.inputs) - 1)]
    return set(formal.types)


def _tensor(element_type: int) -> str:
    return f"tensor({onnx.TensorProto.DataType.Name(element_type).lower()})"
