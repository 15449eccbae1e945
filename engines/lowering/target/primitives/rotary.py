"""`RotaryEmbedding` as products with cosines and sines."""

from __future__ import annotations

from typing import Any

from ....graphs.graph import attributes
from .building import Builder


def expand_rotary(node: Any, builder: Builder) -> None:
    """Add the nodes that turn pairs of features by an angle: (a cos - b sin, b cos + a sin).

    The input is [B, S, H·D] (`num_heads` says H) or [B, H, S, D]. Cosines and sines are [B, S, R/2], or [P, R/2] with
    position ids [B, S]; R is `rotary_embedding_dim`, D where that is 0, and features from R on stay as they are. A pair is
    two neighbours (`interleaved`) or one feature from each half of R.
    """
    given = attributes(node)
    heads, rotary, interleaved = (given.get(name, 0) for name in ("num_heads", "rotary_embedding_dim", "interleaved"))
    heads = heads if builder.axes(node.input[0]) == 3 else 0
    positions = node.input[3] if len(node.input) > 3 else ""
    axis = 2 if heads else 1
    cosines, sines = (_for_heads(builder, name, positions, axis, interleaved) for name in node.input[1:3])
    turned = builder.add("Reshape", node.input[0], builder.integers(0, 0, heads, -1)) if heads else node.input[0]
    rest = None
    if rotary:
        first, last, to, axes = (builder.integers(value) for value in (0, rotary, 2**31 - 1, -1))
        rest = builder.add("Slice", turned, last, to, axes)
        turned = builder.add("Slice", turned, first, last, axes)
    if interleaved:
        turned = builder.add("Reshape", turned, builder.integers(0, 0, 0, -1, 2))
    left, right = builder.split(turned, 2, axis=-1)
    real = builder.add("Sub", builder.add("Mul", left, cosines), builder.add("Mul", right, sines))
    imaginary = builder.add("Add", builder.add("Mul", right, cosines), builder.add("Mul", left, sines))
    output = node.output[0]
    last_shape = builder.integers(0, 0, -1) if heads else builder.integers(0, 0, 0, -1)
    if rest is None and not interleaved and not heads:
        builder.add("Concat", real, imaginary, axis=-1, output=output)
        return
    result = builder.add("Concat", real, imaginary, axis=-1)
    if rest is not None:
        if interleaved:
            result = builder.add("Reshape", result, builder.integers(0, 0, 0, -1))
        result = builder.add("Concat", result, rest, axis=-1)
    builder.add("Reshape", result, last_shape, output=output)


def _for_heads(builder: Builder, name: str, positions: str, axis: int, interleaved: int) -> str:
    """Return cosines or sines as [B, S, 1, R/2] or [B, 1, S, R/2], with one axis more behind for neighbours."""
    if positions:
        name = builder.add("Gather", name, positions, axis=0)
    axes = builder.integers(axis, 4) if interleaved else builder.integers(axis)
    key = ("rotary", name, str(axis), str(interleaved))
    shared = None if positions else builder.graph.shared(*key)
    if shared is None:
        shared = builder.add("Unsqueeze", name, axes)
        if not positions:
            builder.graph.share(shared, *key)
    return shared
