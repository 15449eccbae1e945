from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from edgereel.runtime.sampling.samplers import SAMPLERS, sample_euler, sample_rcm, sample_sde, sample_unipc
from edgereel.runtime.sampling.schedules import (
    Schedule,
    euler_schedule,
    even_schedule,
    listed_schedule,
    rcm_schedule,
    shift_sigma,
    unipc_schedule,
)

SHAPE = (1, 4, 3, 6, 5)
RULES = {"rcm": 80.0}  # what its schedule takes in the place of a shift


def random_velocity():
    """A nonlinear function that mixes channels and depends on latents and timestep, as a model does."""
    generator = np.random.default_rng(11)
    mix = generator.normal(size=(4, 4)).astype(np.float32) / 2
    wave = generator.normal(size=(4, 1, 1, 1)).astype(np.float32)

    def velocity_of(latents, timestep, sigma):
        mixed = np.einsum("dc,bcfhw->bdfhw", mix, latents)
        return np.tanh(mixed + wave * np.float32(timestep / 100)) + np.float32(0.3) * latents

    return velocity_of


def noise(seed=3):
    return np.random.RandomState(np.random.MT19937(seed)).standard_normal(SHAPE).astype(np.float32)


def recorded(velocity_of):
    """Wrap a velocity function so that the latents it is asked about are kept."""
    seen = []

    def wrapped(latents, timestep, sigma):
        seen.append(latents.copy())
        return velocity_of(latents, timestep, sigma)

    return wrapped, seen


def trajectory(name, schedule, velocity_of):
    velocity_of, seen = recorded(velocity_of)
    seen.append(SAMPLERS[name].sample(velocity_of, noise(), schedule, noise, None))
    return seen


def trajectory_of_diffusers(name, steps, shift, velocity_of):
    if name == "euler":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    else:
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    latents = torch.from_numpy(noise())
    seen = [latents.numpy().copy()]
    for timestep in scheduler.timesteps:
        velocity = torch.from_numpy(velocity_of(latents.numpy(), float(timestep), float("nan")))
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        seen.append(latents.numpy().copy())
    return seen


def worst_difference(ours, theirs):
    """The largest ||a - b|| / ||b|| over all steps."""
    assert len(ours) == len(theirs)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 30, 50])
@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_every_step_equals_diffusers(name, steps, shift):
    schedule = SAMPLERS[name].schedule(steps, shift, 1000)
    ours = trajectory(name, schedule, random_velocity())
    theirs = trajectory_of_diffusers(name, steps, shift, random_velocity())
    assert ours[-1].dtype == np.float32
    assert worst_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("shift", [1.5, 3.0, 5.0])
def test_the_comparison_sees_timesteps_that_are_not_truncated(shift):
    schedule = unipc_schedule(8, shift)
    wrong = dataclasses.replace(schedule, timesteps=schedule.sigmas[:-1] * np.float32(1000))
    theirs = trajectory_of_diffusers("unipc", 8, shift, random_velocity())
    assert worst_difference(trajectory("unipc", wrong, random_velocity()), theirs) > 1e-4


def test_the_comparison_sees_an_euler_shift_applied_once():
    sigmas = np.array([*(shift_sigma(t, 3.0) for t in np.linspace(1, 0.001, 8)), 0], np.float32)
    once = Schedule(sigmas, sigmas[:-1] * np.float32(1000))
    theirs = trajectory_of_diffusers("euler", 8, 3.0, random_velocity())
    assert worst_difference(trajectory("euler", once, random_velocity()), theirs) > 1e-4


def test_the_comparison_sees_one_sampler_in_place_of_the_other():
    theirs = trajectory_of_diffusers("unipc", 8, 3.0, random_velocity())
    ours = recorded(random_velocity())
    last = sample_euler(ours[0], noise(), unipc_schedule(8, 3.0))
    assert worst_difference([*ours[1], last], theirs) > 1e-3


# Data that is normal with mean MEAN and deviation SPREAD: the exact velocity, and where the flow leads, are known.
MEAN, SPREAD = 0.7, 0.4


def deviation_at(sigma):
    return np.sqrt(((1 - sigma) * SPREAD) ** 2 + sigma**2)


def exact_velocity(latents, timestep, sigma):
    centred = latents - (1 - sigma) * MEAN
    slope = (sigma - (1 - sigma) * SPREAD**2) / deviation_at(sigma) ** 2
    return slope * centred - MEAN


def error_after(sample, schedule):
    """Root mean square distance to the exact end of the flow, in float64 so that rounding does not hide the order."""
    start = noise().astype(np.float64)
    sigma = float(schedule.sigmas[0])
    exact = MEAN + SPREAD * (start - (1 - sigma) * MEAN) / deviation_at(sigma)
    return float(np.sqrt(np.mean((sample(exact_velocity, start, schedule) - exact) ** 2)))


