"""What a graph costs at given shapes of its inputs: memory, arithmetic and traffic, told without running it.

costs = graph_costs(bundle / "denoiser.onnx", {"latents": (1, 16, 21, 60, 104), ...})
costs.weight_bytes, costs.activation_bytes, costs.flops, costs.bytes_moved

Weights are not read. Results are kept in `costs/` in the user's cache folder; `onnx` is imported only where one is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ...core.errors import MissingExtraError
from ...core.interrupts import interrupts_wait
from ..cache import store
from ..graphs.operators import check_operators
from ..graphs.read import read_graph, reading
from ..options import Compute
from .figures import GraphCosts, OperatorCosts, from_json, to_json

__all__ = ["CPU_ACTIVATION_MARGIN", "GraphCosts", "OperatorCosts", "graph_costs"]

CPU_ACTIVATION_MARGIN = 1.7
"""What ONNX Runtime's CPU provider takes at most for one of `activation_bytes` of the lowered graph.

Its arena rounds up and does not move what it holds: 1.02 to 1.66 were measured, on decoders and denoisers of the demo and of
Wan 2.1 1.3B's width. That is of sessions with ExecutionOrder.PRIORITY_BASED and without memory patterns. By default the
states that a decoder hands on are cut out last of all, and each memory pattern is one more copy: up to 3.3.
"""
VERSION = 2
"""Part of every key in the cache: raise it whenever the same graph and shapes give other figures than before."""
_FOLDER = "costs"


def graph_costs(
    graph: Path | bytes, shapes: Mapping[str, tuple[int, ...]], compute: Compute = "float32", keep: bool = True
) -> GraphCosts:
    """Return what one run of a graph costs, the inputs having these shapes.

    graph: an ONNX file, or the content of one (a lowered graph). shapes: of every input, by name. compute: float32 counts
    half-precision weights and values as float32, as the cpu engine holds them (a table that is only looked up stays as it
    is); float16 and bfloat16 count the weights and inner values of a float32 graph as two bytes, and take a graph that has
    half-precision products by its own types. keep: the result may go into the user's cache.

    Raises EngineError where the graph cannot be read, the shapes do not fit its inputs, or a shape inside cannot be told
    from them; MissingExtraError where the result is not in the cache and onnx is not installed.
    """
    name = graph.name if isinstance(graph, Path) else "the graph"
    content = read_graph(graph) if isinstance(graph, Path) else graph
    sizes = {key: [int(extent) for extent in shape] for key, shape in sorted(shapes.items())}
    key = store.key_of(hashlib.sha256(content).hexdigest(), VERSION, sizes, compute)
    kept = _read(key)
    if kept is not None:
        return kept
    costs = _analyse(name, content, {key: tuple(shape) for key, shape in sizes.items()}, compute)
    if keep:
        store.write_entry(_FOLDER, key, {}, to_json(costs))
    return costs


def _read(key: str) -> GraphCosts | None:
    return store.read_entry(_FOLDER, key, lambda facts, body: from_json(body))


def _analyse(name: str, content: bytes, shapes: Mapping[str, tuple[int, ...]], compute: Compute) -> GraphCosts:
    try:
        with interrupts_wait():
            from .analysis import analyse
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("onnx", "google"):
            raise
        raise MissingExtraError("onnx", "cpu", "telling what a graph costs") from error
    with reading(name):
        check_operators(content, name)
        return analyse(content, shapes, compute)
