"""Take a text encoder's token embeddings out of its graph, into a file that the runtime looks rows up in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import onnx

from ..bundle.manifest import EmbeddingTable, Graph, TensorSpec
from ..core.errors import UsageError
from .graph_file import GraphFile

TABLE_FILE = "token_embeddings.bin"
IDS, EMBEDS = "input_ids", "token_embeds"
_CHUNK = 2**24
_TYPES: dict[int, Literal["float32", "float16", "bfloat16"]] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}


def table_of(graph: GraphFile) -> str:
    """Return the name of the initializer that token ids look rows up in.

    Raises UsageError where there is none, or where ids or table serve for anything else.
    """
    nodes = graph.model.graph.node
    readers = [node for node in nodes if IDS in node.input]
    if len(readers) == 1 and readers[0].op_type == "Gather" and readers[0].input[1] == IDS:
        name = str(readers[0].input[0])
        tensor = graph.initializers.get(name)
        users = [node for node in nodes if name in node.input]
        if tensor is not None and tensor.data_type in _TYPES and len(tensor.dims) == 2 and len(users) == 1:
            return name
    raise UsageError(f"{graph.path}: has no table of token embeddings that could be taken out of it")


def take_out(graph: GraphFile, name: str, target: Path) -> EmbeddingTable:
    """Write the table beside a graph that `write_quantized` wrote without it, and make that graph take embeddings."""
    tensor = graph.initializers[name]
    content = graph.read(name).reshape(-1).view("uint8")
    with (target.parent / TABLE_FILE).open("xb") as file:
        for start in range(0, content.nbytes, _CHUNK):
            file.write(content[start : start + _CHUNK].data)
    model = onnx.load(target, load_external_data=False)
    gather = next(node for node in model.graph.node if IDS in node.input)
    removed, made = [gather], gather.output[0]
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] == made]
    if casts:
        removed, made = [gather, casts[0]], casts[0].output[0]
    kept = [node for node in model.graph.node if node not in removed]
    for node in kept:
        node.input[:] = [EMBEDS if value == made else value for value in node.input]
    initializers = [other for other in model.graph.initializer if other.name != name]
    rows, columns = (int(extent) for extent in tensor.dims)
    inputs = [_embeds(value, columns) if value.name == IDS else value for value in model.graph.input]
    for field, values in (("node", kept), ("initializer", initializers), ("input", inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return EmbeddingTable(file=TABLE_FILE, dtype=_TYPES[tensor.data_type], rows=rows, columns=columns)


def take_embeddings(entry: Graph, table: EmbeddingTable) -> None:
    """Say in the manifest's entry of the text encoder that it takes embeddings in the place of ids."""
    ids = entry.inputs[IDS]
    spec = TensorSpec(dtype="float32", shape=[*ids.shape, table.columns])
    entry.inputs = {
        EMBEDS if name == IDS else name: spec if name == IDS else other for name, other in entry.inputs.items()
    }


def _embeds(ids: Any, columns: int) -> Any:
    shape = [dim.dim_param or dim.dim_value for dim in ids.type.tensor_type.shape.dim]
    return onnx.helper.make_tensor_value_info(EMBEDS, onnx.TensorProto.FLOAT, [*shape, columns])
