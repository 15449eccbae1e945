"""Frames per second, as people and programs give them: whole numbers, and the fractions that video is made at."""

from __future__ import annotations

import math
import numbers
import re
from fractions import Fraction

from ...core.errors import UsageError

FrameRate = int | Fraction
"""Frames per second: a whole number, or a fraction that is none, such as 24000/1001."""
LEAST, MOST = 1, 240
_FINEST = 100_000
"""The largest denominator: players and encoders count time in 32 bits."""


def frame_rate(value: object) -> FrameRate:
    """Return a speed of 1 to 240 frames per second, given as a number of any type: an int, a float, a Fraction, numpy's.

    Raises UsageError for anything else.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError
        exact = Fraction(value) if isinstance(value, numbers.Rational) else Fraction(repr(float(value)))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"fps is {repr(value)[:60]}: give a number, such as 24, 23.976 or Fraction(24000, 1001)"
        ) from error
    if not LEAST <= exact <= MOST:
        number = told(exact) if abs(exact) < 10**40 else "so many"  # Python does not write larger ones out
        raise UsageError(f"{number} frames per second are not possible: choose from {LEAST} to {MOST}")
    if exact.denominator > _FINEST:
        raise UsageError(f"{exact} frames per second are finer than video counts time: round it to three decimals")
    return int(exact.numerator) if exact.denominator == 1 else exact


def parse_frame_rate(text: str) -> FrameRate:
    """Return the speed of text such as `24`, `23.976` or `24000/1001`. Raises UsageError."""
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6}|/[0-9]{1,6})?", text, re.ASCII) is None or re.search("/0+$", text):
        raise UsageError(f"{text[:60]!r} is no number of frames per second: write it as 24, 23.976 or 24000/1001")
    return frame_rate(Fraction(text))


def told(rate: FrameRate) -> str:
    """Return a speed for people: `24`, `23.976`."""
    return str(rate) if isinstance(rate, int) or rate.denominator == 1 else f"{float(rate):.6g}"


def frame_ticks(index: int, rate: FrameRate, ticks: int) -> int:
    """Return how long frame `index` stays on, in units of 1/ticks s; a clip's total is right to half a unit."""
    return _nearest(Fraction((index + 1) * ticks) / rate) - _nearest(Fraction(index * ticks) / rate)


def _nearest(exact: Fraction) -> int:
    return math.floor(exact + Fraction(1, 2))
