"""Weights stored in bfloat16, written again for a parser that does not know the type: TensorRT 8.6's.

It is the one step of lowering that writes weights, for the time of a build. It imports `onnx` as it loads: import it last.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx

from ...errors import EngineError, brief
from .graph import attributes, names_read

_TYPES = onnx.TensorProto
_DATA_NAME = "weights"
_SMALL = 1024
"""Bytes below which a tensor stays in the model, where parsers want to see the constants of shapes."""


def write_without_bfloat16(model: bytes, graph_path: Path, folder: Path) -> tuple[bytes, Path]:
    """Write the weights of a lowered model into a folder, those in bfloat16 in other types; return the model of these.

    What a Cast makes of such a weight is stored in its place; one that other nodes read is stored in float32, which holds
    all of its values, and so are the values that are copied out of it. So every value that is calculated stays the same to
    the bit. A model without bfloat16 is returned as it is.

    graph_path: where the graph's weights lie beside. folder: is there, and takes a file as large as all weights of the model,
    twice as large where they are to be in float32. The path that is returned is the one beside which a parser finds it.

    Raises EngineError where the weights cannot be read or written.
    """
    parsed = onnx.ModelProto.FromString(model)
    graph = parsed.graph
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type == _TYPES.BFLOAT16}
    if not stored:
        return model, graph_path
    casts: dict[str, list[Any]] = {name: [] for name in stored}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            casts[node.input[0]].append(node)
        else:
            nodes.append(node)
    read = {name for node in nodes for name in names_read(node)}
    source = str(graph_path.resolve().parent)
    tensors = []
    try:
        with (folder / _DATA_NAME).open("wb") as file:
            for tensor in graph.initializer:
                for written in _in_other_types(tensor, casts.get(tensor.name, []), tensor.name in read, source):
                    _move_out(written, file)
                    tensors.append(written)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise EngineError(f"cannot write the weights of {graph_path.name} without bfloat16: {brief(error)}") from error
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    return parsed.SerializeToString(deterministic=True), folder / graph_path.name


def _in_other_types(tensor: Any, casts: list[Any], read: bool, folder: str) -> Iterator[Any]:
    """Yield what is stored in the place of a tensor, with its data."""
    if tensor.data_type != _TYPES.BFLOAT16:
        if tensor.data_location == _TYPES.EXTERNAL:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, folder)
        yield tensor
        return
    values = onnx.numpy_helper.to_array(tensor, folder).astype(np.float32)
    if read:
        yield onnx.numpy_helper.from_array(values, tensor.name)
    for cast in casts:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(attributes(cast)["to"])
        with np.errstate(over="ignore"):  # what is beyond float16 is infinite, as the Cast would make it
            yield onnx.numpy_helper.from_array(values.astype(dtype), cast.output[0])
    tensor.ClearField("raw_data")  # older releases of onnx keep in the model what they read


def _move_out(tensor: Any, file: BinaryIO) -> None:
    """Write a tensor's data to a file and have the tensor say where it lies, unless it is small."""
    if not tensor.HasField("raw_data") or len(tensor.raw_data) < _SMALL:
        return
    offset = file.tell()
    file.write(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, _DATA_NAME, offset, len(tensor.raw_data))
    tensor.ClearField("raw_data")
