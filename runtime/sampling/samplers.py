"""Samplers: from noise to latents, step by step along a schedule, as pure functions.

A sampler is handed a function that returns the model's velocity (noise - x0), guidance already applied, and knows
nothing else about the model. Latents are float32 [B, C, F, H, W], and so is every step's arithmetic, as in diffusers
(rCM's is float64); coefficients that do not depend on the latents are Python floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...bundle.manifest import RCM_MOST_STEPS
from .schedules import Schedule, euler_schedule, even_schedule, rcm_schedule, unipc_schedule

Latents = npt.NDArray[np.float32]

# (latents, timestep, sigma) -> velocity, of the latents' shape
VelocityFunction = Callable[[Latents, float, float], Latents]

# () -> fresh unit normal noise, of the latents' shape
NoiseFunction = Callable[[], Latents]

# (steps done, steps in all); it may raise to stop the sampling
StepCallback = Callable[[int, int], None]


def sample_euler(
    velocity_of: VelocityFunction, latents: Latents, schedule: Schedule, on_step: StepCallback | None = None
) -> Latents:
    """Follow the flow from noise to data with Euler's method: x' = x + (sigma' - sigma)·v.

    Flow matching, Lipman et al. 2022 (arXiv 2210.02747); first order. `latents` float32 [B, C, F, H, W] are unit normal
    noise where the schedule starts at sigma = 1; they are not modified. Returns the clean latents, of the same shape.
    """
    sigmas = schedule.sigmas
    for step, timestep in enumerate(schedule.timesteps):
        velocity = velocity_of(latents, float(timestep), float(sigmas[step]))
        latents = latents + float(sigmas[step + 1] - sigmas[step]) * velocity
        if on_step is not None:
            on_step(step + 1, schedule.steps)
    return latents


def sample_unipc(
    velocity_of: VelocityFunction, latents: Latents, schedule: Schedule, on_step: StepCallback | None = None
) -> Latents:
    """Sample with UniPC-2: a second-order predictor whose result the next evaluation of the model corrects for free.

    Zhao et al. 2023 (arXiv 2302.04867), UniC and UniP (algorithms 1 and 2) as a multistep solver, in data-prediction
    form with B(h) = e^h - 1 ("bh2"). As diffusers runs it for Wan, the first and the last step are of first order.

    `latents` float32 [B, C, F, H, W] are not modified. Returns the clean latents, of the same shape. Raises ValueError
    where the schedule starts at sigma = 1, whose log signal-to-noise ratio is infinite.
    """
    if schedule.sigmas[0] >= 1:
        raise ValueError("UniPC needs noise levels below 1")
    origin = latents  # where the latest predictor step set out from
    seen: list[_Evaluation] = []  # the model's latest answers, newest first
    order = 0
    for step, timestep in enumerate(schedule.timesteps):
        sigma = float(schedule.sigmas[step])
        clean = latents - sigma * velocity_of(latents, float(timestep), sigma)
        evaluation = _Evaluation(sigma, clean)
        if seen:
            # The model is not asked again at the corrected latents: `clean` stays what it was at the predicted ones.
            latents = _correct(origin, seen, evaluation, order)
        seen = [evaluation, *seen[:1]]
        order = min(2, len(seen), schedule.steps - step)
        origin = latents
        latents = _predict(origin, seen, float(schedule.sigmas[step + 1]), order)
        if on_step is not None:
            on_step(step + 1, schedule.steps)
    return latents


class _Evaluation(NamedTuple):
    """One answer of the model: the clean latents it believes in, seen from noise level sigma."""

    sigma: float
    clean: Latents

    @property
    def log_snr(self) -> float:
        return _log_snr(self.sigma)


def _log_snr(sigma: float) -> float:
    """Return lambda = log((1 - sigma) / sigma), the variable the solver's polynomials are in."""
    return math.inf if sigma == 0 else math.log1p(-sigma) - math.log(sigma)


def _predict(origin: Latents, seen: list[_Evaluation], sigma: float, order: int) -> Latents:
    """UniP: go from the newest evaluation's noise level down to `sigma`, using the `order` newest evaluations."""
    start = seen[0]
    h = _log_snr(sigma) - start.log_snr
    scale = (1 - sigma) * math.expm1(-h)  # alpha·B(h), for data prediction; -1 at sigma = 0, where h is infinite
    latents = (sigma / start.sigma) * origin - scale * start.clean
    if order == 2:
        ratio = (seen[1].log_snr - start.log_snr) / h
        latents -= (scale * 0.5 / ratio) * (seen[1].clean - start.clean)
    return latents


def _correct(origin: Latents, seen: list[_Evaluation], arrived: _Evaluation, order: int) -> Latents:
    """UniC: redo the step from `origin` to `arrived.sigma`, now that the model's answer there is known too.

    `seen` are the evaluations before it and `order` that of the predictor step; the result is one order more accurate.
    """
    start = seen[0]
    h = arrived.log_snr - start.log_snr
    growth = math.expm1(-h)
    scale = (1 - arrived.sigma) * growth
    latents = (arrived.sigma / start.sigma) * origin - scale * start.clean
    weight = 0.5
    if order == 2:
        # The 2 x 2 system R·rho = b of the paper's theorem 3.1, solved by hand.
        ratio = (seen[1].log_snr - start.log_snr) / h
        phi_2 = growth / -h - 1
        phi_3 = phi_2 / -h - 0.5
        b_1, b_2 = phi_2 / growth, 2 * phi_3 / growth
        earlier = (b_1 - b_2) / (1 - ratio)
        weight = b_1 - earlier
        latents -= (scale * earlier / ratio) * (seen[1].clean - start.clean)
    latents -= (scale * weight) * (arrived.clean - start.clean)
    return latents


def sample_sde(
    velocity_of: VelocityFunction,
    latents: Latents,
    schedule: Schedule,
    draw: NoiseFunction,
    on_step: StepCallback | None = None,
) -> Latents:
    """Go to the clean latents the model believes in, and noise those anew: x' = (1 - sigma')·x0 + sigma'·noise.

    x0 = x - sigma·v. Multistep consistency sampling, Song et al. 2023 (arXiv 2303.01469, algorithm 1), on the noise
    levels of flow matching, as models distilled by distribution matching are trained to run: DMD2, Yin et al. 2024 (arXiv
    2405.14867); Self-Forcing, Huang et al. 2025 (arXiv 2506.08009). Exact for a model whose x0 is where the flow ends;
    one that predicts the mean of all possible x0, as undistilled models do, loses spread.

    `latents` float32 [B, C, F, H, W] are unit normal noise and are not modified. `draw` is called after each step but
    the last, which ends at x0. Returns the clean latents, of the same shape.
    """
    return _renoise(velocity_of, latents, schedule, draw, on_step)


def sample_rcm(
    velocity_of: VelocityFunction,
    latents: Latents,
    schedule: Schedule,
    draw: NoiseFunction,
    on_step: StepCallback | None = None,
) -> Latents:
    """Sample as `sample_sde` does, in float64, from noise that is scaled by the first noise level.

    rCM, Zheng et al. 2025 (arXiv 2510.08431), as TurboDiffusion runs it (Zhang et al. 2025, arXiv 2512.16093). The model
    is asked in float32. Arguments and result are those of `sample_sde`.
    """

    def in_float32(noisy: npt.NDArray[Any], timestep: float, sigma: float) -> Latents:
        return velocity_of(noisy.astype(np.float32), timestep, sigma)

    start = float(schedule.sigmas[0]) * latents.astype(np.float64)
    return _renoise(in_float32, start, schedule, draw, on_step).astype(np.float32)


def _renoise(
    velocity_of: Callable[[npt.NDArray[Any], float, float], Latents],
    latents: npt.NDArray[Any],
    schedule: Schedule,
    draw: NoiseFunction,
    on_step: StepCallback | None,
) -> npt.NDArray[Any]:
    """Alternate between the model's x0 and noise, in the precision of `latents`."""
    sigmas = schedule.sigmas
    for step, timestep in enumerate(schedule.timesteps):
        sigma, lower = float(sigmas[step]), float(sigmas[step + 1])
        latents = latents - sigma * velocity_of(latents, float(timestep), sigma)
        if lower > 0:
            latents = (1 - lower) * latents + lower * draw().astype(latents.dtype, copy=False)
        if on_step is not None:
            on_step(step + 1, schedule.steps)
    return latents


SampleFunction = Callable[[VelocityFunction, Latents, Schedule, NoiseFunction, StepCallback | None], Latents]


class Sampler(NamedTuple):
    """How to choose noise levels and how to step along them.

    schedule: the sampler's own rule, (steps, the recipe's `rule`, train_timesteps) -> Schedule.
    sample: (velocity_of, latents, schedule, draw, on_step) -> clean latents.
    takes_lists: whether it can step along noise levels that a recipe lists.
    """

    schedule: Callable[[int, float, int], Schedule]
    sample: SampleFunction
    rule: Literal["shift", "sigma_max"] = "shift"
    most_steps: int = 1000
    takes_lists: bool = False


def _without_noise(
    sample: Callable[[VelocityFunction, Latents, Schedule, StepCallback | None], Latents],
) -> SampleFunction:
    return lambda velocity_of, latents, schedule, _, on_step: sample(velocity_of, latents, schedule, on_step)


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler_schedule, _without_noise(sample_euler), takes_lists=True),
    "rcm": Sampler(rcm_schedule, sample_rcm, rule="sigma_max", most_steps=RCM_MOST_STEPS),
    "sde": Sampler(even_schedule, sample_sde, takes_lists=True),
    "unipc": Sampler(unipc_schedule, _without_noise(sample_unipc)),
}
