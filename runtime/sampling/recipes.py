"""From a recipe, and what the caller wants otherwise, to the noise levels of one run."""

from __future__ import annotations

from ...bundle.manifest import Recipe
from ...core.errors import UsageError
from .samplers import SAMPLERS
from .schedules import Schedule, listed_schedule, shift_sigma, stretched_schedule


def schedule_of(
    recipe: Recipe, sampler: str | None = None, steps: int | None = None, tokens: int | None = None
) -> Schedule:
    """Return the noise levels of a recipe, with another sampler or number of steps where given.

    tokens: of the clip, for recipes whose shift depends on it; None is the number that the recipe starts from, which is right
    for asking how many steps there are.

    Raises UsageError where the recipe does not allow that: listed noise levels are for their own number of steps and for
    samplers that choose none themselves; a rule needs its number (`shift`, `sigma_max`) in the recipe.
    """
    sampler = sampler or recipe.sampler
    if sampler not in SAMPLERS:
        raise UsageError(f"unknown sampler {sampler!r}: choose from {', '.join(sorted(SAMPLERS))}")
    steps = recipe.steps if steps is None else steps
    if recipe.is_fixed:
        return _listed(recipe, sampler, steps)
    chosen = SAMPLERS[sampler]
    if recipe.shift_by_tokens is not None:
        return _by_tokens(recipe, sampler, steps, tokens)
    number = recipe.shift if chosen.rule == "shift" else recipe.sigma_max
    if number is None:
        raise UsageError(
            f"recipe {recipe.name} has no {chosen.rule}, which the sampler {sampler} needs: "
            f"keep to its own sampler, {recipe.sampler}, or choose another recipe"
        )
    if not 1 <= steps <= chosen.most_steps:
        raise UsageError(f"{steps} steps are not possible with {sampler}: choose from 1 to {chosen.most_steps}")
    return chosen.schedule(steps, number, recipe.train_timesteps)


def _by_tokens(recipe: Recipe, sampler: str, steps: int, tokens: int | None) -> Schedule:
    rule = recipe.shift_by_tokens
    assert rule is not None
    chosen = SAMPLERS[sampler]
    if not chosen.takes_lists:
        raise UsageError(
            f"recipe {recipe.name} has noise levels of its own for each size and {sampler} chooses its own: "
            f"keep to its own sampler, {recipe.sampler}, or choose another recipe"
        )
    if not 1 <= steps <= chosen.most_steps:
        raise UsageError(f"{steps} steps are not possible with {sampler}: choose from 1 to {chosen.most_steps}")
    shift = rule.shift(rule.base_tokens if tokens is None else tokens)
    return stretched_schedule(steps, shift, recipe.terminal, recipe.train_timesteps)


def _listed(recipe: Recipe, sampler: str, steps: int) -> Schedule:
    if not SAMPLERS[sampler].takes_lists:
        able = ", ".join(name for name in sorted(SAMPLERS) if SAMPLERS[name].takes_lists)
        raise UsageError(
            f"recipe {recipe.name} lists its noise levels and {sampler} chooses its own: choose from {able}, "
            "or another recipe"
        )
    if steps != recipe.steps:
        raise UsageError(
            f"recipe {recipe.name} lists the noise levels of {recipe.steps} steps, so {steps} are not possible: "
            f"leave steps out, or choose another recipe"
        )
    return listed_schedule(*_levels(recipe))


def _levels(recipe: Recipe) -> tuple[list[float], list[float]]:
    """Return the sigmas and timesteps that a recipe with a list stands for."""
    scale = recipe.train_timesteps
    if recipe.warp is not None and recipe.shift is not None:
        sigmas = [min(shift_sigma(k / scale, recipe.shift), 1.0) for k in recipe.warp]
    else:
        sigmas = recipe.sigmas or [timestep / scale for timestep in recipe.timesteps or []]
    return sigmas, recipe.timesteps or [scale * sigma for sigma in sigmas]
