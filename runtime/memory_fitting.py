"""What would fit where a clip does not: the nearest length at its size, and the nearest size at its length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import PlanError
from .manifest import LatentGeometry
from .memory_budget import format_bytes
from .memory_plan import MemoryPlan

Size = tuple[int, int, int]
"""Width and height in pixels, frames."""


def check_fit(size: Size, plan: MemoryPlan, plan_of: Callable[[Size], MemoryPlan], latent: LatentGeometry) -> None:
    """Raise PlanError where the plan of a size exceeds its budget, naming what is too large and what would fit."""
    if plan.fits:
        return
    width, height, frames = size
    worst = max(plan.phases, key=lambda name: plan.phases[name])
    found = nearest_that_fit(size, lambda candidate: plan_of(candidate).fits, latent)
    alternatives = [f"{w}x{h} with {f} frame{'s' * (f > 1)}" for w, h, f in found]
    would = f": {' or '.join(alternatives)} would" if alternatives else ", nor does any smaller or shorter clip"
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
    found = (_first(candidates, fits) for candidates in (lengths, sizes))
    return [candidate for candidate in found if candidate is not None]


def _first(candidates: Sequence[Size], fits: Callable[[Size], bool]) -> Size | None:
    """Return the first of falling candidates that fits, None where not even the last does; few are tried."""
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if fits(candidates[middle]):
            high = middle
        else:
            low = middle + 1
    return candidates[low] if low < len(candidates) else None
