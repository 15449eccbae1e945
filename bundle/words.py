"""What a manifest says, in words for people."""

from __future__ import annotations

from .manifest import Recipe


def describe_rule(recipe: Recipe) -> str:
    """Return in a few words where a recipe's noise levels come from."""
    if recipe.warp is not None:
        return f"shift {recipe.shift:g} of {' '.join(f'{k:g}' for k in recipe.warp)}"
    if recipe.is_fixed:
        return "listed noise levels"
    if recipe.shift_by_tokens is not None:
        rule = recipe.shift_by_tokens
        few, many = (rule.shift(tokens) for tokens in (rule.base_tokens, rule.max_tokens))
        grown = f"shift {few:.3g} at {rule.base_tokens} and {many:.3g} at {rule.max_tokens} tokens"
        end = "" if recipe.terminal is None else f", ending at {recipe.terminal:g}"
        return (grown if few != many else f"shift {few:.3g} of evenly spread levels") + end
    return f"sigma_max {recipe.sigma_max:g}" if recipe.sampler == "rcm" else f"shift {recipe.shift:g}"


def describe_second(recipe: Recipe) -> str:
    """Return in a few words how a recipe goes on at the clip's size, "" where it has only that one."""
    second = recipe.second
    if second is None:
        return ""
    steps = f"{len(second.sigmas)} step{'s' * (len(second.sigmas) > 1)}"
    return f"at {second.scale:g} of the size, then {steps} more at all of it, {second.upscale}, from sigma {second.sigmas[0]:g}"


def describe_guidance(recipe: Recipe) -> str:
    """Return a recipe's guidance, that of each denoiser where they differ."""
    if recipe.expert_guidance is None:
        return f"{recipe.guidance:g}"
    return " and ".join(f"{guidance:g}" for guidance in recipe.expert_guidance) + " by denoiser"
