"""A graph cut into consecutive segments of few weights each, to be opened when their turn comes.

segments = split_model(model, weight_limit)
run one after the other, each on the graph's inputs and what those before it made, they compute what the graph computes

A cut is made only where ONNX Runtime fuses nothing across: what it would fuse is calculated in another order otherwise,
and gives other bits. Weights stay where they are: a segment names the same bytes of the same data file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ...core.errors import EngineError
from ..options import GraphSpecs, TensorInfo
from .graph import MICROSOFT, attributes, names_read

WeightSize = Callable[[str, int], int]
"""(element type, as `float32`, `bfloat16` or `int4`; number of elements) to the bytes that a device holds them in."""

_BITS = {f"{kind}{bits}": bits for kind in ("int", "uint") for bits in (4, 16, 32, 64)}
_BITS |= {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "float4e2m1": 4}
_NAMES = {"float": "float32", "double": "float64"}
_PASSED_ON = {"float32", "float64", "float16", "bool", "int8", "uint8", "int32", "int64"}
"""Element types that an array on the host can have: others do not leave a segment."""

# What ONNX Runtime fuses, or rewrites together, as pairs of operators of which the second reads what the first makes.
_PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "MatMulInteger", "MatMulNBits", "MatMulIntegerToFloat"}
_AFTER_PRODUCTS = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Relu",
    "LeakyRelu",
    "Sigmoid",
    "Tanh",
    "Gelu",
    "Clip",
    "HardSigmoid",
    "Softmax",
}
_AFTER_SUMS = {
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "Gelu",
    "FastGelu",
    "Erf",
    "Sqrt",
}
_WITH_FIRST_READER = {
    *("Cast", "CastLike", "DequantizeLinear", "Pad", "Sigmoid", "Tanh", "Erf", "Softmax"),
    *("Pow", "ReduceMean", "Sqrt", "Reciprocal", "Sub"),  # of norms that an export wrote out
}


@dataclass(frozen=True)
class Segment:
    """A part of a graph as a model of its own.

    inputs: values it takes, of the graph or of segments before it. outputs: values that it makes and that later segments
    or the caller take. weight_bytes: what its weights take once it is open.
    """

    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_bytes: int


def stored_size(element_type: str, count: int) -> int:
    """Return the bytes of a tensor held as it is; types that are not known take a byte for each element."""
    return (count * _BITS.get(element_type, 8) + 7) // 8


def weights_of(model: bytes, weight_size: WeightSize = stored_size) -> int:
    """Return the bytes that all weights of a model take once it is open. Raises EngineError where it is no ONNX model."""
    flow = Flow(model, weight_size)
    return flow.weight(0, len(flow.steps))


def least_weight_limit(model: bytes, weight_size: WeightSize = stored_size) -> int:
    """Return the least limit with which a model can be split. Raises EngineError where it is no ONNX model."""
    flow = Flow(model, weight_size)
    return flow.least_limit(flow.cuts())


def split_model(model: bytes, weight_limit: int, weight_size: WeightSize = stored_size) -> list[Segment]:
    """Cut a model, as it is to be opened, into segments of at most `weight_limit` bytes of weights.

    Of all ways to cut it, one with the fewest values passed on and the fewest segments is taken; a model within the limit
    is one segment. weight_size: what the device makes of a weight, which counts in the type that a Cast gives it. A weight
    read in two segments is in both. Raises EngineError where a part that must stay whole is larger than the limit, naming
    the least that works, and where the model is no ONNX model.
    """
    flow = Flow(model, weight_size)
    cuts = flow.cuts()
    least = flow.least_limit(cuts)
    if least > weight_limit:
        raise EngineError(
            f"a weight budget of {weight_limit} bytes is too small for this graph, "
            f"one part of which has {least} bytes of weights: the least that works is {least}"
        )
    places = _cheapest_places(flow, cuts, weight_limit)
    return [flow.segment(start, end) for start, end in pairwise(places)]


def interface_of(model: bytes) -> GraphSpecs:
    """Return the inputs and outputs of a model. Raises EngineError where it is no ONNX model."""
    graph = _parse(model).graph
    return GraphSpecs(
        inputs={value.name: _tensor_info(value) for value in _caller_gives(graph)},
        outputs={value.name: _tensor_info(value) for value in graph.output},
    )


class Flow:
    """The steps of a graph (the nodes that depend on its inputs, in order) and the constants that they read.

    sizes_are_constants: what is made of the shapes of inputs alone counts as constant, so that each segment makes its own;
    the segment's inputs do not say then whose shapes it reads.
    """

    def __init__(
        self, model: bytes, weight_size: WeightSize | None = None, *, sizes_are_constants: bool = False
    ) -> None:
        self._model = _parse(model)
        self._weight_size = weight_size or stored_size
        graph = self._model.graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {value.name: value for value in _caller_gives(graph)}
        self._outputs = {value.name: value for value in graph.output}
        self._values = _value_types(self._model) | self._inputs | self._outputs
        self._constant_makers: dict[str, Any] = {}
        self.steps: list[Any] = []
        for node in _nodes_read(graph):
            random = node.op_type.startswith("Random")
            of_shape = sizes_are_constants and node.op_type == "Shape" and node.input[0] in self._inputs
            if of_shape or (not random and all(map(self._is_constant, _names_of(node)))):
                self._constant_makers.update(dict.fromkeys(node.output, node))
            else:
                self.steps.append(node)
        self._made = {name: at for at, node in enumerate(self.steps) for name in node.output if name}
        self._readers: dict[str, list[int]] = {name: [] for name in self._made}
        for at, node in enumerate(self.steps):
            for name in _names_of(node):
                if name in self._made and at not in self._readers[name]:
                    self._readers[name].append(at)
        self._constant_outputs = [name for name in self._outputs if self._is_constant(name)]
        self.weights = [dict(self._held(_names_of(node))) for node in self.steps]
        if self.steps:
            self.weights[-1].update(self._held(self._constant_outputs))

    def weight(self, start: int, end: int) -> int:
        """Return the bytes of all weights that the steps from start to end read."""
        held: dict[tuple[str, str], int] = {}
        for weights in self.weights[start:end]:
            held |= weights
        return sum(held.values())

    def cuts(self) -> dict[int, int]:
        """Return the places (before which step) where the steps may be cut, and how many values are passed on there."""
        passed, whole = Counter[int](), set[int]()
        for name, made in self._made.items():
            readers = self._readers[name]
            passed.update(range(made + 1, max(readers, default=made) + 1))
            if _element_type(self._values.get(name)) not in _PASSED_ON:
                together = readers
            else:
                together = [at for at in readers if self._fuses(made, readers, at)]
            whole.update(range(made + 1, max(together, default=made) + 1))
        return {place: passed[place] for place in range(1, len(self.steps)) if place not in whole}

    def passed_on(self, place: int) -> tuple[str, ...]:
        """Return the values made before a place and read after it, in the order in which they are made."""
        return tuple(
            name for name, made in self._made.items() if made < place <= max(self._readers[name], default=made)
        )

    def inputs_read(self, start: int, end: int) -> set[str]:
        """Return the graph's inputs that the steps from start to end read."""
        return {name for node in self.steps[start:end] for name in _names_of(node) if name in self._inputs}

    def least_limit(self, cuts: Iterable[int]) -> int:
        """Return the bytes of weights of the largest part that cannot be cut."""
        return max(self.weight(start, end) for start, end in pairwise([0, *cuts, len(self.steps)]))

    def segment(self, start: int, end: int) -> Segment:
        """Return the steps from start to end as a model."""
        steps = self.steps[start:end]
        made = [name for node in steps for name in node.output if name]
        read = [
            name for name in dict.fromkeys(name for node in steps for name in _names_of(node)) if name not in set(made)
        ]
        inputs = [name for name in read if name in self._inputs or name in self._made]
        outputs = [name for name in made if name in self._outputs or any(at >= end for at in self._readers[name])]
        if end == len(self.steps):
            outputs += self._constant_outputs
        nodes = [*self._constant_nodes([*read, *outputs]), *steps]
        names = {name for node in nodes for name in _names_of(node)} | set(outputs)
        model = onnx.ModelProto(
            ir_version=self._model.ir_version,
            opset_import=self._model.opset_import,
            functions=self._model.functions,
            graph=onnx.GraphProto(
                name=self._model.graph.name,
                node=nodes,
                initializer=[tensor for name, tensor in self._initializers.items() if name in names],
                input=[self._values[name] for name in inputs],
                output=[self._values[name] for name in outputs],
            ),
        )
        content = model.SerializeToString(deterministic=True)
        return Segment(content, tuple(inputs), tuple(outputs), self.weight(start, end))

    def _is_constant(self, name: str) -> bool:
        return name in self._initializers or name in self._constant_makers

    def _fuses(self, made: int, readers: Sequence[int], reader: int) -> bool:
        """Return whether ONNX Runtime may make one operator of a step and one that reads it."""
        first, second = self.steps[made].op_type, self.steps[reader].op_type
        return (
            (first in _WITH_FIRST_READER and reader == readers[0])
            or (first in _PRODUCTS and second in _AFTER_PRODUCTS)
            or (first == "Add" and second in _AFTER_SUMS)
            or (first == second == "Add" and len(readers) == 1)
            or (first == "Transpose" and (second == "Transpose" or second in _PRODUCTS))
            or (first == "QuantizeLinear" and second == "DequantizeLinear")
            or (first in ("Mul", "Div") and second in _PRODUCTS and self._by_constant(made))
        )

    def _by_constant(self, step: int) -> bool:
        return any(map(self._is_constant, self.steps[step].input))

    def _held(self, names: Iterable[str], cast_to: str = "") -> Iterator[tuple[tuple[str, str], int]]:
        """Yield ((initializer, element type it is held in), bytes) of all initializers behind some values.

        ONNX Runtime folds what is computed of constants as it opens a graph, so that a weight is held as its Cast gives
        it; only DequantizeLinear stays.
        """
        for name in names:
            if name in self._initializers:
                tensor = self._initializers[name]
                held_as = cast_to or _type_name(tensor.data_type)
                yield (name, held_as), self._weight_size(held_as, math.prod(tensor.dims))
            elif name in self._constant_makers:
                node = self._constant_makers[name]
                if node.op_type == "DequantizeLinear":
                    yield from self._held(_names_of(node))
                elif node.op_type == "Cast":
                    yield from self._held(node.input, cast_to or _type_name(attributes(node)["to"]))
                else:
                    yield from self._held(_names_of(node), cast_to)

    def _constant_nodes(self, names: Iterable[str]) -> list[Any]:
        """Return the nodes that make constants, those that they need first."""
        nodes: dict[int, Any] = {}
        for name in names:
            node = self._constant_makers.get(name)
            if node is not None and id(node) not in nodes:
                nodes.update({id(needed): needed for needed in self._constant_nodes(_names_of(node))})
                nodes[id(node)] = node
        return list(nodes.values())


