"""Noise schedules for flow matching: which noise levels a sampler visits, and what the model is told at each.

At noise level sigma in [0, 1] the latents are (1 - sigma)·x0 + sigma·noise. The schedules for Euler and UniPC give the
numbers that diffusers' schedulers give, including habits that are not in any paper; each such habit is marked below,
because a model sampled without it makes another video.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle.manifest import RCM_MOST_STEPS
from ...core.errors import UsageError

# UniPC works in log((1 - sigma) / sigma), which is infinite at sigma = 1; diffusers starts this much below.
_UNIPC_HEADROOM = 1e-6

# rCM's angles after the first, as its authors publish them for 1 to 4 steps.
_RCM_ANGLES = (1.5, 1.4, 1.0)
assert len(_RCM_ANGLES) + 1 == RCM_MOST_STEPS


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one sampling run.

    sigmas: float32 (float64 for rCM) [steps + 1] in [0, 1], strictly decreasing; the last is 0, a clean video.
    timesteps: float32 [steps], what the model is given at each sigma but the last, in units of training timesteps.

    Raises UsageError where the noise levels are not such.
    """

    sigmas: npt.NDArray[np.floating[Any]]
    timesteps: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        sigmas = self.sigmas
        if len(sigmas) < 2 or len(self.timesteps) != len(sigmas) - 1:
            raise UsageError(
                f"a schedule needs one timestep per step and one noise level more, "
                f"not {len(self.timesteps)} timesteps and {len(sigmas)} noise levels"
            )
        if not (sigmas[0] <= 1 and sigmas[-1] == 0 and np.all(np.diff(sigmas) < 0)):
            raise UsageError("noise levels must fall strictly from at most 1 to 0: use fewer steps or a smaller shift")

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return len(self.timesteps)


def shift_sigma(t: float, shift: float) -> float:
    """Return shift·t / (1 + (shift - 1)·t): noise level t in [0, 1] moved up (shift > 1) or down (shift < 1)."""
    return shift * t / (1 + (shift - 1) * t)


def euler_schedule(steps: int, shift: float, train_timesteps: int = 1000) -> Schedule:
    """Return the schedule of diffusers' FlowMatchEulerDiscreteScheduler(shift=shift).

    The shift is applied twice at the low end: the lowest noise level of training is shifted, `steps` levels are spread
    evenly from 1 down to it, and those are shifted again.

    steps: at least 1. shift: above 0. train_timesteps: timesteps of training, at least 2. Raises UsageError otherwise.
    """
    _check(steps, shift, train_timesteps)
    # The first shift in float32 and the way through timesteps and back are what makes even the last bits equal; with
    # shifts far below 1, where the second one magnifies rounding, these reach the fifth digit.
    ends = np.array([train_timesteps, 1], np.float32) / np.float32(train_timesteps)
    ends = np.float32(shift) * ends / (1 + np.float32(shift - 1) * ends)
    highest, lowest = (float(end) * train_timesteps for end in ends)
    even = np.linspace(highest, lowest, steps) / train_timesteps
    sigmas = _shifted(even, shift).astype(np.float32)
    return Schedule(np.append(sigmas, np.float32(0)), sigmas * np.float32(train_timesteps))


def unipc_schedule(steps: int, shift: float, train_timesteps: int = 1000) -> Schedule:
    """Return the schedule of diffusers' UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=shift).

    The timesteps are cut down to whole numbers (954.595 becomes 954), and the first noise level is 0.999999, not 1.

    steps: at least 1. shift: above 0. train_timesteps: timesteps of training, at least 2. Raises UsageError otherwise.
    """
    _check(steps, shift, train_timesteps)
    even = np.linspace(1, 1 / train_timesteps, steps + 1)[:-1]
    sigmas = _shifted(even, shift)
    sigmas[0] -= _UNIPC_HEADROOM
    timesteps = np.trunc(sigmas * train_timesteps).astype(np.float32)
    return Schedule(np.append(sigmas, 0).astype(np.float32), timesteps)


