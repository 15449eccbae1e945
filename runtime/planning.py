"""A memory plan for a bundle on this machine, or on a card that is only described."""

from __future__ import annotations

import re
from pathlib import Path

from ..bundle.reader import peek_bundle
from ..core.errors import UsageError
from ..core.paths import demo_bundle_path
from ..core.progress import Progress
from ..engines import ENGINES, Engine, EngineOptions, get_engine
from .memory.budget import budget_of
from .memory.fit import plan_clip
from .memory.plan import MemoryPlan


def plan_bundle(
    path: Path | None,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    memory: str | None = None,
    engine: str = "auto",
    compute_capability: str | None = None,
    on_progress: Progress | None = None,
) -> MemoryPlan:
    """Return how memory would be used for clips of a size and length (None: the bundle's defaults); nothing is opened.

    compute_capability: plan for an NVIDIA GPU of this kind in the place of what this machine has; `memory` says how much of
    it there is. Raises BundleError, GeometryError, UsageError, EngineError; PlanError where nothing fits.
    """
    bundle = peek_bundle(path or demo_bundle_path())
    runs_on = _engine(engine, compute_capability, memory)
    wanted = bundle.manifest.defaults.complete(size, frames)
    budget = budget_of(memory, runs_on.device)
    return plan_clip(bundle, wanted, runs_on, EngineOptions(), budget, on_progress=on_progress)


def _engine(name: str, capability: str | None, memory: str | None) -> Engine:
    """Return the engine that memory is planned for; for a card that is only described it need not be able to run."""
    if capability is None:
        return get_engine(name)
    if re.fullmatch(r"[0-9]{1,2}\.[0-9]", capability.strip(), re.ASCII) is None:
        raise UsageError(f"--compute-capability {capability}: write it as NVIDIA does, for example 8.9")
    if memory is None:
        raise UsageError("a card that is only described has no free memory to look at: say how much with --memory")
    return ENGINES["cuda" if name == "auto" else name]()