def _cheapest_places(flow: Flow, cuts: dict[int, int], limit: int) -> list[int]:
    """Return where to cut, both ends included: the fewest values passed on and parts, none over the limit."""
    places = [0, *cuts, len(flow.steps)]
    cost, before = {0: 0}, {0: 0}
    for index, start in enumerate(places[:-1]):
        held: dict[tuple[str, str], int] = {}
        for place, end in pairwise(places[index:]):
            for weights in flow.weights[place:end]:
                held |= weights
            if sum(held.values()) > limit:
                break
            total = cost[start] + cuts.get(end, 0) + 1
            if total <= cost.get(end, total):
                cost[end], before[end] = total, start
    way = [len(flow.steps)]
    while way[-1]:
        way.append(before[way[-1]])
    return way[::-1]


def _parse(model: bytes) -> Any:
    try:
        return onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise EngineError(f"not an ONNX model: {error}") from error


def _caller_gives(graph: Any) -> list[Any]:
    """Return the inputs of a graph, without constants that old models list among them."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _nodes_read(graph: Any) -> list[Any]:
    """Return the nodes that the outputs depend on, in order."""
    read = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            nodes.append(node)
            read.update(names_read(node))
    return nodes[::-1]


def _names_of(node: Any) -> list[str]:
    """Return what a node reads, each name once."""
    return list(dict.fromkeys(name for name in names_read(node) if name))


def _value_types(model: Any) -> dict[str, Any]:
    """Return the ValueInfoProto of each value whose type onnx can tell. External data is not read."""
    known = onnx.ModelProto()
    known.CopyFrom(model)
    del known.graph.node[:]
    for node in model.graph.node:
        known.graph.node.extend(_stand_ins(node))
    inferred = onnx.shape_inference.infer_shapes(known, data_prop=True)
    return {value.name: value for value in inferred.graph.value_info}


def _stand_ins(node: Any) -> list[Any]:
    """Return standard nodes with outputs of the type and shape of those of a node that onnx does not know."""
    if node.domain != MICROSOFT:
        return [node]
    make, output = onnx.helper.make_node, node.output[0]
    if node.op_type == "MultiHeadAttention":
        return [make("Identity", [node.input[0]], [output])]
    if node.op_type == "MatMulIntegerToFloat":
        factors = [f"{output}:{at}" for at in range(2)]
        casts = [make("CastLike", [node.input[at], node.input[2]], [factors[at]]) for at in range(2)]
        return [*casts, make("MatMul", factors, [output])]
    return [node]


def _type_name(data_type: int) -> str:
    name: str = onnx.TensorProto.DataType.Name(data_type).lower()
    return _NAMES.get(name, name)


def _element_type(value: Any | None) -> str:
    return "unknown" if value is None else _type_name(value.type.tensor_type.elem_type)


def _tensor_info(value: Any) -> TensorInfo:
    sizes = value.type.tensor_type.shape.dim
    return TensorInfo(
        _element_type(value), tuple(size.dim_value if size.HasField("dim_value") else size.dim_param for size in sizes)
    )