@pytest.mark.parametrize(("sample", "order"), [(sample_euler, 1), (sample_unipc, 2)])
def test_order_of_convergence(sample, order):
    """On evenly spaced noise levels the error falls as steps ** -order; the exact velocity knows no timesteps."""
    counts = [64, 128, 256, 512]
    schedules = [Schedule(levels, levels[:-1]) for levels in (np.linspace(0.9, 0, count + 1) for count in counts)]
    errors = [error_after(sample, schedule) for schedule in schedules]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order - 0.05 < slope < order + 0.15, errors


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_unipc_is_closer_than_euler_at_the_same_cost(shift):
    unipc, euler = (
        error_after(*pair)
        for pair in [(sample_unipc, unipc_schedule(32, shift)), (sample_euler, euler_schedule(32, shift))]
    )
    assert unipc < euler / 5


@pytest.mark.parametrize("name", ["euler", "rcm", "sde", "unipc"])
def test_steps_are_reported_and_the_noise_is_left_alone(name):
    start, reported, given = noise(), [], []
    schedule = SAMPLERS[name].schedule(4, RULES.get(name, 3.0), 1000)

    def velocity_of(latents, timestep, sigma):
        given.append((timestep, sigma))
        return 0.1 * latents

    SAMPLERS[name].sample(
        velocity_of, start, schedule, lambda: noise(9), lambda done, total: reported.append((done, total))
    )
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert given == list(zip(schedule.timesteps.tolist(), schedule.sigmas[:-1].tolist(), strict=True))
    np.testing.assert_array_equal(start, noise())


@pytest.mark.parametrize("name", ["euler", "rcm", "sde", "unipc"])
def test_the_callback_may_stop_the_sampling(name):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    velocity_of, seen = recorded(random_velocity())
    schedule = SAMPLERS[name].schedule(4, RULES.get(name, 3.0), 1000)
    with pytest.raises(KeyboardInterrupt):
        SAMPLERS[name].sample(velocity_of, noise(), schedule, lambda: noise(9), stop)
    assert len(seen) == 2


def test_unipc_refuses_a_noise_level_of_one():
    with pytest.raises(ValueError, match="below 1"):
        sample_unipc(random_velocity(), noise(), euler_schedule(4, 3.0))


# Re-noising, on the same data: an x0 that is affine in the latents keeps them normal, and theory follows mean and variance.
COUNT = 400_000


def gain_of_the_mean(sigma):
    """Of the mean of all x0 that lead to these latents, which the exact velocity stands for (undistilled models)."""
    return float((1 - sigma) * SPREAD**2 / deviation_at(sigma) ** 2)


def gain_of_the_end(sigma):
    """Of the x0 where the flow from these latents ends, which a consistency model gives (distilled ones)."""
    return float(SPREAD / deviation_at(sigma))


def velocity_from(gain_of):
    """The velocity of a model with x0 = MEAN + gain·(x - (1 - sigma)·MEAN)."""

    def velocity_of(latents, timestep, sigma):
        return (latents - MEAN - gain_of(sigma) * (latents - (1 - sigma) * MEAN)) / sigma

    return velocity_of


def moments_in_theory(sigmas, gain_of, scale=1.0):
    """Mean and variance that re-noising ends with, from noise of deviation `scale`.

    With x ~ N(m, v) at sigma, x0 ~ N(MEAN + g·(m - (1 - sigma)·MEAN), g²·v), and fresh noise adds its variance to that of
    the scaled x0: v' = (1 - sigma')²·g²·v + sigma'². Nothing is added after the last step.
    """
    mean, variance = 0.0, scale**2
    for sigma, lower in pairwise(sigmas):
        gain = gain_of(sigma)
        mean = (1 - lower) * (MEAN + gain * (mean - (1 - sigma) * MEAN))
        variance = ((1 - lower) * gain) ** 2 * variance + lower**2
    return mean, variance


def moments_measured(sample, schedule, gain_of, draw_of=lambda stream, start: stream.standard_normal(COUNT)):
    """Mean and variance of what the sampler makes of 400,000 numbers; draw_of: makes the noise of each step."""
    stream = np.random.default_rng()
    start = stream.standard_normal(COUNT, np.float32)
    final = sample(velocity_from(gain_of), start, schedule, lambda: draw_of(stream, start).astype(np.float32))
    assert final.dtype == np.float32
    return float(final.mean(dtype=np.float64)), float(final.var(dtype=np.float64))


def errors(measured, theory):
    """How many standard errors of the measurement lie between it and theory, for mean and variance."""
    mean, variance = theory
    return (
        abs(measured[0] - mean) / np.sqrt(variance / COUNT),
        abs(measured[1] - variance) / (variance * np.sqrt(2 / COUNT)),
    )


