"""Clips that show nothing are not called done; the dullest true ones are."""

from __future__ import annotations

import numpy as np
import pytest

from edgereel.core.errors import EngineError
from edgereel.runtime.decoding.frame_check import FrameCheck

pytestmark = pytest.mark.lean


def check(frames):
    found = FrameCheck()
    for frame in frames:
        found.add(frame)
    found.finish()


def noise(count, low=0, high=256):
    return np.random.default_rng().integers(low, high, (count, 8, 8, 3)).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("count", [1, 5])
def test_flat_frames(level, count):
    with pytest.raises(EngineError, match=f"all {count} frames show a flat colour"):
        check(np.full((count, 8, 8, 3), level, np.uint8))


def test_flat_frames_of_changing_colour_and_within_a_level():
    with pytest.raises(EngineError, match="flat colour"):
        check([np.full((8, 8, 3), level, np.uint8) for level in (1, 9, 200, 3, 4)])
    with pytest.raises(EngineError, match="flat colour"):
        check(noise(5, 100, 102))


def test_a_frozen_clip():
    with pytest.raises(EngineError, match="all 5 frames are one and the same picture"):
        check(np.repeat(noise(1), 5, axis=0))


def test_what_passes():
    check([])
    check(noise(9))
    check(np.repeat(noise(1), 4, axis=0))
    black_then_picture = np.concatenate([np.zeros((8, 8, 8, 3), np.uint8), noise(1)])
    check(black_then_picture)
    almost = np.repeat(noise(1), 9, axis=0)
    almost[8, 0, 0, 0] ^= 1
    check(almost)


def test_the_check_keeps_no_reference_to_a_buffer_that_is_used_again():
    buffer = noise(1)[0]
    found = FrameCheck()
    for _ in range(6):
        found.add(buffer)
        buffer[:] = noise(1)[0]
    found.finish()
