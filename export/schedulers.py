"""diffusers' schedulers as recipes: what of their configurations is implemented, and what has no effect on it.

`sampler-recipes` of the classes named here are the runtime's `unipc` and `euler`, on flow sigmas moved by a constant shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import CheckpointError
from .settings import Settings

RECIPE = "choose a published recipe instead, with --recipe"


class Scheduler(NamedTuple):
    """A scheduler class: the sampler that does what it does, the key of its shift, and its settings."""

    sampler: str
    shift: str
    settings: Settings


UNIPC = Settings(
    "UniPCMultistepScheduler",
    obeyed=frozenset(("num_train_timesteps", "flow_shift")),
    # The betas are only used without flow sigmas; the flow sigmas take the place of any spacing.
    idle=frozenset(
        (
            "beta_start",
            "beta_end",
            "beta_schedule",
            "trained_betas",
            "rescale_betas_zero_snr",
            "timestep_spacing",
            "steps_offset",
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "time_shift_type",
            "sigma_min",
            "sigma_max",
        )
    ),
    fixed={
        "solver_order": (2,),
        "thresholding": (False,),
        "predict_x0": (True,),
        "solver_type": ("bh2", "midpoint", "heun", "logrho"),  # diffusers reads the last three as bh2
        "lower_order_final": (True,),
        "disable_corrector": ([],),
        "solver_p": (None,),
        "use_karras_sigmas": (False,),
        "use_exponential_sigmas": (False,),
        "use_beta_sigmas": (False,),
        "final_sigmas_type": ("zero",),
        "use_dynamic_shifting": (False,),
        "shift_terminal": (None,),
    },
    needed={"prediction_type": "flow_prediction", "use_flow_sigmas": True},
)

EULER = Settings(
    "FlowMatchEulerDiscreteScheduler",
    obeyed=frozenset(("num_train_timesteps", "shift")),
    # Of dynamic shifting, which is refused.
    idle=frozenset(("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")),
    fixed={
        "use_dynamic_shifting": (False,),
        "invert_sigmas": (False,),
        "shift_terminal": (None, 0),
        "use_karras_sigmas": (False, None),
        "use_exponential_sigmas": (False, None),
        "use_beta_sigmas": (False, None),
        "stochastic_sampling": (False,),
    },
)

SCHEDULERS = {
    "UniPCMultistepScheduler": Scheduler("unipc", "flow_shift", UNIPC),
    "FlowMatchEulerDiscreteScheduler": Scheduler("euler", "shift", EULER),
}


class Schedule(NamedTuple):
    """What a scheduler's configuration comes down to."""

    sampler: str
    shift: float
    train_timesteps: int


def read_schedule(path: Path, config: Mapping[str, Any], listed: str | None, asked: float | None = None) -> Schedule:
    """Return what a `scheduler_config.json` says. Raises CheckpointError for what is not implemented.

    listed: the class that `model_index.json` names, which is the one that diffusers builds; None where it names none.
    asked: the shift to take in place of the configuration's.
    """
    kind = str(config.get("_class_name"))
    if kind not in SCHEDULERS:
        raise CheckpointError(f"{path}: unknown scheduler {kind}; known: {', '.join(SCHEDULERS)}; or {RECIPE}")
    if listed is not None and listed != kind:
        raise CheckpointError(
            f"{path}: is a {kind}'s, but model_index.json has a {listed} as scheduler; make them agree, or {RECIPE}"
        )
    scheduler = SCHEDULERS[kind]
    scheduler.settings.check(path, config, RECIPE)
    shift = config.get(scheduler.shift, 1.0) if asked is None else asked
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not math.isfinite(shift) or shift <= 0:
        raise CheckpointError(f"{path}: {scheduler.shift} is {shift!r}, not a number above 0; set it, or give --shift")
    steps = config.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= 1_000_000:
        raise CheckpointError(f"{path}: num_train_timesteps is {steps!r}, not a whole number from 2 to 1000000")
    return Schedule(scheduler.sampler, float(shift), steps)
