"""All rewrites of one graph, in order. The one module that imports `onnx` as it loads: import it last."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError

from ..graphs.graph import Graph
from ..options import Activations
from .attention import lower_attention
from .linears import lower_linears


def rewrite(content: bytes, activations: Activations) -> tuple[bytes, dict[str, int]]:
    """Return a serialized model lowered for the CPU provider and the number of rewrites by name.

    The data of external tensors is neither read nor moved: they keep their file name, offset and length.

    Raises ValueError where the content is not an ONNX model.
    """
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"not an ONNX model: {error}") from error
    graph = Graph(model)
    counts = {"attention": lower_attention(graph), **lower_linears(graph, activations)}
    graph.finish()
    return model.SerializeToString(deterministic=True), {name: count for name, count in counts.items() if count}
