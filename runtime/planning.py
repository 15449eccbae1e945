"""A memory plan for a bundle on this machine, or on a card that is only described."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ..engines import ENGINES, Engine, EngineOptions, get_engine
from ..errors import UsageError
from .bundle import peek_bundle
from .memory_budget import budget_of
from .memory_fitting import Size, check_fit
from .memory_plan import MemoryPlan, plan_memory
from .memory_sizes import clip_sizes
from .reel import demo_bundle_path


class Described(NamedTuple):
    """A card by its compute capability, such as (8, 9)."""

    major: int
    minor: int

    @staticmethod
    def parse(text: str) -> Described:
        """Return the card of "8.9". Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,2})\.([0-9])", text.strip(), re.ASCII)
        if match is None:
            raise UsageError(f"--compute-capability {text}: write it as NVIDIA does, for example 8.9")
        return Described(int(match[1]), int(match[2]))


def plan_bundle(
    path: Path | None,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    memory: str | None = None,
    engine: str = "auto",
    compute_capability: str | None = None,
) -> MemoryPlan:
    """Return how memory would be used for clips of a size and length (None: the bundle's defaults); nothing is opened.

    compute_capability: plan for an NVIDIA GPU of this kind in the place of what this machine has; `memory` says how much of
    it there is. Raises BundleError, GeometryError, UsageError, EngineError; PlanError where nothing fits.
    """
    bundle = peek_bundle(path or demo_bundle_path())
    defaults = bundle.manifest.defaults
    width, height = size or (defaults.width, defaults.height)
    frames = defaults.frames if frames is None else frames
    runs_on = _engine(engine, compute_capability, memory)
    budget = budget_of(memory, runs_on.device)

    def plan_of(candidate: Size) -> MemoryPlan:
        return plan_memory(clip_sizes(bundle, *candidate, runs_on, EngineOptions()), budget, runs_on.device)

    plan = plan_of((width, height, frames))
    if not plan.sizes.unknown:
        check_fit((width, height, frames), plan, plan_of, bundle.manifest.latent)
    return plan


def _engine(name: str, capability: str | None, memory: str | None) -> Engine:
    """Return the engine that memory is planned for; for a card that is only described it need not be able to run."""
    if capability is None:
        return get_engine(name)
    Described.parse(capability)
    if memory is None:
        raise UsageError("a card that is only described has no free memory to look at: say how much with --memory")
    return ENGINES["cuda" if name == "auto" else name]()
