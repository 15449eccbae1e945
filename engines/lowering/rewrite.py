"""All rewrites of one graph, in order. The one module that imports `onnx` as it loads: import it last."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError

from ..graphs.graph import Graph
from ..options import Activations
from .attention import lower_attention
from .linears import lower_linears
from .norms import lower_norms


def rewrite(content: bytes, activations: Activations, bits: int = 8) -> tuple[bytes, dict[str, int]]:
    """Return a serialized model lowered for the CPU provider and the number of rewrites by name. bits: see lower_linears.

    The data of external tensors is neither read nor moved: they keep their file name, offset and length.

    Raises ValueError where the content is not an ONNX model.
    """
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"not an ONNX model: {error}") from error
    graph = Graph(model)
    counts = {
        "attention": lower_attention(graph),
        "norms": lower_norms(graph),
        **lower_linears(graph, activations, bits),
    }
    graph.finish()
    return model.SerializeToString(deterministic=True), {name: count for name, count in counts.items() if count}
