"""All rewrites of one graph for a target, in order. It imports `onnx` as it loads: import it last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ....core.errors import EngineError, one_line
from ...graphs.graph import MICROSOFT, Graph, attributes
from ...graphs.value_types import value_types
from ...options import Compute
from ..attention import is_plain, lower_attention
from ..targets import FLOAT8_WEIGHTS, Target
from .half import lower_precision
from .modulation import fold_modulation
from .older_opset import lower_opset
from .pictures import add_pictures
from .primitives.attention import expand_attention
from .primitives.building import Builder, CannotExpand
from .primitives.gelu import expand_gelu
from .primitives.norm import add_layer_norm_bias, expand_rms_norm
from .primitives.rotary import expand_rotary

_Expansion = Callable[[Any, Builder], None]
_EXPANSIONS: dict[str, _Expansion] = {
    "Attention": expand_attention,
    "RotaryEmbedding": expand_rotary,
    "RMSNormalization": expand_rms_norm,
    "Gelu": expand_gelu,
}
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
_NEW_PARSERS = 23
"""The opset of targets whose parsers know that a LayerNormalization may have no bias."""
_TYPES = onnx.TensorProto
_NARROW = {
    *(_TYPES.INT4, _TYPES.UINT4),
    *(_TYPES.FLOAT8E4M3FN, _TYPES.FLOAT8E4M3FNUZ, _TYPES.FLOAT8E5M2, _TYPES.FLOAT8E5M2FNUZ),
}


def rewrite_for_target(
    content: bytes, target: Target, compute: Compute, name: str, pictures: bool = False
) -> tuple[bytes, dict[str, int]]:
    """Return a serialized model lowered for a target and the number of rewrites by name.

    The data of external tensors is neither read nor moved. name: the graph's, for messages. pictures: see EngineOptions.

    Raises ValueError where the content is not an ONNX model, EngineError where the target cannot have a part of it.
    """
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"not an ONNX model: {error}") from error
    del model.graph.value_info[:]  # what it says of types is true no longer
    opset = _opset(model, target, compute)
    _check_bfloat16(model, target, compute, name)
    counts: Counter[str] = Counter()
    if target.folds_modulation:
        graph = Graph(model)
        counts["norm with its modulation"] = fold_modulation(graph, _shapes(model))
        graph.finish()
    counts.update(lower_precision(model, target, opset, compute))
    counts[FLOAT8_WEIGHTS] = sum(
        tensor.data_type == _TYPES.FLOAT8E4M3FN and len(tensor.dims) == 2 for tensor in model.graph.initializer
    )
    Graph(model).finish()
    counts.update(_expand(model, target, name))
    counts.update(_to_opset(model, opset, target, name))
    if pictures:
        counts["pictures"] = add_pictures(model, target.rounds)
    return model.SerializeToString(deterministic=True), {name: count for name, count in counts.items() if count}


def _opset(model: Any, target: Target, compute: Compute) -> int:
    """Return the opset that a graph will be in: more for quantized linears where these need more."""
    quantized = any(node.op_type in _QUANTIZED for node in model.graph.node)
    narrow = any(tensor.data_type in _NARROW for tensor in model.graph.initializer)
    if target.quantized_opset is not None and (narrow or (quantized and compute != "float32")):
        return max(target.opset, target.quantized_opset)
    return target.opset


def _check_bfloat16(model: Any, target: Target, compute: Compute, name: str) -> None:
    """Refuse what is more than stored in bfloat16 where the target lacks it; weights can be written in another type."""
    if not target.plain_weights:
        return
    if compute == "bfloat16":
        raise EngineError(f"{target.name} does not calculate in bfloat16: ask for float16 or float32")
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == _TYPES.BFLOAT16:
            raise EngineError(
                f"{one_line(name)}: {target.name} has no bfloat16, which {one_line(value.name)} is given in"
            )
    for node in model.graph.node:
        if node.op_type == "Cast" and attributes(node)["to"] == _TYPES.BFLOAT16:
            raise _refused(node, target, name, "it has no bfloat16")


def _expand(model: Any, target: Target, name: str) -> dict[str, int]:
    """Put fused kernels and expansions in the place of what the target does not read."""
    graph = Graph(model)
    counts: Counter[str] = Counter()
    types, shapes = value_types(model), _shapes(model)
    if target.fused_attention:
        counts["attention"] = lower_attention(graph, lambda node: _stays_whole(node, target, types, shapes))
    for position, node in graph.find(*_EXPANSIONS, *_QUANTIZED, "LayerNormalization"):
        builder = Builder(graph, node, types, shapes, target.half_softmax)
        kind = _rewrite_one(node, builder, target, name)
        if kind:
            graph.replace(position, builder.nodes)
            counts[kind] += 1
    graph.finish()
    return counts


def _rewrite_one(node: Any, builder: Builder, target: Target, name: str) -> str:
    """Add what takes a node's place and return the rewrite's name, "" where the node stays."""
    if node.op_type in _QUANTIZED:
        if target.plain_weights and not (node.op_type == "DequantizeLinear" and builder.of_constants(node)):
            raise _refused(
                node, target, name, "it multiplies no bytes: leave activations as they are, or use TensorRT 10"
            )
        return ""
    rewrite: _Expansion
    if node.op_type == "LayerNormalization":
        if target.opset >= _NEW_PARSERS or any(node.input[2:]):
            return ""
        kind, rewrite = "LayerNormalization given a bias", add_layer_norm_bias
    elif (node.op_type in target.kept and not _beyond_kept(node)) or _stays_whole(
        node, target, builder.types, builder.shapes
    ):
        return ""
    else:
        kind, rewrite = f"{node.op_type} expanded", _EXPANSIONS[node.op_type]
    try:
        rewrite(node, builder)
    except CannotExpand as reason:
        raise _refused(node, target, name, str(reason)) from None
    return kind


def _beyond_kept(node: Any) -> bool:
    """Return whether an Attention has what TensorRT's, of queries, keys, values and a mask, has not."""
    if node.op_type != "Attention":
        return False
    return any(node.input[4:]) or any(node.output[1:]) or bool(attributes(node).get("softcap", 0.0))


