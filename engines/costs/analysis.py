"""From a model and the shapes of its inputs to what it costs. Imports `onnx` as it loads: import it last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ..graphs.values import Value, propagate
from ..options import Compute
from .figures import GraphCosts, OperatorCosts
from .liveness import Step, peak_bytes
from .products import attention_extents, flops_of, is_product

_FLOAT32 = onnx.TensorProto.FLOAT
_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_BITS = {
    getattr(onnx.TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(onnx.TensorProto, name)
}
_LARGEST_LISTED = 32

_VIEWS = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
_IN_PLACE = frozenset((
    "Abs", "Add", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu",
    "Log", "Mul", "Neg", "Pow", "QuickGelu", "Reciprocal", "Relu", "Round", "Sigmoid", "Sin", "Softmax", "Softplus",
    "Sqrt", "Sub", "Tanh",
))  # fmt: skip
_PARTIAL_READERS = frozenset(("Gather", "GatherElements", "GatherND", "Slice", "Shape", "Size"))
"""Operators that read no more of their first input than they write, if that."""
_RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)


def analyse(content: bytes, shapes: Mapping[str, tuple[int, ...]], compute: Compute) -> GraphCosts:
    """Return what a serialized model costs; see graph_costs.

    Raises ValueError where the content is not an ONNX model, EngineError where a shape does not fit or cannot be told.
    """
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"not an ONNX model: {error}") from error
    return _Analysis(model, propagate(model, shapes), list(shapes), compute).costs()


class _Analysis:
    """One graph whose values are known."""

    def __init__(self, model: Any, values: Mapping[str, Value], inputs: list[str], compute: Compute) -> None:
        self._values = values
        self._inputs = inputs
        self._outputs = [item.name for item in model.graph.output]
        self._float32 = compute == "float32"
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._fused: dict[str, tuple[str, ...]] = {}
        self._nodes = self._running(model.graph.node)
        self._halved = compute != "float32" and not any(
            values[node.output[0]].element in _HALVES for node in self._nodes if is_product(node)
        )
        whole = {name for node in self._nodes if node.op_type not in _PARTIAL_READERS for name in node.input}
        self._as_stored = self._constants - whole

    def costs(self) -> GraphCosts:
        """Return the figures of the whole graph."""
        read = {name for node in self._nodes for name in self._read(node)} | set(self._outputs)
        weights = sorted((self._bytes(name) for name in self._constants & read), reverse=True)
        by_operator: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for node in self._nodes:
            figures = by_operator[node.op_type]
            figures[0] += 1
            figures[1] += flops_of(node, self._all(node.input), self._all(node.output))
            figures[2] += self._moved(node)
        operators = {name: OperatorCosts(*figures) for name, figures in sorted(by_operator.items())}
        sizes = {name: self._bytes(name) for name in self._values if name not in self._constants}
        outputs = [name for name in self._outputs if name in sizes]
        return GraphCosts(
            weight_bytes=sum(weights),
            largest_weights=tuple(weights[:_LARGEST_LISTED]),
            activation_bytes=peak_bytes([self._step(node) for node in self._nodes], sizes, self._inputs, outputs),
            input_bytes=sum(map(self._bytes, self._inputs)),
            output_bytes=sum(map(self._bytes, self._outputs)),
            flops=sum(operator.flops for operator in operators.values()),
            bytes_moved=sum(operator.bytes for operator in operators.values()),
            by_operator=operators,
        )

    def _running(self, nodes: Any) -> list[Any]:
        """Return the nodes that run each time: those that read only constants are computed once, when a graph is opened.

        A weight that is dequantized only to be multiplied with is unpacked inside the product, where the kernels can.
        """
        readers: dict[str, list[Any]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                readers[name].append(node)
        running = []
        for node in nodes:
            constant = all(name in self._constants for name in node.input if name)
            if not constant or node.op_type in _RANDOM:
                running.append(node)
            elif node.op_type != "DequantizeLinear":
                self._constants.update(name for name in node.output if name)
            elif self._is_fused(node) and all(
                self._unpacks(reader, node.output[0]) for reader in readers[node.output[0]]
            ):
                self._fused[node.output[0]] = tuple(name for name in node.input if name)
            else:
                running.append(node)
        return running

    def _is_fused(self, node: Any) -> bool:
        """Return whether products unpack what a DequantizeLinear gives: on the CPU only blocks, which have a kernel there."""
        return not self._float32 or any(item.name == "block_size" and item.i for item in node.attribute)

    def _unpacks(self, reader: Any, weight: str) -> bool:
        return bool(reader.op_type == "MatMul" and reader.input[1] == weight and reader.input[0] != weight)

    def _read(self, node: Any) -> list[str]:
        """Return the names of what a node reads: of an unpacked weight, what it is unpacked from."""
        return [name for given in node.input if given for name in self._fused.get(given, (given,))]

    def _all(self, names: Any) -> list[Value | None]:
        return [self._values[name] if name else None for name in names]

    def _bytes(self, name: str) -> int:
        """Return the bytes that a value takes in the session."""
        value = self._values[name]
        outside = name in self._inputs or name in self._outputs
        bits = _BITS.get(value.element) or 8 * onnx.helper.tensor_dtype_to_np_dtype(value.element).itemsize
        if value.element == _FLOAT32 and self._halved and not outside:
            bits = 16
        elif value.element in _HALVES and self._float32 and not outside and name not in self._as_stored:
            bits = 32
        return (value.size * bits + 7) // 8

    def _moved(self, node: Any) -> int:
        """Return the bytes that a node reads and writes."""
        if node.op_type in _VIEWS:
            return 0
        written = sum(self._bytes(name) for name in node.output if name)
        read = self._read(node)
        if node.op_type in _PARTIAL_READERS:
            return 2 * written + sum(map(self._bytes, read[1:]))
        return written + sum(map(self._bytes, read))

    def _step(self, node: Any) -> Step:
        reads = [name for name in node.input if name and name not in self._constants and name not in self._fused]
        shares = node.op_type in _VIEWS and bool(reads) and reads[0] == node.input[0]
        return Step(
            tuple(reads),
            tuple(name for name in node.output if name),
            shares=shares,
            in_place=node.op_type in _IN_PLACE,
            workspace=self._workspace(node),
        )

    def _workspace(self, node: Any) -> int:
        """Return the bytes that ONNX Runtime's CPU kernels hold beside what a node reads and writes."""
        if not self._float32:
            return 0
        if node.op_type == "MultiHeadAttention":
            return sum(self._bytes(name) for name in node.input[:3])
        if node.op_type == "Attention":
            batch, heads, queries, keys, *_ = attention_extents(node, self._all(node.input))
            scores = batch * heads * queries * keys * 4
            return scores + sum(self._bytes(name) for name in (*node.input[:3], node.output[0]))
        if node.op_type == "Conv" and len(self._values[node.input[0]].shape) == 4:
            return max(self._bytes(node.input[0]), self._bytes(node.output[0]))
        if node.op_type == "Gelu":
            return self._bytes(node.output[0])
        return 0
