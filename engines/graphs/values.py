"""The concrete type and shape of every value in a graph, once its inputs have theirs. Imports `onnx` as it loads.

Nodes are visited in their stored order. The schema of each operator says what comes out of it; values that shapes are
made of (Shape, Gather, Concat, ... on small tensors) are computed on the way. External data is not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ...core.errors import EngineError, brief, one_line
from .contributed import CONTRIBUTED

_STANDARD = ("", "ai.onnx")
_LARGEST_COMPUTED = 4096
"""Elements: what shapes are made of is smaller, and nothing larger is computed here."""
_COMPUTED = frozenset((
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod",
    "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round",
    "ScatterElements", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
))  # fmt: skip


@dataclass(frozen=True)
class Value:
    """Element type (of onnx.TensorProto) and shape of a value, and its content where it is small and known."""

    element: int
    shape: tuple[int, ...]
    content: NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def propagate(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Value]:
    """Return every value of a model's main graph by name, the inputs having these shapes.

    Raises EngineError where the shapes do not fit the inputs, or where a value's shape depends on more than shapes.
    """
    values = {tensor.name: _of_weight(tensor) for tensor in model.graph.initializer}
    values.update(_of_inputs(model, shapes, values))
    visit = _Visitor(model, values)
    for node in model.graph.node:
        visit(node)
    return values


class _Visitor:
    """Adds the outputs of one node after the other to the values known."""

    def __init__(self, model: Any, values: dict[str, Value]) -> None:
        self._opsets = list(model.opset_import)
        self._version = {opset.domain or "": opset.version for opset in self._opsets}
        self._ir_version = model.ir_version
        self._values = values

    def __call__(self, node: Any) -> None:
        unknown = [name for name in node.input if name and name not in self._values]
        if unknown:
            raise EngineError(f"{_label(node)} reads {one_line(unknown[0])!r}, which nothing before it makes")
        given = [self._values[name] if name else None for name in node.input]
        if node.domain in _STANDARD:
            found = self._by_schema(node)
        elif node.op_type in CONTRIBUTED and node.domain == "com.microsoft":
            shapes = CONTRIBUTED[node.op_type](node, given)
            found = [Value(element, shape) for element, shape in shapes]
        else:
            raise EngineError(f"cannot tell what {one_line(node.domain)}.{one_line(node.op_type)} costs")
        contents = self._contents(node, given, found)
        for name, value, content in zip(node.output, found, contents, strict=False):
            if name:
                self._values[name] = Value(value.element, value.shape, content)

    def _by_schema(self, node: Any) -> list[Value]:
        """Return the outputs of a standard operator, as its schema infers them."""
        read = {name: self._values[name] for name in node.input if name}
        types = {name: onnx.helper.make_tensor_type_proto(value.element, value.shape) for name, value in read.items()}
        data = {
            name: onnx.numpy_helper.from_array(value.content, name)
            for name, value in read.items()
            if value.content is not None
        }
        try:
            schema = onnx.defs.get_schema(node.op_type, self._version[""], "")
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._opsets, ir_version=self._ir_version
            )
        except (onnx.shape_inference.InferenceError, onnx.defs.SchemaError, KeyError) as error:
            raise EngineError(f"cannot tell what {_label(node)} gives: {brief(error)}") from error
        return [_of_type(node, inferred.get(name)) if name else Value(0, ()) for name in node.output]

    def _contents(self, node: Any, given: list[Value | None], found: list[Value]) -> list[NDArray[Any] | None]:
        """Return what is known of the content of each output."""
        if node.op_type == "Shape" and given[0] is not None:
            bounds = {item.name: item.i for item in node.attribute}
            shape = given[0].shape[bounds.get("start", 0) : bounds.get("end", len(given[0].shape))]
            return [np.array(shape, np.int64)]
        if node.op_type == "Size" and given[0] is not None:
            return [np.array(given[0].size, np.int64)]
        known = [value is None or value.content is not None for value in given]
        small = all(value.size <= _LARGEST_COMPUTED for value in found)
        if node.op_type not in _COMPUTED or node.domain not in _STANDARD or not all(known) or not small:
            return [None] * len(found)
        return self._computed(node, given)

    def _computed(self, node: Any, given: list[Value | None]) -> list[NDArray[Any] | None]:
        inputs = [name for name in dict.fromkeys(node.input) if name]
        function = onnx.helper.make_function("edgereel", "one", inputs, list(node.output), [node], self._opsets)
        feeds = {name: value.content for name, value in zip(node.input, given, strict=True) if value is not None}
        try:
            outputs: list[Any] = ReferenceEvaluator(function).run(None, feeds, attributes={})
        except Exception as error:  # whatever numpy says of content that an operator cannot take
            raise EngineError(f"cannot tell what {_label(node)} gives: {brief(error)}") from error
        return [np.asarray(output) for output in outputs]


def _of_weight(tensor: Any) -> Value:
    shape = tuple(tensor.dims)
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL and math.prod(shape) <= _LARGEST_COMPUTED
    return Value(tensor.data_type, shape, onnx.numpy_helper.to_array(tensor) if inside else None)


def _of_inputs(model: Any, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, Value]) -> dict[str, Value]:
    inputs = {item.name: item.type.tensor_type for item in model.graph.input if item.name not in weights}
    if set(inputs) != set(shapes):
        raise EngineError(f"the graph's inputs are {sorted(inputs)}, the shapes are of {sorted(shapes)}")
    for name, tensor in inputs.items():
        fixed = [item.dim_value if item.HasField("dim_value") else None for item in tensor.shape.dim]
        given = shapes[name]
        fits = len(fixed) == len(given) and all(want in (None, have) for want, have in zip(fixed, given, strict=True))
        if not fits or any(extent < 0 for extent in given):
            raise EngineError(f"input {name} is {[extent or '?' for extent in fixed]}: {list(given)} does not fit")
    return {name: Value(tensor.elem_type, tuple(map(int, shapes[name]))) for name, tensor in inputs.items()}


def _of_type(node: Any, found: Any | None) -> Value:
    tensor = None if found is None else found.tensor_type
    if tensor is None or not tensor.HasField("shape"):
        raise EngineError(f"cannot tell the shape that {_label(node)} gives")
    extents = tuple(item.dim_value if item.HasField("dim_value") else -1 for item in tensor.shape.dim)
    if any(extent < 0 for extent in extents):
        raise EngineError(f"cannot tell the shape that {_label(node)} gives: {list(extents)}")
    return Value(tensor.elem_type, extents)


def _label(node: Any) -> str:
    return f"{one_line(node.op_type)} {one_line(node.name or node.output[0])!r}"