def _stays_whole(node: Any, target: Target, types: dict[str, int], shapes: dict[str, tuple[int | None, ...]]) -> bool:
    """Return whether an Attention in bfloat16 is left to the target's kernel for that; see Target.whole_bfloat16_head."""
    if not target.whole_bfloat16_head or node.op_type != "Attention" or types.get(node.input[0]) != _TYPES.BFLOAT16:
        return False
    width = shapes.get(node.input[0], (None,))[-1]
    return (
        is_plain(node) and width is not None and width <= target.whole_bfloat16_head * attributes(node)["q_num_heads"]
    )


def _to_opset(model: Any, opset: int, target: Target, name: str) -> dict[str, int]:
    graph = Graph(model)
    types = value_types(model)
    count = 0
    for position, node in enumerate(graph.nodes):
        if any(item.HasField("g") or item.graphs for item in node.attribute):
            raise _refused(node, target, name, "it holds a graph of its own, which is not lowered")
        if node.domain not in ("", "ai.onnx"):
            if not (target.fused_attention and node.domain == MICROSOFT):
                raise _refused(node, target, name, f"it is of the domain {one_line(node.domain)}")
            continue
        try:
            lowered = lower_opset(node, graph, opset, types)
        except CannotExpand as reason:
            raise _refused(node, target, name, str(reason)) from None
        if lowered is not node:
            graph.replace(position, [lowered])
            count += 1
    graph.finish()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, opset)
    return {f"to opset {opset}": count}


def _refused(node: Any, target: Target, name: str, reason: str) -> EngineError:
    label = one_line(node.name or node.output[0])
    return EngineError(f"{one_line(name)}: {target.name} cannot have {one_line(node.op_type)} ({label}): {reason}")


def _shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    """Return the extents of every value whose number of axes is known, None for those that vary."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*inferred.value_info, *inferred.input):
        if value.type.tensor_type.HasField("shape"):
            dimensions = value.type.tensor_type.shape.dim
            found[value.name] = tuple(int(each.dim_value) if each.dim_value > 0 else None for each in dimensions)
    return found
