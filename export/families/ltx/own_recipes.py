"""How an LTX-Video checkpoint that brings no recipe is sampled: as its pipeline does with its scheduler."""

from __future__ import annotations

import math
from typing import Any

from ....bundle.manifest import Recipe
from ....core.errors import CheckpointError
from ...checkpoint import Checkpoint
from ...layout import read_json
from ...schedulers import RECIPE
from ...settings import Settings

STEPS, GUIDANCE = 50, 3.0  # both pipelines' defaults
ALONE = {
    "time_shift_type": ("exponential",),
    "invert_sigmas": (False,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "stochastic_sampling": (False,),
}
SHIFTS = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
EULER = Settings(
    "FlowMatchEulerDiscreteScheduler",
    obeyed=frozenset((*SHIFTS, "num_train_timesteps", "shift", "use_dynamic_shifting", "shift_terminal")),
    fixed=ALONE,
)
PLAIN_EULER = Settings(
    "FlowMatchEulerDiscreteScheduler",
    obeyed=frozenset(("num_train_timesteps",)),
    idle=frozenset(SHIFTS),
    fixed={**ALONE, "use_dynamic_shifting": (False,), "shift": (1.0,), "shift_terminal": (None, 0)},
)
"""For LTXConditionPipeline, which lists the noise levels itself."""
TOKENS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
"""Which settings of the scheduler say how the shift grows, and LTXPipeline's values where it has none."""
LINEAR_END = 0.025
"""Noise that the linear half of the linear-quadratic rule takes away."""


def own_recipes(checkpoint: Checkpoint) -> list[Recipe]:
    """Return the one recipe, none where another was asked for and the scheduler says nothing that is implemented.

    Raises CheckpointError for a scheduler that is not the pipeline's, and for settings that are not implemented.
    """
    try:
        return [_own_recipe(checkpoint)]
    except CheckpointError as error:
        if checkpoint.recipe is None:
            raise
        checkpoint.notes.append(f"only the recipe {checkpoint.recipe} is kept: {error}")
        return []


def _own_recipe(checkpoint: Checkpoint) -> Recipe:
    path = checkpoint.folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    if (kind := config.get("_class_name")) != EULER.name:
        raise CheckpointError(f"{path}: unknown scheduler {kind}; known: {EULER.name}; or {RECIPE}")
    plain = checkpoint.family == "LTXConditionPipeline"
    (PLAIN_EULER if plain else EULER).check(path, config, RECIPE)
    if plain:
        levels: dict[str, Any] = {"sigmas": linear_quadratic(STEPS)}
    elif config.get("use_dynamic_shifting"):
        levels = {"shift_by_tokens": _token_shift(config), "terminal": config.get("shift_terminal") or None}
    else:
        # LTXPipeline shifts its evenly spread levels once, where the runtime's `shift` for euler is diffusers' double one.
        shift = config.get("shift", 1.0) if checkpoint.shift is None else checkpoint.shift
        constant = math.log(float(shift))
        levels = {
            "shift_by_tokens": {"base_tokens": 0, "max_tokens": 1, "base_shift": constant, "max_shift": constant},
            "terminal": config.get("shift_terminal") or None,
        }
    return Recipe.model_validate(
        {
            "name": "euler",
            "sampler": "euler",
            "steps": STEPS,
            "guidance": GUIDANCE,
            "train_timesteps": config.get("num_train_timesteps", 1000),
            "source": f"diffusers {checkpoint.family}",
            **levels,
        }
    )


def linear_quadratic(steps: int) -> list[float]:
    """Return LTX-Video's noise levels: half of the steps go down evenly to 0.975, the others ever faster to 0.

    ltx_video/schedulers/rf.py, linear_quadratic_schedule. steps: even, at least 2.
    """
    linear = steps // 2
    rest = steps - linear
    slope = LINEAR_END / linear
    curve = (1 - LINEAR_END - slope * rest) / rest**2
    gone = [slope * step for step in range(linear)]
    gone += [LINEAR_END + slope * step + curve * step**2 for step in range(rest)]
    return [1 - noise for noise in gone]


def _token_shift(config: dict[str, Any]) -> dict[str, Any]:
    tokens = {key: config.get(key, default) for key, default in TOKENS.items()}
    return {
        "base_tokens": tokens["base_image_seq_len"],
        "max_tokens": tokens["max_image_seq_len"],
        "base_shift": float(tokens["base_shift"]),
        "max_shift": float(tokens["max_shift"]),
    }
