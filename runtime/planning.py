"""A memory plan for a bundle on this machine, or on a card that is only described."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from ..engines import Compute, get_engine
from ..errors import UsageError
from .bundle import peek_bundle
from .memory_budget import budget_of
from .memory_fitting import check_fit
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
    device, compute = _device(engine, compute_capability, memory)
    sizes = clip_sizes(bundle, width, height, frames, compute)
    plan = plan_memory(sizes, budget_of(memory, device), device)
    if not sizes.unknown:
        check_fit(bundle, (width, height, frames), plan, compute)
    return plan


def _device(engine: str, capability: str | None, memory: str | None) -> tuple[Literal["cpu", "gpu"], Compute]:
    """Return whose memory is planned, and what the graphs calculate in there."""
    if capability is None:
        chosen = get_engine(engine)
        return chosen.device, chosen.compute
    Described.parse(capability)
    if memory is None:
        raise UsageError("a card that is only described has no free memory to look at: say how much with --memory")
    return "gpu", "float16"
