"""What a list of measured times says: its middle and spread with their uncertainty, and whether the machine drifted.

A figure is given only where the runs are enough for it; where they are not, it is None, with the number that would be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

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


@dataclass(frozen=True)
class Interval:
    """An interval that holds the true value with about this confidence, 0 to 1."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class TailPercentile:
    """A percentile by the early-stopping rule; `seconds` is None where the runs are fewer than `runs_needed`.

    discarded: how many of the slowest runs the estimate leaves out.
    """

    percent: float
    seconds: float | None
    runs: int
    runs_needed: int
    discarded: int = 0

    @property
    def runs_missing(self) -> int:
        """How many more runs would give a figure; 0 where there is one."""
        return max(0, self.runs_needed - self.runs)


@dataclass(frozen=True)
class Slope:
    """How much longer each run took than the one before it, in seconds, and the interval of that."""

    seconds_per_run: float
    interval: Interval

    @property
    def drifts(self) -> bool:
        """Whether the interval leaves no room for an even pace."""
        return not self.interval.low <= 0.0 <= self.interval.high


@dataclass(frozen=True)
class Halves:
    """The medians of the first and the second half of the runs; ratio: first over second, above 1 where it was slower."""

    first: float
    second: float
    ratio: float
    interval: Interval

    @property
    def differ(self) -> bool:
        """Whether the interval of the ratio leaves no room for halves alike: more warm-up is needed, or the machine drifts."""
        return not self.interval.low <= 1.0 <= self.interval.high


@dataclass(frozen=True)
class Summary:
    """One list of measured times, in seconds.

    median_low, median_high: the bootstrap interval of the median, at `median_confidence`, which is less than what was
    asked for where the runs are few. standard_deviation: with n - 1 below; None for a single run. outliers: how many
    runs lie far from the others; they are counted, never left out.
    """

    runs: int
    median: float
    median_low: float
    median_high: float
    median_confidence: float
    p90: TailPercentile
    p99: TailPercentile
    mean: float
    standard_deviation: float | None
    minimum: float
    maximum: float
    outliers: int


