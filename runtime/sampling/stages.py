"""Sampling in two stages: a smaller clip first, then the clip's own size from a noise level on.

The second stage begins where a clip of its size would be at that noise level, if the enlarged one were it: the latents are
(1 - sigma)·x0 + sigma·noise, as everywhere in flow matching (see schedules.py). LTX-Video's authors sample so with a learned
enlargement; here it is plain interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...bundle.geometry import token_count
from ...bundle.manifest import LatentGeometry, Recipe, SecondStage
from ...core.errors import UsageError
from .noise import NoiseSource
from .recipes import schedule_of
from .samplers import SAMPLERS
from .schedules import Schedule, listed_schedule

Latents = NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """One of the sizes that a clip is sampled at: its latents' shape [1, C, F, H, W], and the noise levels there."""

    shape: tuple[int, int, int, int, int]
    schedule: Schedule


def stages_of(
    recipe: Recipe, sampler: str, steps: int, geometry: LatentGeometry, shape: tuple[int, int, int, int, int]
) -> list[Stage]:
    """Return the stages in which latents of a shape are sampled: one, or two where the recipe has a second.

    sampler, steps: the completed request's. Raises UsageError where the sampler cannot go on from a noise level.
    """
    if recipe.second is None:
        return [Stage(shape, schedule_of(recipe, sampler, steps, token_count(geometry, shape)))]
    first = first_shape(recipe.second, geometry, shape)
    return [
        Stage(first, schedule_of(recipe, sampler, steps, token_count(geometry, first))),
        Stage(shape, _second_schedule(recipe, recipe.second, sampler)),
    ]


def first_shape(
    second: SecondStage, geometry: LatentGeometry, shape: tuple[int, int, int, int, int]
) -> tuple[int, int, int, int, int]:
    """Return the shape of the first stage's latents: height and width scaled, to the nearest whole number of patches."""
    batch, channels, frames, height, width = shape
    rows, columns = (
        max(1, round(extent * second.scale / patch)) * patch
        for extent, patch in ((height, geometry.patch[1]), (width, geometry.patch[2]))
    )
    return batch, channels, frames, min(rows, height), min(columns, width)


def hand_over(clean: Latents, stage: Stage, second: SecondStage, noise: NoiseSource) -> Latents:
    """Return the latents that the second stage begins with: the first's, enlarged, at its first noise level.

    clean: [1, C, F, h, w]. noise: where the noise is taken from, next in order.
    """
    large = enlarge(clean, stage.shape[3:], second.upscale)
    sigma = np.float32(stage.schedule.sigmas[0])
    return (np.float32(1) - sigma) * large + sigma * noise.draw(stage.shape)


def enlarge(latents: Latents, size: tuple[int, int], how: Literal["nearest", "linear"]) -> Latents:
    """Return latents [1, C, F, h, w] with this height and width, each axis interpolated between pixels' centres.

    `nearest` takes the pixel whose area holds the new one's centre, `linear` weighs the two beside it; beyond the outermost
    centres the picture goes on as it is there. As torch's `nearest-exact` and `bilinear` (without aligned corners).
    """
    for axis, length in ((3, size[0]), (4, size[1])):
        extent = latents.shape[axis]
        centres = (np.arange(length) + 0.5) * (extent / length) - 0.5
        if how == "nearest":
            latents = np.take(latents, np.clip(np.floor(centres + 0.5), 0, extent - 1).astype(np.int64), axis)
            continue
        centres = np.clip(centres, 0, extent - 1)
        lower = np.floor(centres).astype(np.int64)
        share = (centres - lower).astype(np.float32).reshape([-1 if at == axis else 1 for at in range(latents.ndim)])
        upper = np.minimum(lower + 1, extent - 1)
        latents = np.take(latents, lower, axis) * (np.float32(1) - share) + np.take(latents, upper, axis) * share
    return latents


def check_second(recipe: Recipe, sampler: str) -> None:
    """Raise UsageError where a sampler cannot go on from a noise level."""
    if not SAMPLERS[sampler].takes_lists:
        able = " or ".join(name for name in sorted(SAMPLERS) if SAMPLERS[name].takes_lists)
        raise UsageError(
            f"recipe {recipe.name} goes on from a noise level in its second stage, which {sampler} cannot: choose {able}"
        )


def _second_schedule(recipe: Recipe, second: SecondStage, sampler: str) -> Schedule:
    check_second(recipe, sampler)
    timesteps = second.timesteps or [recipe.train_timesteps * sigma for sigma in second.sigmas]
    return listed_schedule(second.sigmas, timesteps)
