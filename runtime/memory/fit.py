"""The memory plan of a clip or a bundle, and what would fit where one does not: the nearest length, the nearest size."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

from ...bundle.manifest import LatentGeometry
from ...bundle.reader import Bundle, peek_bundle
from ...core.errors import PlanError, UsageError
from ...core.paths import demo_bundle_path
from ...core.progress import Progress, report_progress
from ...core.units import format_bytes
from ...engines import ENGINES, Engine, EngineOptions, get_engine
from ...engines.nvidia import shares_memory
from .budget import Budget, budget_of
from .plan import MemoryPlan, plan_memory
from .sizes import Uses, clip_sizes

Size = tuple[int, int, int]
"""Width and height in pixels, frames."""
_MOST_TRIED = 2 * 10
"""Sizes and lengths that are tried at the most: both are found by halving, among about a thousand each."""


def plan_clip(
    bundle: Bundle,
    size: Size,
    engine: Engine,
    options: EngineOptions,
    budget: Budget,
    *,
    only_decoder: bool = False,
    uses: Uses = Uses(),
    on_progress: Progress | None = None,
) -> MemoryPlan:
    """Return how memory is used for clips of a size on an engine, which need not be able to run here.

    only_decoder: the latents are there, and nothing else is opened. uses: what else is. on_progress is told of the stage
    `fit` where the size does not fit and the nearest that does is looked for, which takes seconds.
    Raises GeometryError where the model cannot do the size, PlanError where nothing fits, naming what would; Cancelled.
    """

    tried = 0

    def plan_of(candidate: Size) -> MemoryPlan:
        nonlocal tried
        if tried:
            report_progress(on_progress, "fit", min(tried - 1, _MOST_TRIED), _MOST_TRIED)
        tried += 1
        sizes = clip_sizes(bundle, *candidate, engine, options, only_decoder=only_decoder, uses=uses)
        streams = not (engine.streams_from_host and shares_memory())
        return plan_memory(sizes, budget, engine.device, streams=streams)

    plan = plan_of(size)
    if not plan.sizes.unknown:
        check_fit(size, plan, plan_of, bundle.manifest.latent, sampled=only_decoder)
    return plan


def check_fit(
    size: Size,
    plan: MemoryPlan,
    plan_of: Callable[[Size], MemoryPlan],
    latent: LatentGeometry,
    *,
    sampled: bool = False,
) -> None:
    """Raise PlanError where the plan of a size exceeds its budget, naming what is too large and what would fit.

    sampled: the clip's latents are there, so that no other size or length is of use.
    """
    if plan.fits:
        return
    width, height, frames = size
    worst = max(plan.phases, key=lambda name: plan.phases[name])
    found = [] if sampled else nearest_that_fit(size, lambda candidate: plan_of(candidate).fits, latent)
    alternatives = [f"{w}x{h} with {f} frame{'s' * (f > 1)}" for w, h, f in found]
    none = "" if sampled else ", and no smaller or shorter clip fits"
    would = f": {' or '.join(alternatives)} would" if alternatives else none
    raise PlanError(
        f"{width}x{height} with {frames} frames does not fit into {format_bytes(plan.budget.bytes)} of memory "
        f"({plan.budget.source}): {worst.replace('_', ' ')} needs {format_bytes(plan.phases[worst])} at the least{would} "
        "(--memory says what may be used)"
    )


def nearest_that_fit(size: Size, fits: Callable[[Size], bool], latent: LatentGeometry) -> list[Size]:
    """Return the longest clip of this size that fits, and the largest of this length in about this shape; none twice."""
    width, height, frames = size
    step = latent.temporal_scale * latent.patch[0]
    lengths = [(width, height, length) for length in range(frames - step, 0, -step)]
    pixels = [latent.spatial_scale * patch for patch in latent.patch[1:]]
    widths = range(width - pixels[1], 0, -pixels[1])
    sizes = [(w, max(1, round(height * w / width / pixels[0])) * pixels[0], frames) for w in widths]
    found = ((candidates, bisect_left(candidates, True, key=fits)) for candidates in (lengths, sizes))
    return [candidates[at] for candidates, at in found if at < len(candidates)]


def plan_bundle(
    path: Path | None,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    memory: str | None = None,
    engine: str = "auto",
    compute_capability: str | None = None,
    uses: Uses = Uses(),
    on_progress: Progress | None = None,
) -> MemoryPlan:
    """Return how memory would be used for clips of a size and length (None: the bundle's defaults); nothing is opened.

    uses: what clips need beside what every clip does. compute_capability: plan for an NVIDIA GPU of this kind in the place of
    what this machine has; `memory` says how much of it there is. Raises BundleError, GeometryError, UsageError, EngineError;
    PlanError where nothing fits.
    """
    bundle = peek_bundle(path or demo_bundle_path())
    runs_on = _engine(engine, compute_capability, memory)
    wanted = bundle.manifest.defaults.complete(size, frames)
    budget = budget_of(memory, runs_on.device)
    return plan_clip(bundle, wanted, runs_on, EngineOptions(), budget, uses=uses, on_progress=on_progress)


def _engine(name: str, capability: str | None, memory: str | None) -> Engine:
    """Return the engine that memory is planned for; for a card that is only described it need not be able to run."""
    if capability is None:
        return get_engine(name)
    parse_capability(capability)
    if memory is None:
        raise UsageError("a card that is only described has no free memory to look at: say how much with --memory")
    return ENGINES["cuda" if name == "auto" else name]()


def parse_capability(text: str) -> tuple[int, int]:
    """Return the compute capability that a text such as "8.9" stands for. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,2})\.([0-9])", text.strip(), re.ASCII)
    if found is None:
        raise UsageError(f"--compute-capability {text}: write it as NVIDIA does, for example 8.9")
    return int(found[1]), int(found[2])
