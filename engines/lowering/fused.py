"""Kernels of ONNX Runtime's own domain that its CUDA provider has in all releases from 1.23 on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from .graph import MICROSOFT, Graph, attributes
from .primitives.building import Builder

SIMPLIFIED_NORM = "SimplifiedLayerNormalization"
"""ONNX Runtime's RMS norm; it is one of its own although it stands in the standard domain."""


def fuse_rotary(graph: Graph, node: Any, builder: Builder) -> None:
    """Add `com.microsoft.RotaryEmbedding`, whose cosines and sines are a table that position ids look up.

    Without position ids the table has a row for each position of each item of the batch; all layers share it.
    """
    value, cosines, sines = node.input[:3]
    if len(node.input) > 3 and node.input[3]:
        positions = node.input[3]
    else:
        positions = _positions(graph, builder, cosines)
        cosines, sines = (_table(graph, builder, name) for name in (cosines, sines))
    given = {name: number for name, number in attributes(node).items() if number}
    if "rotary_embedding_dim" not in given:
        given.pop("num_heads", None)
    builder.nodes.append(
        onnx.helper.make_node(
            "RotaryEmbedding",
            [value, positions, cosines, sines],
            list(node.output),
            name=node.name,
            domain=MICROSOFT,
            **given,
        )
    )


def fuse_rms_norm(node: Any, builder: Builder) -> None:
    """Add ONNX Runtime's RMS norm."""
    builder.nodes.append(
        onnx.helper.make_node(SIMPLIFIED_NORM, list(node.input), list(node.output), name=node.name, **attributes(node))
    )


def _table(graph: Graph, builder: Builder, name: str) -> str:
    shared = graph.shared("table", name)
    if shared is None:
        shared = builder.add("Flatten", name, axis=2)
        graph.share(shared, "table", name)
    return shared


def _positions(graph: Graph, builder: Builder, name: str) -> str:
    """Return 0, 1, ... over batch and positions, int64 [B, S]."""
    shared = graph.shared("positions", name)
    if shared is None:
        shape = builder.add("Shape", name, start=0, end=2)
        zero, one = (builder.graph.add_constant("integer", np.array(number, np.int64)) for number in (0, 1))
        count = builder.add("ReduceProd", shape, keepdims=0)
        shared = builder.add("Reshape", builder.add("Range", zero, count, one), shape)
        graph.share(shared, "positions", name)
    return shared


def _scalar(number: int) -> Any:
    import numpy as np

    return np.array(number, np.int64)