def even_schedule(steps: int, shift: float, train_timesteps: int = 1000) -> Schedule:
    """Return noise levels spread evenly from 1 down and then shifted: sigma = shift(s, 1 - i / steps), and 0.

    It is what few-step checkpoints are distilled on: four steps at shift 5 are 1, 0.9375, 0.8333 and 0.625.

    steps: at least 1. shift: above 0. train_timesteps: timesteps of training, at least 2. Raises UsageError otherwise.
    """
    _check(steps, shift, train_timesteps)
    sigmas = _shifted(1 - np.arange(steps) / steps, shift)
    return listed_schedule(sigmas, sigmas * train_timesteps)


def stretched_schedule(steps: int, shift: float, terminal: float | None, train_timesteps: int = 1000) -> Schedule:
    """Return `even_schedule`'s noise levels, stretched so that the last before 0 is `terminal` (None: as they are).

    It is what diffusers' LTXPipeline has of FlowMatchEulerDiscreteScheduler with `use_dynamic_shifting` and `shift_terminal`.
    One step, which is at 1 alone, is not stretched. Raises UsageError as even_schedule does.
    """
    _check(steps, shift, train_timesteps)
    sigmas = _shifted(1 - np.arange(steps) / steps, shift)
    if terminal is not None and steps > 1:
        sigmas = 1 - (1 - sigmas) * ((1 - terminal) / (1 - sigmas[-1]))
    return listed_schedule(sigmas, sigmas * train_timesteps)


def rcm_schedule(steps: int, sigma_max: float, train_timesteps: int = 1000) -> Schedule:
    """Return rCM's noise levels: the angles atan(sigma_max), 1.5, 1.4 and 1.0, as many as steps, on the line of flow.

    Zheng et al. 2025 (arXiv 2510.08431) put noise on a circle, cos(a)·x0 + sin(a)·noise; the same signal-to-noise ratio
    lies at sigma = sin(a) / (sin(a) + cos(a)). The noise levels are float64, as TurboDiffusion has them.

    steps: 1 to 4. sigma_max: tan of the first angle, above tan(1.5) = 14.1. Raises UsageError otherwise.
    """
    if not 1 <= steps <= RCM_MOST_STEPS:
        raise UsageError(f"the number of steps is {steps}: rcm takes 1 to {RCM_MOST_STEPS}")
    if not (math.isfinite(sigma_max) and math.atan(sigma_max) > _RCM_ANGLES[0]):
        raise UsageError(f"sigma_max is {sigma_max}: it must be a number above {math.tan(_RCM_ANGLES[0]):.1f}")
    angles = np.array([math.atan(sigma_max), *_RCM_ANGLES[: steps - 1], 0])
    sigmas = np.sin(angles) / (np.sin(angles) + np.cos(angles))
    return Schedule(sigmas, (sigmas[:-1] * train_timesteps).astype(np.float32))


def listed_schedule(
    sigmas: Sequence[float] | npt.NDArray[Any], timesteps: Sequence[float] | npt.NDArray[Any]
) -> Schedule:
    """Return the schedule of these noise levels and timesteps, [steps] each; the final 0 is added. Raises UsageError."""
    return Schedule(np.append(sigmas, 0).astype(np.float32), np.asarray(timesteps, np.float32))


def _shifted(sigmas: npt.NDArray[np.float64], shift: float) -> npt.NDArray[np.float64]:
    """Apply `shift_sigma` to each noise level, float64 [n], and keep rounding from lifting any above 1."""
    return np.minimum(shift * sigmas / (1 + (shift - 1) * sigmas), 1.0)


def _check(steps: int, shift: float, train_timesteps: int) -> None:
    if steps < 1:
        raise UsageError(f"the number of steps is {steps}: it must be at least 1")
    if not (math.isfinite(shift) and shift > 0):
        raise UsageError(f"the shift is {shift}: it must be a number above 0")
    if train_timesteps < 2:
        raise UsageError(f"the number of training timesteps is {train_timesteps}: it must be at least 2")
