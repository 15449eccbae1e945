from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from edgereel.runtime.samplers import SAMPLERS, sample_euler, sample_unipc
from edgereel.runtime.schedules import Schedule, euler_schedule, shift_sigma, unipc_schedule

SHAPE = (1, 4, 3, 6, 5)


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
    seen.append(SAMPLERS[name].sample(velocity_of, noise(), schedule, None))
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


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_steps_are_reported_and_the_noise_is_left_alone(name):
    start, reported, given = noise(), [], []
    schedule = SAMPLERS[name].schedule(4, 3.0, 1000)

    def velocity_of(latents, timestep, sigma):
        given.append((timestep, sigma))
        return 0.1 * latents

    SAMPLERS[name].sample(velocity_of, start, schedule, lambda done, total: reported.append((done, total)))
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert given == list(zip(schedule.timesteps.tolist(), schedule.sigmas[:-1].tolist(), strict=True))
    np.testing.assert_array_equal(start, noise())


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_the_callback_may_stop_the_sampling(name):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    velocity_of, seen = recorded(random_velocity())
    with pytest.raises(KeyboardInterrupt):
        SAMPLERS[name].sample(velocity_of, noise(), SAMPLERS[name].schedule(8, 3.0, 1000), stop)
    assert len(seen) == 2


def test_unipc_refuses_a_noise_level_of_one():
    with pytest.raises(ValueError, match="below 1"):
        sample_unipc(random_velocity(), noise(), euler_schedule(4, 3.0))
