"""Weights written out as plain constants in floating point, for a parser that wants nothing else: TensorRT 8.6's.

It knows no bfloat16, takes DequantizeLinear for arithmetic in bytes, and what is made of a constant for a value of the run, which
a convolution's weights may not be. It is the one step of lowering that writes weights, for the time of a build. It imports
`onnx` as it loads: import it last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ....core.errors import EngineError, brief
from ...graphs.graph import attributes, names_read

_TYPES = onnx.TensorProto
_FOLDED = ("Cast", "DequantizeLinear")
_DATA_NAME = "weights"
_SMALL = 1024
"""Bytes below which a tensor stays in the model, where parsers want to see the constants of shapes."""


def write_plain_weights(model: bytes, graph_path: Path, folder: Path) -> tuple[bytes, Path]:
    """Write the weights of a lowered model into a folder and return the model that reads these.

    What a Cast or a DequantizeLinear makes of a constant is stored in its place. A bfloat16 constant that other nodes read
    is stored in float32, which holds all of its values, and so are the values that are copied out of it. Every value that is
    calculated stays the same.

    graph_path: where the graph's weights lie beside. folder: is there, and takes a file as large as the weights are in the
    types that they are calculated with. The path that is returned is the one beside which a parser finds it.

    Raises EngineError where the weights cannot be read or written.
    """
    parsed = onnx.ModelProto.FromString(model)
    weights = _Weights(parsed.graph, graph_path.resolve().parent)
    nodes = [node for node in parsed.graph.node if not weights.fold(node)]
    read = {name for node in nodes for name in names_read(node)} | {value.name for value in parsed.graph.output}
    tensors = []
    try:
        with (folder / _DATA_NAME).open("wb") as file:
            for name in weights.names():
                if name in read:
                    tensors.append(weights.tensor(name))
                    _move_out(tensors[-1], file)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise EngineError(f"cannot write the weights of {graph_path.name}: {brief(error)}") from error
    del parsed.graph.node[:], parsed.graph.initializer[:], parsed.graph.value_info[:]
    parsed.graph.node.extend(nodes)
    parsed.graph.initializer.extend(tensors)
    return parsed.SerializeToString(deterministic=True), folder / graph_path.name


class _Weights:
    """The constants of a graph, and what is made of them alone; one is read at a time."""

    def __init__(self, graph: Any, folder: Path) -> None:
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._makers: dict[str, Any] = {}
        self._folder = folder

    def names(self) -> list[str]:
        """Return the names of all of them."""
        return [*self._stored, *self._makers]

    def fold(self, node: Any) -> bool:
        """Take a node for what makes a constant, where that is what it does; nodes come in their order."""
        if node.op_type not in _FOLDED or not all(self._is_constant(name) for name in node.input if name):
            return False
        self._makers[node.output[0]] = node
        return True

    def tensor(self, name: str) -> Any:
        """Return the tensor to store under a name, with its data."""
        stored = self._stored.get(name)
        if stored is None or stored.data_type == _TYPES.BFLOAT16:
            return onnx.numpy_helper.from_array(self._value(name), name)
        return self._loaded(stored)

    def _loaded(self, stored: Any) -> Any:
        """Return a copy of a stored tensor with its data in it.

        onnx's own reader refuses files with several hard links, which is how some installers put packages in their place.
        """
        tensor = onnx.TensorProto()
        tensor.CopyFrom(stored)
        if tensor.data_location == _TYPES.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            path = self._folder / place["location"]
            if path.parent != self._folder or path.is_symlink():
                raise ValueError(f"the data of {stored.name} lies elsewhere")
            with path.open("rb") as file:
                file.seek(int(place.get("offset", 0)))
                tensor.raw_data = file.read(int(place["length"]))
            if len(tensor.raw_data) != int(place["length"]):
                raise ValueError(f"{place['location']} ends before the data of {stored.name}")
            tensor.data_location = _TYPES.DEFAULT
            del tensor.external_data[:]
        return tensor

    def _is_constant(self, name: str) -> bool:
        return name in self._stored or name in self._makers

    def _value(self, name: str) -> NDArray[Any]:
        """Return a constant's value, bfloat16 as float32."""
        if name not in self._makers:
            tensor = self._loaded(self._stored[name])
            values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
            return values.astype(np.float32) if tensor.data_type == _TYPES.BFLOAT16 else values
        node = self._makers[name]
        if node.op_type == "Cast":
            dtype = onnx.helper.tensor_dtype_to_np_dtype(attributes(node)["to"])
            with np.errstate(over="ignore"):  # what is beyond float16 is infinite, as the Cast would make it
                return self._value(node.input[0]).astype(dtype)
        made: NDArray[Any] = ReferenceEvaluator(node).run(
            None, {each: self._value(each) for each in node.input if each}
        )[0]
        return made


def _move_out(tensor: Any, file: BinaryIO) -> None:
    """Write a tensor's data to a file and have the tensor say where it lies, unless it is small."""
    if not tensor.HasField("raw_data") or len(tensor.raw_data) < _SMALL:
        return
    offset = file.tell()
    file.write(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, _DATA_NAME, offset, len(tensor.raw_data))
    tensor.ClearField("raw_data")
