"""The same seed is the same noise, on every machine and in every release: the values below may never change."""

from __future__ import annotations

import numpy as np
import pytest

from edgereel.core.errors import UsageError
from edgereel.runtime.sampling.noise import NoiseSource

pytestmark = pytest.mark.lean

SEED_7 = [
    0.983802318572998,
    -1.4327963590621948,
    0.2325132191181183,
    -1.3612029552459717,
    0.5764455795288086,
    0.8875446915626526,
]


def test_fixed_values():
    first = NoiseSource(7).draw((1, 2, 1, 1, 2))
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first.ravel(), np.array(SEED_7[:4], np.float32))


def test_noise_is_drawn_in_order():
    source = NoiseSource(7)
    drawn = np.concatenate([source.draw((1, 3)).ravel(), source.draw((3,))])
    np.testing.assert_array_equal(drawn, np.array(SEED_7, np.float32))


def test_it_is_what_the_design_says():
    state = np.random.RandomState(np.random.MT19937(2**32 - 1))
    source = NoiseSource(2**32 - 1)
    for shape in [(1, 4, 3, 8, 8), (1, 4, 3, 8, 8)]:
        np.testing.assert_array_equal(source.draw(shape), state.standard_normal(shape).astype(np.float32))


def test_seeds_differ():
    assert not np.array_equal(NoiseSource(0).draw((8,)), NoiseSource(1).draw((8,)))


@pytest.mark.parametrize("seed", [-1, 2**32, 10**40])
def test_seeds_out_of_range(seed):
    with pytest.raises(UsageError, match=f"seed {seed} is out of range: it must be from 0 to 4294967295"):
        NoiseSource(seed)
