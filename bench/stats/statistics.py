"""What a list of measured times says: its middle and its tail with their uncertainty, and whether it drifts.

A figure is given only where the runs are enough for it; where they are not, it is None.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError

EARLY_STOPPING_CONFIDENCE = 0.99
"""What MLPerf Inference asks of a percentile estimated by its early-stopping rule, at a tolerance of 0."""
BLOCKS = 1000
"""How many values at most are compared pair by pair; longer series are reduced to medians of consecutive blocks first."""
_VALUES_AT_ONCE = 2**20
"""How many resampled values the bootstrap holds at a time, which bounds its memory."""
Seconds = NDArray[np.float64]


Verdict = Literal["faster", "slower", "no difference found", "too few rounds to tell"]


@dataclass(frozen=True)
class Estimate:
    """A value, and the interval that holds the true one with about this confidence, 0 to 1."""

    value: float
    low: float
    high: float
    confidence: float

    def verdict(self, confidence: float) -> Verdict:
        """Return what a ratio of times says of what it is of: a difference only where the interval leaves out 1.

        confidence: what was asked for; where the interval has less, there were too few rounds.
        """
        if self.confidence < confidence:
            return "too few rounds to tell"
        if self.low <= 1 <= self.high:
            return "no difference found"
        return "slower" if self.low > 1 else "faster"


def tail_percentile(
    samples: Sequence[float], percent: float, confidence: float = EARLY_STOPPING_CONFIDENCE
) -> float | None:
    """Return an upper estimate of a percentile, which the true one exceeds with a probability of at most 1 - confidence.

    None where the samples are fewer than `runs_needed`.

    This is the early-stopping rule of MLPerf Inference's load generator for its single-stream scenario, at tolerance 0:
    of n runs the t - 1 slowest are discarded and the slowest of the rest is the estimate, where t is the largest count
    for which t or fewer runs over the percentile would be too unlikely. Runs are taken to be independent of each other.
    Raises UsageError as `median_interval` does, and for a percentage or a confidence that is not inside its range.
    """
    seconds = np.sort(_checked(samples))
    _check_percent(percent)
    check_confidence(confidence)
    over = _unlikely_over(len(seconds), percent, confidence)
    return None if over < 1 else float(seconds[-over])


def runs_needed(percent: float, confidence: float = EARLY_STOPPING_CONFIDENCE) -> int:
    """Return the fewest runs from which `tail_percentile` gives a figure: 64 for the 90th percentile, 662 for the 99th.

    Raises UsageError for a percentage not between 0 and 100, or a confidence not between 0 and 1.
    """
    check_confidence(confidence)
    _check_percent(percent)
    enough = 2
    while _unlikely_over(enough, percent, confidence) < 1:
        enough *= 2
    return bisect_left(range(enough), 1, key=lambda runs: _unlikely_over(runs, percent, confidence))


@lru_cache(maxsize=256)
def _unlikely_over(runs: int, percent: float, confidence: float) -> int:
    """Return the largest t with P(t or fewer of the runs are over the percentile) < 1 - confidence; -1 where there is none.

    The load generator finds, for every t, the least n that passes, by the regularized beta function; the binomial sum is
    the same number, and gives t for one n directly.
    """
    inside = percent / 100
    over = np.arange(runs)
    steps = np.log((runs - over) / (over + 1.0)) + math.log((1 - inside) / inside)
    log_probabilities = runs * math.log(inside) + np.concatenate([[0.0], np.cumsum(steps)])
    at_most = np.cumsum(np.exp(log_probabilities))
    return int(np.searchsorted(at_most, 1 - confidence)) - 1


def median_interval(
    samples: Sequence[float], confidence: float = 0.95, seed: int = 0, resamples: int = 4000
) -> Estimate:
    """Return the median with its expanded percentile bootstrap interval.

    Hesterberg, What teachers should know about the bootstrap, 2015. Few samples have few medians of resamples, so that up
    to about twenty the interval is the safer side of what it promises: at 95% it holds 95 to 99 times in a hundred. No
    interval between samples can hold the median with more confidence than 1 - 2^(1 - n): where that is less than was asked
    for (95%: below six samples), the samples' range comes back, with that lower confidence. Raises UsageError where there is
    no sample, or one that is negative or not finite, and for a confidence not between 0 and 1.
    """
    seconds = _checked(samples)
    check_confidence(confidence)
    median, possible = float(np.median(seconds)), 1 - 2.0 ** (1 - len(seconds))
    if possible < confidence:
        return Estimate(median, float(seconds.min()), float(seconds.max()), possible)
    medians = _resampled_medians(seconds, resamples, np.random.default_rng(seed))
    tail = _expanded_tail(len(seconds), confidence)
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Estimate(median, float(low), float(high), confidence)


def _expanded_tail(runs: int, confidence: float) -> float:
    """Return the share of resamples to leave out on either side.

    Resamples scatter as if the variance were divided by n, not n - 1, and as a normal variable where Student's t belongs;
    both are made up for. The quantile of t is the expansion 26.7.5 of Abramowitz and Stegun, 1964.
    """
    normal, freedom = NormalDist(), runs - 1
    z = normal.inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return normal.cdf(-math.sqrt(runs / freedom) * (z + first + second + third))


def _resampled_medians(seconds: Seconds, resamples: int, generator: np.random.Generator) -> Seconds:
    rows = max(1, _VALUES_AT_ONCE // len(seconds))
    parts = [
        np.median(seconds[generator.integers(len(seconds), size=(min(rows, resamples - start), len(seconds)))], axis=1)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


def median_ratio(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.99, seed: int = 0, resamples: int = 4000
) -> Estimate | None:
    """Return the ratio of two medians, second by first, of runs that have nothing to do with each other.

    The bootstrap of `median_interval` for both, each with the medians of its own resamples. What either has too few
    samples for (99%: below eight) is the ratio of the ends of their ranges, with the confidence that has. None where a
    median of the first is 0. Raises UsageError as `median_interval` does.
    """
    before, after = _checked(first), _checked(second)
    check_confidence(confidence)
    possible = [1 - 2.0 ** (1 - len(values)) for values in (before, after)]
    enough = min(possible) >= confidence
    generator = np.random.default_rng(seed)
    divisors = _resampled_medians(before, resamples, generator) if enough else before
    if not (divisors.all() and np.median(before)):
        return None
    ratio = float(np.median(after) / np.median(before))
    if not enough:
        low, high = after.min() / before.max(), after.max() / before.min()
        return Estimate(ratio, float(low), float(high), max(0.0, sum(possible) - 1))
    tail = _expanded_tail(min(len(before), len(after)), confidence)
    low, high = np.quantile(_resampled_medians(after, resamples, generator) / divisors, [tail, 1 - tail])
    return Estimate(ratio, float(low), float(high), confidence)


def slope(samples: Sequence[float], confidence: float = 0.99) -> Estimate:
    """Return by how much the values grow or shrink from one to the next, in the order they were measured.

    The median of the slopes between all pairs (Theil 1950), with the interval of Sen (1968): single slow runs do not move
    it. More than 1000 runs are first reduced by `block_medians`. The interval takes runs to be independent of each other.
    Raises UsageError as `median_interval` does, and where there are fewer than eight samples.
    """
    seconds = _checked(samples)
    check_confidence(confidence)
    if len(seconds) < 8:
        raise UsageError(f"a slope needs at least 8 runs, and there are {len(seconds)}")
    values, block = block_medians(seconds)
    count = len(values)
    first, second = np.triu_indices(count, 1)
    slopes = np.sort((values[second] - values[first]) / (second - first)) / block
    # Kendall's statistic is near normal from eight values on; its spread is that of the rank at which the interval ends.
    spread = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Estimate(float(np.median(slopes)), float(slopes[low]), float(slopes[high]), confidence)


def block_medians(values: Seconds) -> tuple[Seconds, int]:
    """Return the medians of equal consecutive blocks, and how many values each is of: 1 for up to `BLOCKS` values.

    The last values are left out where they do not fill a block.
    """
    block = -(-len(values) // BLOCKS)
    return np.median(values[: len(values) // block * block].reshape(-1, block), axis=1), block


def _check_percent(percent: float) -> None:
    if not 0 < percent < 100:
        raise UsageError(f"a percentile to be estimated is between 0 and 100, not {percent:g}")


def check_confidence(confidence: float) -> None:
    """Raise UsageError for a confidence that is not between 0 and 1."""
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence is between 0 and 1, not {confidence:g}")


def _checked(samples: Sequence[float]) -> Seconds:
    seconds = np.asarray(samples, np.float64)
    if seconds.ndim != 1 or not len(seconds):
        raise UsageError("there are no measured times to summarize")
    if not np.isfinite(seconds).all() or seconds.min() < 0:
        raise UsageError("measured times must be finite and not negative")
    return seconds
