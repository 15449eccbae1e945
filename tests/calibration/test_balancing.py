"""Static ranges and balancing, on activations whose outliers are known."""

from __future__ import annotations

import numpy as np
import pytest

from edgereel.calibration.balancing import balance, channel_magnitudes, merge, output_error, static_range
from edgereel.calibration.statistics import TensorStatistics

pytestmark = pytest.mark.lean

CHANNELS = 64


def seen_of(rows: np.ndarray) -> TensorStatistics:
    seen = TensorStatistics.nothing(rows.shape[1])
    seen.add(rows.min(axis=0), rows.max(axis=0), np.square(rows).sum(axis=0), len(rows), rows, 64)
    return seen


def activations(outliers: float, seed: int = 0) -> np.ndarray:
    """Normal tokens, in which two channels are larger than the others, always."""
    rows = np.random.default_rng(seed).standard_normal((256, CHANNELS)).astype(np.float32)
    rows[:, [3, 40]] *= outliers
    return rows


@pytest.fixture
def weight():
    return np.random.default_rng(9).standard_normal((CHANNELS, 32)).astype(np.float32)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_channels_with_outliers_are_balanced_and_it_pays(weight, mode):
    """The error on tokens that were not seen falls too, to less than a half."""
    seen = seen_of(activations(60))
    factors = balance(seen, [weight], "int8", mode)
    assert factors is not None
    assert set(np.argsort(factors)[-2:]) == {3, 40}
    fresh = merge([seen])
    fresh.rows = activations(60, seed=1)[:64]
    assert output_error(fresh, [weight], "int8", mode, factors) < 0.5 * output_error(
        fresh, [weight], "int8", mode, None
    )


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_even_channels_are_left_alone(weight, mode):
    assert balance(seen_of(activations(1)), [weight], "int8", mode) is None


def test_a_channel_that_is_always_zero_is_no_trouble(weight):
    rows = activations(60)
    rows[:, 7] = 0
    weight[8] = 0
    factors = balance(seen_of(rows), [weight], "int8", "static")
    assert factors is not None
    assert np.isfinite(factors).all()
    assert factors.min() > 0


def test_a_rare_outlier_is_clipped_and_a_common_one_is_not():
    rows = np.random.default_rng(2).uniform(-1, 1, (256, CHANNELS)).astype(np.float32)
    rows[17, 5] = 2.5
    assert static_range(seen_of(rows), "int8") < 2.4
    rows[:, 5] = 2.5
    assert static_range(seen_of(rows), "int8") > 2.4
    assert static_range(seen_of(rows), "fp8") == 2.5


def test_zeros_have_a_range():
    assert static_range(seen_of(np.zeros((4, 3), np.float32)), "int8") > 0


def test_merged_statistics_are_those_of_all_parts():
    parts = [activations(5, seed) for seed in (1, 2)]
    merged, together = merge([seen_of(part) for part in parts]), seen_of(np.concatenate(parts))
    assert np.array_equal(channel_magnitudes(merged), channel_magnitudes(together))
    assert np.array_equal(merged.histogram, together.histogram)
    assert merged.tokens == together.tokens == 512
    assert len(merged.rows) == 128
