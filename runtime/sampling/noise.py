"""The noise a seed stands for: the same on every machine, and for every engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError

LARGEST_SEED = 2**32 - 1


class NoiseSource:
    """Standard normal noise from a seed, drawn in order: initial latents first, then each re-noising step in turn.

    `numpy.random.RandomState(MT19937(seed)).standard_normal`, as float32 in C order. Seeds are 0 to 2**32 - 1; others
    raise UsageError.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed <= LARGEST_SEED:
            raise UsageError(f"seed {seed} is out of range: it must be from 0 to {LARGEST_SEED}")
        self._state = np.random.RandomState(np.random.MT19937(seed))

    def draw(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the next noise of that shape."""
        return self._state.standard_normal(shape).astype(np.float32)
