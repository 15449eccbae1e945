"""One generation's settings: what the caller asked for, completed from the bundle, and checked."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.geometry import clip_size, latent_shape
from ..bundle.manifest import Manifest, Recipe
from ..core.errors import GeometryError, UsageError
from .sampling.recipes import schedule_of


@dataclass(frozen=True)
class Request:
    """Everything that decides what a clip looks like; written into the video's metadata.

    guidances: classifier-free guidance of each denoiser. shift: None where the recipe has none.
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidances: tuple[float, ...]
    sampler: str
    shift: float | None
    recipe: str
    width: int
    height: int
    frames: int
    fps: int
    own_latents: bool

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return asdict(self)


def complete_request(
    manifest: Manifest,
    prompt: str,
    *,
    seed: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative_prompt: str | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    fps: int | None = None,
    latents: NDArray[Any] | None = None,
    sampler: str | None = None,
    recipe: str | None = None,
) -> Request:
    """Fill in what the caller left open and refuse what the model cannot do, before anything is computed.

    Raises UsageError, GeometryError.
    """
    chosen = _recipe(manifest, recipe, steps)
    steps = schedule_of(chosen, sampler, steps).steps
    guidances = _guidances(manifest, chosen, guidance)
    if negative_prompt and max(guidances) <= 1:
        made_for = "" if guidance is not None else f", which the recipe {chosen.name} is made for"
        raise UsageError(
            f"a negative prompt has no effect at guidance {max(guidances):g}{made_for}: leave it out, or choose more guidance"
        )
    defaults = manifest.defaults
    fps = defaults.fps if fps is None else fps
    if not 1 <= fps <= 240:
        raise UsageError(f"{fps} frames per second are not possible: choose from 1 to 240")
    if latents is not None:
        size, frames = _size_of_latents(manifest, latents, size, frames)
    width, height, frames = defaults.complete(size, frames)
    latent_shape(manifest.latent, width, height, frames)
    return Request(
        prompt=prompt,
        negative_prompt=negative_prompt or "",
        seed=0 if seed is None else seed,
        steps=steps,
        guidances=guidances,
        sampler=sampler or chosen.sampler,
        shift=chosen.shift,
        recipe=chosen.name,
        width=width,
        height=height,
        frames=frames,
        fps=fps,
        own_latents=latents is not None,
    )


def _recipe(manifest: Manifest, name: str | None, steps: int | None) -> Recipe:
    """Return the recipe of that name; without one the default or, if that lists other steps, one that lists these."""
    chosen = manifest.recipe(name)
    if chosen is None:
        known = ", ".join(recipe.name for recipe in manifest.recipes)
        raise UsageError(f"this bundle has no recipe {name!r}: choose from {known}")
    if name is None and chosen.is_fixed and steps not in (None, chosen.steps):
        listed = {recipe.steps: recipe for recipe in reversed(manifest.recipes) if recipe.is_fixed}
        if steps not in listed:
            able = ", ".join(map(str, sorted(listed)))
            raise UsageError(f"{steps} steps are not possible: this bundle's recipes list the noise levels of {able}")
        return listed[steps]
    return chosen


def _guidances(manifest: Manifest, recipe: Recipe, asked: float | None) -> tuple[float, ...]:
    """Return each denoiser's guidance: what was asked for, else the recipe's for it, its own, the recipe's for all."""
    experts = manifest.roles.denoiser
    if asked is not None:
        guidances = [float(asked)] * len(experts)
    else:
        own = [recipe.guidance if expert.guidance is None else expert.guidance for expert in experts]
        guidances = recipe.expert_guidance or own
    for guidance in guidances:
        if not (math.isfinite(guidance) and 0 <= guidance <= 100):
            raise UsageError(f"guidance {guidance} is not possible: choose from 0 to 100 (1 and below turns it off)")
    return tuple(guidances)


def _size_of_latents(
    manifest: Manifest, latents: NDArray[Any], size: tuple[int, int] | None, frames: int | None
) -> tuple[tuple[int, int], int]:
    """Return the size and length that the caller's latents decode to; a different one asked for is an error."""
    channels = manifest.latent.channels
    if not isinstance(latents, np.ndarray):
        raise UsageError(f"latents are a {type(latents).__name__}: they must be a numpy array")
    if latents.ndim != 5 or latents.shape[:2] != (1, channels) or 0 in latents.shape:
        raise GeometryError(f"latents have shape {list(latents.shape)}: this model takes [1, {channels}, F, H, W]")
    if latents.dtype != np.float32:
        raise UsageError(f"latents are {latents.dtype}: they must be float32")
    if not np.isfinite(latents).all():
        raise UsageError("latents hold values that are not finite numbers")
    width, height, length = clip_size(manifest.latent, latents.shape)
    if size not in (None, (width, height)) or frames not in (None, length):
        raise GeometryError(
            f"latents of shape {list(latents.shape)} make {length} frames of {width}x{height}, not what was asked for"
        )
    return (width, height), length
