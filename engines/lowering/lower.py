"""From a bundle's canonical graph to one that a device runs, and runs fast.

lowered = lower_graph(path, "dynamic", onnxruntime.__version__)                   # ONNX Runtime on CPU cores
lowered = lower_for_target(path, parse_target("tensorrt-10.3"), "float16")        # TensorRT, ONNX Runtime on CUDA
lowered.model, lowered.rewrites, lowered.source

The lowered graph names the same weights at the same places of the same data file as the canonical one, so that nothing
large is written and a cached graph depends on the graph file alone; for a parser that cannot read these weights,
`with_plain_weights` writes them anew for as long as it needs them. `onnx` is imported only where a graph is rewritten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...core.errors import EngineError, MissingExtraError, OutOfMemory
from ...core.interrupts import interrupts_wait
from ..cache import store
from ..graphs.operators import check_operators
from ..graphs.parts import IN_PARTS
from ..graphs.read import read_graph, reading
from ..options import PICTURES, Activations, Compute, Part
from .targets import Target

VERSION = 7
"""Part of every key in the cache: raise it whenever a rewrite gives another graph than before."""
_FOLDER = "lowered"

Result = TypeVar("Result")
Source = Literal["cache", "built", "off", "onnx is not installed"]


@dataclass(frozen=True)
class LoweredGraph:
    """A serialized model, or None where the canonical graph is to run as it is.

    rewrites: how often each rewrite was applied. source: where the model came from, or why there is none.
    """

    model: bytes | None
    source: Source
    rewrites: dict[str, int] = field(default_factory=dict)


def lower_graph(
    graph_path: Path,
    activations: Activations,
    engine_version: str,
    *,
    keep: bool = True,
    part: Part | None = None,
    anew: bool = False,
    bits: int = 8,
) -> LoweredGraph:
    """Return a graph lowered for the CPU provider, from the cache where it is there.

    keep: put it there where it is not. part: of the graph, None for all of it. anew: whatever the cache has. bits: of dynamic
    activations, 8 or 7. Raises
    EngineError, which names the graph, where it cannot be read or is not one as ours, or where it has no such part; for a
    part, MissingExtraError where onnx is not installed.
    """

    def rewrite_for_cpu(content: bytes) -> tuple[bytes, dict[str, int]]:
        from .rewrite import rewrite

        return rewrite(content, activations, bits)

    try:
        facts = (engine_version, activations, *([str(bits)] if bits != 8 else []))
        return _lowered(graph_path, facts, rewrite_for_cpu, keep, part, anew)
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        if part is not None:
            raise MissingExtraError("onnx", "cpu", IN_PARTS) from error
        check_operators(read_graph(graph_path), graph_path.name)
        return LoweredGraph(None, "onnx is not installed")


def lower_for_target(
    graph_path: Path,
    target: Target,
    compute: Compute,
    *,
    keep: bool = True,
    part: Part | None = None,
    pictures: bool = False,
    anew: bool = False,
) -> LoweredGraph:
    """Return a graph lowered for a target, from the cache where it is there; its model is never None.

    compute: what matrix products, convolutions and attention calculate in; norms, softmax and the timestep's embedding
    calculate in float32 in any case. Inputs and outputs keep their names and types, but that the state of a decoder or encoder
    is float16 where products are. keep: put the graph into the cache
    where it is not there. part: of the graph, None for all of it. pictures: see EngineOptions. anew: whatever the cache has.

    Raises EngineError where the target cannot have an operator or type of the graph, naming it, or cannot calculate in
    `compute`, where there is no such part, or the graph cannot be read or is not one as ours; MissingExtraError where onnx
    is not installed.
    """

    def rewrite_for_that(content: bytes) -> tuple[bytes, dict[str, int]]:
        from .target.rewrite import rewrite_for_target

        return rewrite_for_target(content, target, compute, graph_path.name, pictures)

    facts = (repr(target), compute, *([PICTURES] if pictures else []))
    try:
        return _lowered(graph_path, facts, rewrite_for_that, keep, part, anew)
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingExtraError("onnx", "gpu", f"lowering graphs for {target.name}") from error


def with_plain_weights(model: bytes, graph_path: Path, folder: Path) -> tuple[bytes, Path]:
    """Return a lowered model for a target of `plain_weights`, and the path beside which a parser finds what it reads.

    All weights are written into `folder`, in float16 or float32 where they were bfloat16 or quantized. Values stay the same.
    Needs onnx. Raises EngineError where weights cannot be read or written.
    """
    with interrupts_wait():
        from .target.plain_weights import write_plain_weights
    with reading(graph_path.name):
        return write_plain_weights(model, graph_path, folder)


def not_lowered(graph_path: Path, part: Part | None) -> LoweredGraph:
    """Return what stands for the canonical graph.

    Raises EngineError for a part of it, since parts are made by lowering, and for a graph that is not one as ours.
    """
    if part is not None:
        raise EngineError(f"the {part} of a graph runs lowered only: leave lower=False out, or run the whole graph")
    check_operators(read_graph(graph_path), graph_path.name)
    return LoweredGraph(None, "off")


def open_lowered(
    graph_path: Path, lower: Callable[[bool], LoweredGraph], open_it: Callable[[LoweredGraph], Result]
) -> Result:
    """Return what `open_it` makes of a lowered graph. Where one from the cache cannot be opened it is lowered again, once.

    lower: given whether to leave the cache out. Raises what both raise.
    """
    lowered = lower(False)
    if lowered.source != "cache":
        return open_it(lowered)
    try:
        return open_it(lowered)
    except OutOfMemory:
        raise
    except EngineError as error:
        again = lower(True)
        if again.model == lowered.model:
            raise
        store.log.warning("%s is lowered again, what the cache has of it cannot be used: %s", graph_path.name, error)
    return open_it(again)


def _lowered(
    graph_path: Path,
    facts: tuple[str, ...],
    rewrite: Callable[[bytes], tuple[bytes, dict[str, int]]],
    keep: bool,
    part: Part | None,
    anew: bool,
) -> LoweredGraph:
    content = read_graph(graph_path)
    facts = facts if part is None else (*facts, part)
    key = store.key_of(hashlib.sha256(content).hexdigest(), VERSION, *facts)
    kept = None if anew else store.read_entry(_FOLDER, key, _of_entry)
    if kept is not None:
        return kept
    with interrupts_wait():
        import onnx  # noqa: F401  # what an interrupted import leaves behind cannot be imported again
    with reading(graph_path.name):
        if part is not None:
            from ..graphs.cut import cut_part

            content = cut_part(content, part, graph_path.name)
        model, rewrites = rewrite(content)
        check_operators(model, graph_path.name)
    if keep:
        store.write_entry(_FOLDER, key, {"rewrites": rewrites}, model)
    return LoweredGraph(model, "built", rewrites)


def _of_entry(facts: dict[str, Any], model: bytes) -> LoweredGraph:
    """Return a graph that was kept; half a model, or one with other operators than ours, was not written by us."""
    if not model:
        raise ValueError("it is empty")
    check_operators(model, "it")
    return LoweredGraph(model, "cache", {str(name): int(count) for name, count in facts["rewrites"].items()})
