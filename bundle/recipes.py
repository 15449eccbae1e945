"""The schema of a recipe: one way of sampling, as `reel.json` lists it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .bounds import Guidance, LongText, Shift, SigmaList, TimestepList
from .record import Record

RCM_MOST_STEPS = 4
"""rCM's authors publish its angles for 1 to 4 steps."""


class TokenShift(Record):
    """A shift that grows with the clip: its logarithm, between two numbers of tokens on the line through them and beyond.

    Tokens are the patches that the denoiser sees.
    """

    base_tokens: Annotated[int, Field(ge=0, le=2**24)]
    max_tokens: Annotated[int, Field(gt=0, le=2**24)]
    base_shift: Annotated[float, Field(ge=-20, le=20)]
    max_shift: Annotated[float, Field(ge=-20, le=20)]

    @model_validator(mode="after")
    def _is_a_line(self) -> TokenShift:
        if self.base_tokens >= self.max_tokens:
            raise ValueError(f"base_tokens is {self.base_tokens}: it must be less than max_tokens, {self.max_tokens}")
        return self

    def shift(self, tokens: int) -> float:
        """Return the shift for a clip of so many tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return math.exp(min(20.0, max(-20.0, self.base_shift + slope * (tokens - self.base_tokens))))


class SecondStage(Record):
    """How sampling goes on at the clip's own size, after the recipe's steps have made a clip of a smaller one.

    The clean latents x0 of that one are enlarged (`nearest`, or `linear` between pixels' centres) and noised to the first of
    `sigmas`: (1 - sigma)·x0 + sigma·noise, noise drawn anew. From there the recipe's sampler goes on along the list.

    scale: of height and width, the first size's to the clip's. sigmas: noise levels, falling; 0 follows the last one.
    timesteps: what the model is told at each; train_timesteps·sigma where left out.
    """

    scale: Annotated[float, Field(gt=0, lt=1)]
    upscale: Literal["nearest", "linear"] = "nearest"
    sigmas: SigmaList
    timesteps: TimestepList | None = None

    @model_validator(mode="after")
    def _levels_fall(self) -> SecondStage:
        if self.sigmas[0] >= 1:
            raise ValueError("the second stage begins at sigma 1: nothing of the first would be left")
        _check_list("second sigmas", self.sigmas, len(self.sigmas), 1)
        if self.timesteps is not None:
            _check_list("second timesteps", self.timesteps, len(self.sigmas), 1e6)
        return self

    @model_serializer(mode="wrap")
    def _without_timesteps_where_there_are_none(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in to_data(self).items() if key != "timesteps" or value is not None}


class Recipe(Record):
    """How to sample: one way of running the model that its makers (or distillers) recommend.

    Noise levels are given in one of these ways; a list falls strictly, has `steps` entries, and 0 follows its last one.

    - By the sampler's own rule, for any number of steps: `shift` is the s of shift(s, t) = s·t / (1 + (s - 1)·t) for
      `euler`, `unipc` and `sde`; `rcm` has `sigma_max` in its place and takes 1 to 4 steps.
    - `shift_by_tokens`, for `euler` and `sde` and any number of steps: levels spread evenly from 1 down, moved by the shift for
      the clip's size, then stretched so that the last before 0 is `terminal`, where that is given.
    - `warp`: listed timesteps k, moved by the shift: sigma = shift(s, k / train_timesteps).
    - `timesteps`: what the model is told, sigma = timestep / train_timesteps.
    - `sigmas`: what they are; the model is told train_timesteps·sigma or, where both are given, `timesteps`.

    guidance: classifier-free guidance scale; 1 or below runs the denoiser once a step, without the negative prompt.
    expert_guidance: that of each denoiser, where they differ.
    boundary: sigma from which up the first of two denoisers is in charge, where not the one their ranges say.
    second: how sampling goes on at the clip's size where its first steps make a smaller one, for `euler` and `sde`.
    source: where the recipe was read.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    sampler: Literal["euler", "unipc", "sde", "rcm"]
    steps: Annotated[int, Field(ge=1, le=1000)]
    shift: Shift | None = None
    shift_by_tokens: TokenShift | None = None
    terminal: Annotated[float, Field(gt=0, lt=1)] | None = None
    sigma_max: Shift | None = None
    warp: TimestepList | None = None
    timesteps: TimestepList | None = None
    sigmas: SigmaList | None = None
    guidance: Guidance
    expert_guidance: Annotated[list[Guidance], Field(max_length=8)] | None = None
    boundary: Annotated[float, Field(gt=0, lt=1)] | None = None
    train_timesteps: Annotated[int, Field(ge=2, le=1_000_000)] = 1000
    second: SecondStage | None = None
    source: LongText = ""

    @property
    def is_fixed(self) -> bool:
        """Whether the noise levels are listed, so that no other number of steps is possible."""
        return any(levels is not None for levels in (self.warp, self.timesteps, self.sigmas))

    @model_validator(mode="after")
    def _noise_levels_are_given_once(self) -> Recipe:
        lists = {"warp": self.warp, "timesteps": self.timesteps, "sigmas": self.sigmas}
        given = {key: levels for key, levels in lists.items() if levels is not None}
        if "warp" in given and (len(given) > 1 or self.shift is None):
            raise ValueError("warp needs shift, and neither timesteps nor sigmas")
        if given and self.sampler not in ("euler", "sde"):
            raise ValueError(f"{self.sampler} chooses its own noise levels and takes no {', '.join(given)}")
        if "warp" not in given and given and self.shift is not None:
            raise ValueError(f"shift does not apply to {', '.join(given)}")
        for key, levels in given.items():
            _check_list(key, levels, self.steps, 1 if key == "sigmas" else self.train_timesteps)
        if self.shift_by_tokens is not None and (
            given or self.shift is not None or self.sampler not in ("euler", "sde")
        ):
            raise ValueError("shift_by_tokens is for euler and sde, and goes with no shift and no list of noise levels")
        if self.terminal is not None and self.shift_by_tokens is None:
            raise ValueError("terminal needs shift_by_tokens")
        needed = "sigma_max" if self.sampler == "rcm" else "shift"
        if not given and self.shift_by_tokens is None and getattr(self, needed) is None:
            raise ValueError(f"{self.sampler} needs {needed} or a list of noise levels")
        if self.second is not None and self.sampler not in ("euler", "sde"):
            raise ValueError(f"{self.sampler} cannot go on from a noise level: a second stage is for euler and sde")
        if self.sampler == "rcm" and self.steps > RCM_MOST_STEPS:
            raise ValueError(f"rcm takes 1 to {RCM_MOST_STEPS} steps, not {self.steps}")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, to_data: SerializerFunctionWrapHandler) -> dict[str, Any]:
        known = type(self).model_fields
        return {key: value for key, value in to_data(self).items() if value is not None or key not in known}


def _check_list(key: str, levels: list[float], steps: int, highest: float) -> None:
    if len(levels) != steps:
        raise ValueError(f"{key} has {len(levels)} entries for {steps} steps")
    if levels[0] > highest or any(later >= earlier for earlier, later in pairwise(levels)):
        raise ValueError(f"{key} must fall strictly from at most {highest}: {levels}")
