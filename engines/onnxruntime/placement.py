"""Does a graph run where it was asked to? ONNX Runtime gives nodes that a provider cannot run to the CPU without a word."""

from __future__ import annotations

from collections.abc import Iterable

from ...core.errors import EngineError
from .common import AssignedNode

# Nodes that calculate with activations or weights. Whatever else is on the CPU is arithmetic with shapes: Shape, Gather,
# Concat, Mul of a few integers, which ONNX Runtime puts there on purpose.
COMPUTE = frozenset(
    {
        "Attention",
        "BatchNormalization",
        "BiasGelu",
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "DequantizeLinear",
        "DynamicQuantizeMatMul",
        "Einsum",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "Gemm",
        "GroupNorm",
        "GroupNormalization",
        "GroupQueryAttention",
        "InstanceNormalization",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "MatMul",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "NhwcConv",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "Pad",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
        "QuickGelu",
        "RMSNormalization",
        "Resize",
        "RotaryEmbedding",
        "Round",
        "Silu",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Softmax",
        "Swish",
        "Upsample",
    }
)
_NAMED = 3


def misplaced(nodes: Iterable[AssignedNode], provider: str) -> list[AssignedNode]:
    """Return the compute nodes that another provider runs."""
    return [node for node in nodes if node.op_type in COMPUTE and node.provider != provider]


def check_placement(graph_name: str, nodes: Iterable[AssignedNode], provider: str) -> None:
    """Raise EngineError, naming the first of them, where compute nodes run on another provider than the one asked for."""
    wrong = misplaced(nodes, provider)
    if not wrong:
        return
    named = ", ".join(f"{node.op_type} {node.name or '(no name)'}" for node in wrong[:_NAMED])
    more = f" and {len(wrong) - _NAMED} more" * (len(wrong) > _NAMED)
    others = " and ".join(sorted({node.provider for node in wrong}))
    raise EngineError(
        f"{graph_name} cannot run on {provider}: it leaves {named}{more} to {others}; choose another engine or precision"
    )
