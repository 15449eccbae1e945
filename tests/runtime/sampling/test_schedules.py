from __future__ import annotations

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st

from edgereel.core.errors import UsageError
from edgereel.runtime.sampling.schedules import (
    Schedule,
    euler_schedule,
    even_schedule,
    listed_schedule,
    rcm_schedule,
    shift_sigma,
    unipc_schedule,
)

STEPS = [1, 2, 3, 4, 8, 30, 50]
SHIFTS = [1.0, 3.0, 5.0, 8.0]

any_steps = st.integers(1, 200)
any_shift = st.floats(0.1, 30)
any_schedule = st.sampled_from([euler_schedule, even_schedule, unipc_schedule])


def unipc_of_diffusers(steps: int, shift: float) -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("shift", [*SHIFTS, 0.5, 2.2])
@pytest.mark.parametrize("steps", STEPS)
def test_euler_equals_diffusers(steps, shift):
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(steps)
    schedule = euler_schedule(steps, shift)
    np.testing.assert_allclose(schedule.sigmas, reference.sigmas.numpy(), rtol=2e-7, atol=0)
    np.testing.assert_allclose(schedule.timesteps, reference.timesteps.numpy(), rtol=2e-7, atol=0)


@pytest.mark.parametrize("shift", [*SHIFTS, 0.5, 2.2])
@pytest.mark.parametrize("steps", STEPS)
def test_unipc_equals_diffusers(steps, shift):
    reference = unipc_of_diffusers(steps, shift)
    schedule = unipc_schedule(steps, shift)
    np.testing.assert_array_equal(schedule.sigmas, reference.sigmas.numpy())
    np.testing.assert_array_equal(schedule.timesteps, reference.timesteps.numpy())


@given(steps=any_steps, shift=any_shift)
def test_schedules_equal_diffusers_everywhere(steps, shift):
    euler = FlowMatchEulerDiscreteScheduler(shift=shift)
    euler.set_timesteps(steps)
    # diffusers' first noise level can be a few float32 roundings above 1; ours never is.
    reference = np.minimum(euler.sigmas.numpy(), 1)
    np.testing.assert_allclose(euler_schedule(steps, shift).sigmas, reference, rtol=2e-7, atol=0)
    unipc = unipc_of_diffusers(steps, shift)
    np.testing.assert_array_equal(unipc_schedule(steps, shift).sigmas, unipc.sigmas.numpy())
    np.testing.assert_array_equal(unipc_schedule(steps, shift).timesteps, unipc.timesteps.numpy())


def test_another_number_of_training_timesteps():
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0, num_train_timesteps=500)
    euler.set_timesteps(8)
    np.testing.assert_allclose(euler_schedule(8, 3.0, 500).timesteps, euler.timesteps.numpy(), rtol=1e-6)


def test_habits_of_diffusers_that_make_a_difference():
    """Eight steps, shift 3: Euler shifts twice at the tail, UniPC once and never starts at 1."""
    euler, unipc = euler_schedule(8, 3.0), unipc_schedule(8, 3.0)
    assert euler.sigmas[-2] == pytest.approx(0.0089, abs=1e-4)
    assert unipc.sigmas[-2] == pytest.approx(0.3017, abs=1e-4)
    assert euler.sigmas[0] == 1.0
    assert unipc.sigmas[0] == np.float32(0.999999)
    assert np.all(unipc.timesteps == np.trunc(unipc.timesteps))
    assert unipc.timesteps[1] == 954.0


@given(make=any_schedule, steps=any_steps, shift=any_shift)
def test_noise_levels_fall_from_one_to_zero(make, steps, shift):
    schedule = make(steps, shift)
    assert schedule.sigmas.dtype == schedule.timesteps.dtype == np.float32
    assert schedule.sigmas.shape == (steps + 1,)
    assert schedule.timesteps.shape == (steps,)
    assert schedule.steps == steps
    assert np.all(np.diff(schedule.sigmas) < 0)
    assert 0.99999 < schedule.sigmas[0] <= 1
    assert schedule.sigmas[-1] == 0
    rounding = 1000 * 2**-25  # half of the last place of a float32 below 1
    assert np.all(np.abs(schedule.timesteps - schedule.sigmas[:-1].astype(np.float64) * 1000) <= 1 + rounding)


@given(t=st.floats(0, 1), shift=any_shift)
def test_shift_keeps_the_ends_and_is_undone_by_its_inverse(t, shift):
    assert shift_sigma(0.0, shift) == 0
    assert shift_sigma(1.0, shift) == pytest.approx(1)
    assert shift_sigma(shift_sigma(t, shift), 1 / shift) == pytest.approx(t, abs=1e-9)


def test_the_published_warp_of_few_step_recipes():
    warped = [1000 * shift_sigma(t / 1000, 5) for t in (1000, 750, 500, 250)]
    assert warped == pytest.approx([1000, 937.5, 833.33, 625], abs=0.01)


@pytest.mark.parametrize("make", [euler_schedule, even_schedule, unipc_schedule])
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((0, 3.0), "number of steps is 0"),
        ((-1, 3.0), "number of steps is -1"),
        ((8, 0.0), "shift is 0.0"),
        ((8, float("nan")), "shift is nan"),
        ((8, float("inf")), "shift is inf"),
        ((8, 3.0, 1), "training timesteps is 1"),
        ((1000, 1e6), "fewer steps or a smaller shift"),
    ],
)
def test_impossible_settings_are_refused(make, arguments, complaint):
    with pytest.raises(UsageError, match=complaint):
        make(*arguments)


def test_a_schedule_by_hand_is_checked():
    with pytest.raises(UsageError, match="1 timesteps and 3 noise levels"):
        Schedule(np.array([1, 0.5, 0], np.float32), np.array([1000], np.float32))
    with pytest.raises(UsageError, match="strictly"):
        Schedule(np.array([1, 0.5, 0.1], np.float32), np.array([1000, 500], np.float32))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_rcm_noise_levels_lie_on_the_circle_and_on_the_line(steps):
    schedule = rcm_schedule(steps, 80.0)
    assert schedule.sigmas.dtype == np.float64
    assert schedule.sigmas[0] == pytest.approx(80 / 81, abs=1e-15)
    for sigma, angle in zip(schedule.sigmas[1:-1], (1.5, 1.4, 1.0), strict=False):
        assert sigma / (1 - sigma) == pytest.approx(np.tan(angle), rel=1e-12)
    np.testing.assert_array_equal(schedule.timesteps, (1000 * schedule.sigmas[:-1]).astype(np.float32))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((0, 80.0), "rcm takes 1 to 4"),
        ((5, 80.0), "rcm takes 1 to 4"),
        ((4, 14.0), "above 14.1"),
        ((4, float("nan")), "nan"),
    ],
)
def test_impossible_rcm_settings_are_refused(arguments, complaint):
    with pytest.raises(UsageError, match=complaint):
        rcm_schedule(*arguments)


def test_listed_noise_levels_end_at_zero():
    schedule = listed_schedule([1, 0.5], [999, 400])
    assert schedule.sigmas.tolist() == [1, 0.5, 0]
    assert schedule.timesteps.tolist() == [999, 400]
    assert schedule.sigmas.dtype == schedule.timesteps.dtype == np.float32
