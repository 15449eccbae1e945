"""Which nodes calculate in half precision and which stay in float32, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...options import Compute

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Attention")
"""What half precision is for: they sum in float32 inside and take the time."""

FOLLOWERS = (
    *(
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Split",
        "Concat",
        "Expand",
        "Gather",
        "Tile",
    ),
    *("Identity", "Pad", "Resize", "DepthToSpace", "SpaceToDepth"),
    *("Add", "Sub", "Mul", "Neg", "Gelu", "Sigmoid", "Tanh", "Relu", "QuantizeLinear"),
)
"""What calculates in half precision where all it reads is there already (constants apart): between two products, that is. A
sum of both kinds, such as a residual, is float32. All operators in neither list stay in float32: norms, reductions,
softmax, sines and whatever else there is."""


@dataclass(frozen=True)
class StaysFloat32:
    """Nodes that stay in float32 although their operator would not: by their names, and in which of the half types."""

    names: str
    instead_of: tuple[Compute, ...]
    why: str


BY_NAME = (
    StaysFloat32(
        r"(^|\.)(time|timestep|guidance)_?(embed\w*|proj\w*)(\.|$)|(^|\.)adaln",
        ("float16", "bfloat16"),
        "a timestep has more digits than half precision, and all layers depend on it",
    ),
    StaysFloat32(
        r"DenseReluDense\.wo$",
        ("float16",),
        "the feed-forward output of T5's family is larger than float16 holds",
    ),
)


def stays_float32(name: str, compute: Compute) -> bool:
    """Return whether a node of this name stays in float32."""
    return any(compute in rule.instead_of and re.search(rule.names, name) for rule in BY_NAME)
