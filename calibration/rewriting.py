"""From a canonical float graph to a canonical quantized one, its weights written one at a time."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

from .forms import BLOCK, LARGEST, Floats, WeightKind, quantize_weight
from .graph_file import GraphFile, Linear

INLINE_BYTES = 1024
ALIGNMENT = 4096
_CHUNK = 2**24
_ONNX_TYPES = {
    "int8": onnx.TensorProto.INT8,
    "int4": onnx.TensorProto.INT4,
    "fp8": onnx.TensorProto.FLOAT8E4M3FN,
}


@dataclass(frozen=True)
class GraphPlan:
    """What becomes of a graph.

    weights: the kind that each linear's weight is stored as; those not named stay as they are.
    ranges: for static activations, the largest magnitude kept of the tensors that quantized linears read (after balancing);
        for those not named, activations stay float32 in the graph.
    factors: float32 [K] by tensor; it is divided by them, and the weights that meet it are multiplied.
    """

    weights: Mapping[str, WeightKind]
    ranges: Mapping[str, float] = field(default_factory=dict)
    factors: Mapping[str, Floats] = field(default_factory=dict)


class WeightFile:
    """A data file that grows tensor by tensor; what was added under a key before is not written again.

    Up to INLINE_BYTES go into the graphs instead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[tuple[str, ...], tuple[int, int]] = {}
        self._inline: dict[tuple[str, ...], bytes] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> WeightFile:
        self._file = self.path.open("xb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def holds(self, key: tuple[str, ...]) -> bool:
        """Tell whether something was added under this key."""
        return key in self._places or key in self._inline

    def add(self, key: tuple[str, ...], content: NDArray[np.uint8]) -> None:
        """Append flat bytes, aligned so that they can be memory-mapped, a chunk at a time."""
        if content.nbytes <= INLINE_BYTES:
            self._inline[key] = content.tobytes()
            return
        if self._file is None:
            raise RuntimeError("the data file is not open")
        step = ALIGNMENT if content.nbytes >= ALIGNMENT else 64
        self._file.write(bytes(-self._file.tell() % step))
        self._places[key] = (self._file.tell(), content.nbytes)
        for start in range(0, content.nbytes, _CHUNK):
            self._file.write(content[start : start + _CHUNK].data)

    def flush(self) -> None:
        """Make what was added readable by others."""
        if self._file is not None:
            self._file.flush()

    def refer(self, tensor: Any, key: tuple[str, ...]) -> None:
        """Make a tensor's data what was added under that key."""
        if key in self._inline:
            tensor.raw_data = self._inline[key]
            return
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        offset, length = self._places[key]
        for name, value in (("location", self.path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=name, value=str(value))


def write_quantized(
    graph: GraphFile,
    plan: GraphPlan,
    target: Path,
    data: WeightFile,
    *,
    copy_others: bool = True,
    leave_out: Container[str] = (),
) -> None:
    """Write a quantized graph to `target` and its weights into `data`, which lies beside it.

    copy_others: copy the weights that stay as they are into `data` too; otherwise they go on referring to the source's data
    file, which must lie beside the target under its own name. leave_out: names of constants that are not copied either way,
    for a caller who takes them out of the graph. Raises BundleError, OSError.
    """
    rewriter = _Rewriter(graph, plan, data)
    nodes = rewriter.nodes()
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.model.graph.output}
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    for name, tensor in graph.initializers.items():
        if name in used:
            copied = copy_others and name not in leave_out
            model.graph.initializer.append(_kept(graph, tensor, data) if copied else tensor)
    model.graph.initializer.extend(rewriter.constants)
    target.write_bytes(model.SerializeToString(deterministic=True))
    data.flush()


class _Rewriter:
    """The nodes of a quantized graph, in order, and the constants that came with them."""

    def __init__(self, graph: GraphFile, plan: GraphPlan, data: WeightFile) -> None:
        self.constants: list[Any] = []
        self._graph = graph
        self._plan = plan
        self._data = data
        self._prepared: dict[str, str] = {}
        self._quantized = {
            linear.position: linear for name, linear in graph.linears.items() if plan.weights.get(name) is not None
        }

    def nodes(self) -> list[Any]:
        """Return all nodes of the new graph, without Casts of weights that are no longer read."""
        made: list[Any] = []
        for position, node in enumerate(self._graph.model.graph.node):
            linear = self._quantized.get(position)
            if linear is None:
                made.append(node)
            else:
                made += self._activations(linear)
                made += self._linear(linear, node)
        read = {name for node in made for name in node.input} | {o.name for o in self._graph.model.graph.output}
        return [node for node in made if node.op_type != "Cast" or node.output[0] in read]

    def _activations(self, linear: Linear) -> list[Any]:
        """Return the nodes that balance and quantize what goes into a linear; once for all linears that read it."""
        value = linear.activations
        if value in self._prepared:
            return []
        nodes = []
        current = value
        factors = self._plan.factors.get(value)
        if factors is not None:
            inverse = self._float_constant(f"{value}_balance", (1 / factors).astype(np.float32))
            current = f"{value}_balanced"
            nodes.append(onnx.helper.make_node("Mul", [value, inverse], [current], name=current))
        largest = self._plan.ranges.get(value)
        if largest is not None:
            kind: WeightKind = "fp8" if self._plan.weights[linear.name] == "fp8" else "int8"
            scale = self._float_constant(f"{value}_scale", np.array(largest / LARGEST[kind], np.float32))
            zero = onnx.TensorProto(name=f"{value}_zero", data_type=_ONNX_TYPES[kind], raw_data=b"\0")
            self.constants.append(zero)
            low, back = f"{value}_quantized", f"{value}_dequantized"
            nodes.append(onnx.helper.make_node("QuantizeLinear", [current, scale, zero.name], [low], name=low))
            nodes.append(onnx.helper.make_node("DequantizeLinear", [low, scale, zero.name], [back], name=back))
            current = back
        self._prepared[value] = current
        return nodes

    def _linear(self, linear: Linear, node: Any) -> list[Any]:
        """Return DequantizeLinear and MatMul; a Gemm becomes a MatMul and an Add, so that engines see one form."""
        kind = self._plan.weights[linear.name]
        values, scales = self._weight(linear, kind)
        weight = f"{linear.name}.weight_dequantized"
        layout = {"axis": 0, "block_size": BLOCK} if kind == "int4" else {"axis": 1}
        nodes = [onnx.helper.make_node("DequantizeLinear", [values, scales], [weight], name=weight, **layout)]
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        product = f"{linear.name}.product" if bias else node.output[0]
        inputs = [self._prepared[linear.activations], weight]
        nodes.append(onnx.helper.make_node("MatMul", inputs, [product], name=linear.name))
        if bias:
            nodes.append(onnx.helper.make_node("Add", [product, bias], [node.output[0]], name=f"{linear.name}.add"))
        return nodes

    def _weight(self, linear: Linear, kind: WeightKind) -> tuple[str, str]:
        factors = self._plan.factors.get(linear.activations)
        form = (linear.name, kind, "as it is" if factors is None else "balanced")
        values_key, scales_key = (*form, "values"), (*form, "scales")
        if not self._data.holds(values_key):
            weight = self._graph.weight(linear)
            if factors is not None:
                weight *= factors[:, None]
            quantized = quantize_weight(weight, kind)
            self._data.add(values_key, quantized.packed())
            self._data.add(scales_key, np.ascontiguousarray(quantized.scales).reshape(-1).view(np.uint8))
        values, scales = f"{linear.name}.weight_{kind}", f"{linear.name}.weight_scale"
        rows = (-(-linear.inputs // BLOCK),) if kind == "int4" else ()
        for name, dtype, shape, key in (
            (values, _ONNX_TYPES[kind], (linear.inputs, linear.outputs), values_key),
            (scales, onnx.TensorProto.FLOAT, (*rows, linear.outputs), scales_key),
        ):
            tensor = onnx.TensorProto(name=name, data_type=dtype, dims=shape)
            self._data.refer(tensor, key)
            self.constants.append(tensor)
        return values, scales

    def _float_constant(self, name: str, array: Floats) -> str:
        key = (name, array.tobytes().hex() if array.ndim == 0 else str(array.size))
        if not self._data.holds(key):
            self._data.add(key, np.atleast_1d(array).view(np.uint8))
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=array.shape)
        self._data.refer(tensor, key)
        self.constants.append(tensor)
        return name


def _kept(graph: GraphFile, tensor: Any, data: WeightFile) -> Any:
    """Return a constant that stays as it is, its data copied; tensors that shared bytes go on sharing them."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return tensor
    place = graph.place(tensor.name)
    key = ("kept", place.get("offset", "0"), place["length"])
    if not data.holds(key):
        data.add(key, graph.read_bytes(tensor.name))
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    data.refer(copy, key)
    return copy
