"""Building a bundle's engines ahead of the first clip, and showing what would be built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..bundle.geometry import latent_shape
from ..bundle.reader import Bundle, open_bundle
from ..core.errors import EngineError, UsageError, brief
from ..core.paths import demo_bundle_path
from ..core.progress import Progress, report_progress
from ..core.units import format_bytes
from ..engines import ENGINES, Compute, EngineOptions, get_engine
from ..engines.lowering.lower import lower_for_target
from ..engines.lowering.summary import describe_lowering
from ..engines.lowering.targets import Target, parse_target
from .memory.fit import parse_capability, plan_bundle
from .memory.plan import MemoryPlan
from .memory.shapes import input_shapes
from .memory.sizes import DECODER, component_of
from .reel import Reel

_ANY_CARD = "8.9"
_LONG = 160


def build_engines(
    reel: Reel, size: tuple[int, int] | None, frames: int | None, on_progress: Progress | None
) -> dict[str, Any]:
    """Open every graph as for clips of this size and length, so that what can be kept for the next time is; return a record.

    Raises GeometryError, PlanError, EngineError, Cancelled.
    """
    plan = reel.plan(*reel.bundle.manifest.defaults.complete(size, frames))
    names = list(reel.bundle.manifest.roles.graphs())
    report_progress(on_progress, "build", 0, len(names))
    for done, name in enumerate(names, start=1):
        reel.graphs.sessions(name)
        report_progress(on_progress, "build", done, len(names))
    graphs = {
        name: {
            "engine": report.engine,
            "provider": report.provider,
            "precision": report.precision,
            "lowered": report.lowered,
            "build": report.build,
            "build_seconds": report.build_seconds,
            "parts": report.streamed,
        }
        for name, report in reel.report().items()
    }
    return {"bundle_digest": reel.bundle.manifest.digest, "graphs": graphs, "plan": plan.to_json()}


def show_build(
    path: Path | None,
    target: str,
    *,
    compute: Compute = "float16",
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    memory: str | None = None,
    compute_capability: str | None = None,
    on_plan: Callable[[MemoryPlan], object] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Return what would be built for a target, with no device there: each graph's rewrites, operators, types and shapes.

    With `memory`, the memory plan for a card with that much, which on_plan is told of.

    Raises UsageError for an unknown target, EngineError where it cannot have an operator of a graph,
    BundleError, GeometryError, PlanError, MissingExtraError, Cancelled.
    """
    wanted = parse_target(target)
    bundle = open_bundle(path or demo_bundle_path())
    latents = latent_shape(bundle.manifest.latent, *bundle.manifest.defaults.complete(size, frames))
    plan: MemoryPlan | None = None
    if memory is not None:
        capability = compute_capability or _ANY_CARD
        plan = plan_bundle(path, size=size, frames=frames, memory=memory, compute_capability=capability)
        if on_plan is not None:
            on_plan(plan)
    elif compute_capability is not None:
        raise UsageError("--compute-capability is for planning memory: say how much there is with --memory")
    graphs = {}
    names = list(bundle.manifest.roles.graphs())
    report_progress(on_progress, "lower", 0, len(names))
    for done, name in enumerate(names, start=1):
        graphs[name] = _show_graph(bundle, name, wanted, compute, latents)
        report_progress(on_progress, "lower", done, len(names))
    return {
        "bundle_digest": bundle.manifest.digest,
        "target": wanted.name,
        "opset": wanted.opset,
        "compute": compute,
        "graphs": graphs,
        "plan": None if plan is None else plan.to_json(),
    }


def _show_graph(
    bundle: Bundle, name: str, target: Target, compute: Compute, latents: tuple[int, ...]
) -> dict[str, Any]:
    graph = bundle.manifest.roles.graphs()[name]
    path = bundle.path(graph.file)
    try:
        lowered = lower_for_target(path, target, compute)
        assert lowered.model is not None
        summary = describe_lowering(path.read_bytes(), lowered.model, lowered.rewrites)
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot lower {graph.file}: {brief(error)}") from error
    shapes = input_shapes(bundle.manifest, name, latents)
    return {
        **asdict(summary),
        "shapes": {key: list(shape) for key, shape in shapes.items()},
        "weights": bundle.manifest.files[graph.data].size,
    }


def explain_build(
    path: Path | None,
    engine: str,
    *,
    compute: Compute = "float16",
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    compute_capability: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Return what an engine's compiler makes of each graph of a bundle for clips of this size: see Engine.explain.

    compute_capability: of a card that need not be there, for engines whose compiler can do without.

    Raises UsageError, EngineError, BundleError, GeometryError, MissingExtraError, Cancelled.
    """
    card = None if compute_capability is None else parse_capability(compute_capability)
    # A compiler that builds for a card by name needs none; then whether the engine could run here is not asked.
    chosen = get_engine(engine) if card is None or engine not in ENGINES else ENGINES[engine]()
    bundle = open_bundle(path or demo_bundle_path())
    latents = latent_shape(bundle.manifest.latent, *bundle.manifest.defaults.complete(size, frames))
    graphs = {}
    names = list(bundle.manifest.roles.graphs())
    report_progress(on_progress, "compile", 0, len(names))
    for done, name in enumerate(names, start=1):
        graph = bundle.manifest.roles.graphs()[name]
        shapes = tuple(sorted(input_shapes(bundle.manifest, name, latents).items()))
        options = EngineOptions(
            compute=compute,
            shapes=shapes,
            activations=graph.activations or "float",
            pictures=component_of(name) == DECODER,
        )
        graphs[name] = chosen.explain(bundle.path(graph.file), options, card)
        report_progress(on_progress, "compile", done, len(names))
    return {"bundle_digest": bundle.manifest.digest, "engine": chosen.name, "compute": compute, "graphs": graphs}


def describe_build(shown: dict[str, Any]) -> list[str]:
    """Return what `show_build` found as lines of text."""
    lines = [
        f"target       {shown['target']}: opset {shown['opset']}, {shown['compute']} with float32 where that is needed"
    ]
    for name, graph in shown["graphs"].items():
        nodes = sum(graph["after"].values())
        shapes = ", ".join(
            f"{key} {'x'.join(map(str, shape))}" for key, shape in graph["shapes"].items() if len(shape) > 1
        )
        rewrites = ", ".join(f"{kind} {count}" for kind, count in graph["rewrites"].items()) or "none"
        lines += [
            f"graph        {name}: {sum(graph['before'].values())} nodes become {nodes}, {graph['half_nodes']} in "
            f"{shown['compute']}, {graph['float32_nodes']} in float32; weights {format_bytes(graph['weights'])}",
            f"  rewrites   {rewrites}",
            f"  for        {shapes if len(shapes) < _LONG else shapes[:_LONG].rpartition(',')[0] + ', …'}",
        ]
    return lines