RENOISING = {
    "four steps": (sample_sde, even_schedule(4, 5.0)),
    "three steps": (sample_sde, listed_schedule([1, 0.757, 0.522], [1000, 757, 522])),
    "twenty steps": (sample_sde, even_schedule(20, 3.0)),
    "rcm 1": (sample_rcm, rcm_schedule(1, 80.0)),
    "rcm 2": (sample_rcm, rcm_schedule(2, 80.0)),
    "rcm 4": (sample_rcm, rcm_schedule(4, 80.0)),
}


@pytest.mark.parametrize("gain_of", [gain_of_the_mean, gain_of_the_end])
@pytest.mark.parametrize("case", RENOISING)
def test_renoising_ends_with_the_mean_and_variance_of_theory(case, gain_of):
    sample, schedule = RENOISING[case]
    scale = float(schedule.sigmas[0]) if sample is sample_rcm else 1.0
    theory = moments_in_theory(schedule.sigmas.tolist(), gain_of, scale)
    assert max(errors(moments_measured(sample, schedule, gain_of), theory)) < 6


def test_theory_where_the_answer_is_known():
    """A consistency model gives the data's own moments at any number of steps; one of means only its mean."""
    for steps in (1, 2, 4, 50):
        sigmas = even_schedule(steps, 5.0).sigmas.tolist()
        assert moments_in_theory(sigmas, gain_of_the_end) == pytest.approx((MEAN, SPREAD**2))
        mean, variance = moments_in_theory(sigmas, gain_of_the_mean)
        assert mean == pytest.approx(MEAN)
        assert variance < 0.8 * SPREAD**2
    np.testing.assert_allclose(
        velocity_from(gain_of_the_mean)(noise(), 0, 0.3), exact_velocity(noise(), 0, 0.3), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    "draw_of",
    [
        lambda stream, start: start,
        lambda stream, start: 1.05 * stream.standard_normal(COUNT),
        lambda stream, start: 0.95 * stream.standard_normal(COUNT),
        lambda stream, start: stream.standard_normal(COUNT) + 0.05,
        lambda stream, start: np.zeros(COUNT),
    ],
    ids=["the first noise again", "too much", "too little", "off centre", "none"],
)
@pytest.mark.parametrize("case", ["four steps", "three steps", "rcm 4"])
def test_the_measurement_sees_noise_that_is_wrong(case, draw_of):
    sample, schedule = RENOISING[case]
    scale = float(schedule.sigmas[0]) if sample is sample_rcm else 1.0
    theory = moments_in_theory(schedule.sigmas.tolist(), gain_of_the_end, scale)
    assert max(errors(moments_measured(sample, schedule, gain_of_the_end, draw_of), theory)) > 20


@pytest.mark.parametrize(("name", "number"), [("sde", 5.0), ("rcm", 80.0)])
def test_noise_is_drawn_between_steps_only(name, number):
    drawn = []
    for steps in (1, 2, 4):
        drawn.clear()
        schedule = SAMPLERS[name].schedule(steps, number, 1000)
        final = SAMPLERS[name].sample(random_velocity(), noise(), schedule, lambda: drawn.append(1) or noise(9), None)
        assert len(drawn) == steps - 1
        assert final.dtype == np.float32


def test_every_renoising_step_is_that_of_the_papers():
    """Two steps by hand: x0 = x - sigma·v, x' = (1 - sigma')·x0 + sigma'·noise, and the last x0 is the result."""
    velocity_of, fresh = random_velocity(), noise(9)
    for sample, schedule, scale in [
        (sample_sde, even_schedule(2, 5.0), 1.0),
        (sample_rcm, rcm_schedule(2, 80.0), 80 / 81),
    ]:
        (first, second, _), times = schedule.sigmas.tolist(), schedule.timesteps.tolist()
        x = scale * noise().astype(np.float64)
        clean = x - first * velocity_of(x.astype(np.float32), times[0], first)
        x = (1 - second) * clean + second * fresh
        expected = x - second * velocity_of(x.astype(np.float32), times[1], second)
        found = sample(velocity_of, noise(), schedule, lambda: fresh)
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-6


def test_rcm_calculates_in_float64():
    """In float32 the same steps differ by rounding; at the model's own precision the result is the rounded exact one."""
    schedule = rcm_schedule(4, 80.0)
    exact = sample_rcm(lambda x, *_: np.zeros(SHAPE, np.float32), noise(), schedule, lambda: noise(9))
    x = 80 / 81 * noise().astype(np.float64)
    for lower in schedule.sigmas[1:-1].tolist():
        x = (1 - lower) * x + lower * noise(9).astype(np.float64)
    np.testing.assert_array_equal(exact, x.astype(np.float32))
