"""`Attention` to `com.microsoft.MultiHeadAttention`, which reads [B, S, H·D] as it is and never holds all scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from ..graphs.graph import MICROSOFT, Graph, attributes

_NEUTRAL: dict[str, object] = {"is_causal": 0, "softcap": 0.0, "qk_matmul_output_mode": 0, "softmax_precision": 1}
"""Values under which an attribute changes nothing (softmax in float32 is what the kernel does anyway)."""


def lower_attention(graph: Graph, stays: Callable[[Any], bool] = lambda node: False) -> int:
    """Rewrite every Attention that MultiHeadAttention computes faster; return how many. stays: whether one is left as it is.

    That is where query, key and value are [B, S, H·D] with equal numbers of heads, and there is no mask, cache or cap on
    scores. With a mask the fused kernel holds all scores too and is the slower of the two.
    """
    count = 0
    for position, node in graph.find("Attention"):
        if is_plain(node) and not stays(node):
            graph.replace(position, [_multi_head_attention(node)])
            count += 1
    return count


def is_plain(node: Any) -> bool:
    """Return whether an Attention has [B, S, H·D], equal numbers of heads, and no mask, cache or cap on scores."""
    given = attributes(node)
    heads = given.pop("q_num_heads", None)
    if heads is None or given.pop("kv_num_heads", None) != heads:
        return False
    given.pop("scale", None)
    neutral = all(name in _NEUTRAL and _NEUTRAL[name] == value for name, value in given.items())
    return neutral and not any(node.input[3:]) and not any(node.output[1:])


def _multi_head_attention(node: Any) -> Any:
    given = attributes(node)
    scale = {"scale": given["scale"]} if "scale" in given else {}
    return onnx.helper.make_node(
        "MultiHeadAttention",
        list(node.input[:3]),
        [node.output[0]],
        name=node.name,
        domain=MICROSOFT,
        num_heads=given["q_num_heads"],
        **scale,
    )