def summarize(samples: Sequence[float], seed: int = 0, confidence: float = 0.95) -> Summary:
    """Return what times in seconds say; the seed is that of the median's bootstrap.

    Raises UsageError where there is no sample, or one that is negative or not finite.
    """
    seconds = _checked(samples)
    interval = median_interval(samples, confidence, seed)
    return Summary(
        runs=len(seconds),
        median=float(np.median(seconds)),
        median_low=interval.low,
        median_high=interval.high,
        median_confidence=interval.confidence,
        p90=tail_percentile(samples, 90),
        p99=tail_percentile(samples, 99),
        mean=float(seconds.mean()),
        standard_deviation=float(seconds.std(ddof=1)) if len(seconds) > 1 else None,
        minimum=float(seconds.min()),
        maximum=float(seconds.max()),
        outliers=len(outliers(samples)),
    )


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return a plain percentile of the samples, 0 to 100, which promises nothing of runs to come.

    Between two samples it is interpolated linearly: type 7 of Hyndman and Fan, Sample quantiles in statistical packages,
    1996. Raises UsageError as `summarize` does, and for a percentage outside 0 to 100.
    """
    if not 0 <= percent <= 100:
        raise UsageError(f"a percentile is from 0 to 100, not {percent:g}")
    return float(np.percentile(_checked(samples), percent))


def tail_percentile(
    samples: Sequence[float], percent: float, confidence: float = EARLY_STOPPING_CONFIDENCE
) -> TailPercentile:
    """Return an upper estimate of a percentile, which the true one exceeds with a probability of at most 1 - confidence.

    This is the early-stopping rule of MLPerf Inference's load generator for its single-stream scenario, at tolerance 0:
    of n runs the t - 1 slowest are discarded and the slowest of the rest is the estimate, where t is the largest count
    for which t or fewer runs over the percentile would be too unlikely. Runs are taken to be independent of each other.
    Raises UsageError as `summarize` does, and for a percentage or a confidence that is not inside its range.
    """
    seconds = np.sort(_checked(samples))
    needed = runs_needed(percent, confidence)
    over = _unlikely_over(len(seconds), percent, confidence)
    if over < 1:
        return TailPercentile(percent, None, len(seconds), needed)
    return TailPercentile(percent, float(seconds[-over]), len(seconds), needed, over - 1)


def runs_needed(percent: float, confidence: float = EARLY_STOPPING_CONFIDENCE) -> int:
    """Return the fewest runs from which `tail_percentile` gives a figure: 64 for the 90th percentile, 662 for the 99th.

    Raises UsageError for a percentage not between 0 and 100, or a confidence not between 0 and 1.
    """
    check_confidence(confidence)
    if not 0 < percent < 100:
        raise UsageError(f"a percentile to be estimated is between 0 and 100, not {percent:g}")
    enough = 2
    while _unlikely_over(enough, percent, confidence) < 1:
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if _unlikely_over(middle, percent, confidence) < 1:
            too_few = middle
        else:
            enough = middle
    return enough


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
) -> Interval:
    """Return the expanded percentile bootstrap interval of the median.

    Hesterberg, What teachers should know about the bootstrap, 2015. Few samples have few medians of resamples, so that up
    to about twenty the interval is the safer side of what it promises: at 95% it holds 95 to 99 times in a hundred. No
    interval between samples can hold the median with more confidence than 1 - 2^(1 - n): where that is less than was asked
    for (95%: below six samples), the samples' range comes back, with that lower confidence. Raises UsageError as
    `summarize` does, and for a confidence not between 0 and 1.
    """
    seconds = _checked(samples)
    check_confidence(confidence)
    possible = 1 - 2.0 ** (1 - len(seconds))
    if possible < confidence:
        return Interval(float(seconds.min()), float(seconds.max()), possible)
    medians = _resampled_medians(seconds, resamples, np.random.default_rng(seed))
    tail = _expanded_tail(len(seconds), confidence)
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence)


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
) -> Interval | None:
    """Return the interval of the ratio of two medians, second by first, of runs that have nothing to do with each other.

    The bootstrap of `median_interval` for both, each with the medians of its own resamples. What either has too few
    samples for (99%: below eight) is the ratio of the ends of their ranges, with the confidence that has. None where a
    median of the first is 0. Raises UsageError as `median_interval` does.
    """
    before, after = _checked(first), _checked(second)
    check_confidence(confidence)
    possible = [1 - 2.0 ** (1 - len(values)) for values in (before, after)]
    if min(possible) < confidence:
        if not before.all():
            return None
        both = max(0.0, sum(possible) - 1)
        return Interval(float(after.min() / before.max()), float(after.max() / before.min()), both)
    generator = np.random.default_rng(seed)
    divisors = _resampled_medians(before, resamples, generator)
    if not divisors.all():
        return None
    ratios = _resampled_medians(after, resamples, generator) / divisors
    tail = _expanded_tail(min(len(before), len(after)), confidence)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence)


def slope(samples: Sequence[float], confidence: float = 0.99) -> Slope:
    """Return by how many seconds per run the times grow or shrink, in the order they were measured.

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
    return Slope(float(np.median(slopes)), Interval(float(slopes[low]), float(slopes[high]), confidence))


def block_medians(values: Seconds) -> tuple[Seconds, int]:
    """Return the medians of equal consecutive blocks, and how many values each is of: 1 for up to `BLOCKS` values.

    The last values are left out where they do not fill a block.
    """
    block = -(-len(values) // BLOCKS)
    return np.median(values[: len(values) // block * block].reshape(-1, block), axis=1), block


def compare_halves(samples: Sequence[float], seed: int = 0, confidence: float = 0.99, resamples: int = 4000) -> Halves:
    """Return the ratio of the medians of the first and the second half, with its bootstrap interval: a warm-up check.

    Raises UsageError as `median_interval` does, where a sample is zero, and where there are fewer than 16 samples.
    """
    seconds = _checked(samples)
    check_confidence(confidence)
    if len(seconds) < 16 or not seconds.all():
        raise UsageError("comparing halves needs at least 16 runs, none of 0 seconds")
    first, second = seconds[: len(seconds) // 2], seconds[len(seconds) // 2 :]
    generator = np.random.default_rng(seed)
    ratios = _resampled_medians(first, resamples, generator) / _resampled_medians(second, resamples, generator)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    medians = float(np.median(first)), float(np.median(second))
    return Halves(*medians, medians[0] / medians[1], Interval(float(low), float(high), confidence))


def outliers(samples: Sequence[float], limit: float = 3.5) -> list[int]:
    """Return the places of samples far from the median: a modified z-score over `limit` (Iglewicz and Hoaglin, 1993).

    Where more than half of the samples are equal, all that differ from them are far. Raises UsageError as `summarize` does.
    """
    seconds = _checked(samples)
    distances = np.abs(seconds - np.median(seconds))
    # 0.6745 is the median distance of a normal distribution, in its standard deviations.
    return [int(place) for place in np.flatnonzero(0.6745 * distances > limit * np.median(distances))]


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
