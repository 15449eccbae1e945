"""A bundle's graph as it is on disk: its linears found, its weights read one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ..core.errors import BundleError, UsageError
from ..engines.graphs.read import reading

_FLOATS = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Linear:
    """A matrix product of activations with a constant weight.

    name: of its node, which export makes the torch module's. position: of its node. activations: the tensor that goes in.
    weight: the initializer, [inputs, outputs], or the other way round where `transposed`. stored_bytes: that it takes.
    """

    name: str
    position: int
    activations: str
    weight: str
    inputs: int
    outputs: int
    transposed: bool
    stored_bytes: int


class GraphFile:
    """An ONNX graph without its external data, which stays memory-mapped on disk.

    linears: by name, in the graph's order.
    """

    def __init__(self, path: Path, name: str) -> None:
        """name: the graph's name among the roles. Raises BundleError, EngineError, UsageError where it is quantized already."""
        self.path = path
        self.name = name
        with reading(path.name):
            self._read()

    def _read(self) -> None:
        path = self.path
        try:
            self.model = onnx.load(path, load_external_data=False)
        except (OSError, DecodeError) as error:
            raise BundleError(f"{path}: cannot be read as an ONNX graph: {error}") from error
        self.initializers = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._makers = {output: node for node in self.model.graph.node for output in node.output}
        if any(node.op_type in ("DequantizeLinear", "QuantizeLinear") for node in self.model.graph.node):
            raise UsageError(f"{path}: is quantized already: quantize the bundle that was exported")
        self.linears = self._find_linears()

    def read(self, name: str) -> NDArray[Any]:
        """Return an initializer's values in the type they are stored in; those in the data file are memory-mapped."""
        tensor = self.initializers[name]
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        dtype = _FLOATS.get(tensor.data_type) or np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        content = self.read_bytes(name)
        if content.nbytes != int(np.prod(tensor.dims, dtype=np.int64)) * dtype.itemsize:
            raise BundleError(f"{self.path}: {name} does not have the bytes that its shape takes")
        values: NDArray[Any] = content.view(dtype).reshape(tuple(tensor.dims))
        return values

    def read_bytes(self, name: str) -> NDArray[np.uint8]:
        """Return the memory-mapped bytes of an initializer in the data file."""
        place = self.place(name)
        content: NDArray[np.uint8] = np.memmap(
            self.path.parent / place["location"], np.uint8, "r", int(place.get("offset", 0)), int(place["length"])
        )
        return content

    def place(self, name: str) -> dict[str, str]:
        """Return location, offset and length of an initializer in the data file, as the graph writes them."""
        return {entry.key: entry.value for entry in self.initializers[name].external_data}

    def weight(self, linear: Linear) -> NDArray[np.float32]:
        """Return a linear's weight as float32 [inputs, outputs]. Raises BundleError where it is not finite."""
        stored = self.read(linear.weight)
        weight = np.ascontiguousarray((stored.T if linear.transposed else stored).astype(np.float32))
        if not np.isfinite(weight).all():
            raise BundleError(f"{self.path}: the weight of {linear.name} has values that are not finite numbers")
        return weight

    def _find_linears(self) -> dict[str, Linear]:
        found: dict[str, Linear] = {}
        for position, node in enumerate(self.model.graph.node):
            transposed = _is_transposed(node)
            stored = None if transposed is None else self._stored_weight(node.input[1])
            if transposed is None or stored is None:
                continue
            name = node.name or f"node_{position}"
            name = name if name not in found else f"{name}@{position}"
            inputs, outputs = reversed(stored.dims) if transposed else stored.dims
            size = int(np.prod(stored.dims)) * _FLOATS[stored.data_type].itemsize
            found[name] = Linear(
                name, position, node.input[0], stored.name, int(inputs), int(outputs), transposed, size
            )
        return found

    def _stored_weight(self, value: str) -> Any | None:
        """Return the constant matrix that a value is, seen through a Cast; None where it is none."""
        maker = self._makers.get(value)
        if maker is not None and maker.op_type == "Cast":
            value = maker.input[0]
        tensor = self.initializers.get(value)
        return tensor if tensor is not None and len(tensor.dims) == 2 and tensor.data_type in _FLOATS else None


def _is_transposed(node: Any) -> bool | None:
    """Tell whether a matrix product's weight is [outputs, inputs]; None for nodes that are no plain linear."""
    if node.op_type == "MatMul":
        return False
    if node.op_type != "Gemm":
        return None
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
    return bool(given.get("transB", 0)) if plain else None
