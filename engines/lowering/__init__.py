"""From a bundle's canonical graph to one that ONNX Runtime's CPU provider runs fast.

lowered = lower_graph(path, "dynamic", onnxruntime.__version__)
lowered.model, lowered.rewrites, lowered.source

The lowered graph names the same weights at the same places of the same data file as the canonical one, so that nothing
large is written and a cached graph depends on the graph file alone. `onnx` is imported only where a graph is rewritten.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...interrupts import interrupts_wait
from ..base import Activations
from .cache import CacheEntry, cache_key, read_entry, write_entry

__all__ = ["LoweredGraph", "Source", "lower_graph"]

Source = Literal["cache", "built", "off", "onnx is not installed"]


@dataclass(frozen=True)
class LoweredGraph:
    """A serialized model, or None where the canonical graph is to run as it is.

    rewrites: how often each rewrite was applied. source: where the model came from, or why there is none.
    """

    model: bytes | None
    source: Source
    rewrites: dict[str, int] = field(default_factory=dict)


def lower_graph(graph_path: Path, activations: Activations, engine_version: str, *, keep: bool = True) -> LoweredGraph:
    """Return a graph lowered for the CPU provider, from the cache where it is there.

    keep: put it there where it is not. Raises OSError where the graph cannot be read, ValueError where it is not an ONNX model.
    """
    content = graph_path.read_bytes()
    key = cache_key(hashlib.sha256(content).hexdigest(), engine_version, activations)
    entry = read_entry(key)
    if entry is not None:
        return LoweredGraph(entry.model, "cache", entry.rewrites)
    try:
        with interrupts_wait():
            from .rewriting import rewrite
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        return LoweredGraph(None, "onnx is not installed")
    model, rewrites = rewrite(content, activations)
    if keep:
        write_entry(key, CacheEntry(model, rewrites))
    return LoweredGraph(model, "built", rewrites)
