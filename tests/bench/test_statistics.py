"""Statistics of measured times against distributions whose percentiles are known, exact sums, and a load generator's log."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel.bench.rows import summary_of
from edgereel.bench.stats.statistics import median_interval, median_ratio, runs_needed, slope, tail_percentile
from edgereel.core.errors import UsageError


def halves(seconds, **options):
    """Return the later half's median by the earlier's, as a soak compares them."""
    return median_ratio(seconds[: len(seconds) // 2], seconds[len(seconds) // 2 :], **options)


# name: (draws, quantile function, density at a quantile)
KNOWN = {
    "exponential": (
        lambda g, size: g.exponential(2.0, size),
        lambda p: -2 * math.log(1 - p),
        lambda q: math.exp(-q / 2) / 2,
    ),
    "uniform": (lambda g, size: g.uniform(1, 3, size), lambda p: 1 + 2 * p, lambda q: 0.5),
    "lognormal": (
        lambda g, size: g.lognormal(0, 0.25, size),
        lambda p: math.exp(0.25 * NormalDist().inv_cdf(p)),
        lambda q: NormalDist(0, 0.25).pdf(math.log(q)) / q,
    ),
}


def exact_over(runs: int, percent: int, confidence: Fraction) -> int:
    """Return the largest t with P(Binomial(runs, 1 - percent) <= t) < 1 - confidence, in whole numbers; -1 for none."""
    inside, over = Fraction(percent, 100), 1 - Fraction(percent, 100)
    total, t = Fraction(0), -1
    for k in range(runs + 1):
        total += math.comb(runs, k) * over**k * inside ** (runs - k)
        if total >= 1 - confidence:
            break
        t = k
    return t


def test_runs_needed_are_those_of_mlperf():
    assert (runs_needed(90), runs_needed(99)) == (64, 662)


@pytest.mark.parametrize("percent", [50, 75, 90, 95, 97])
@pytest.mark.parametrize("confidence", [Fraction(9, 10), Fraction(99, 100)])
def test_runs_needed_against_whole_numbers(percent, confidence):
    needed = runs_needed(percent, float(confidence))
    assert exact_over(needed, percent, confidence) >= 1
    assert exact_over(needed - 1, percent, confidence) < 1


@pytest.mark.parametrize(("runs", "discarded"), [(64, 0), (300, 17), (662, 47), (1000, 77), (5000, 449)])
def test_as_many_are_discarded_as_loadgen_does(runs, discarded):
    """What mlcommons-loadgen 6.0.17 wrote in its summaries of single-stream runs, at the 90th percentile."""
    found = tail_percentile(np.random.default_rng(0).permutation(runs).astype(float), 90)
    assert found == runs - 1 - discarded


@pytest.mark.parametrize("runs", [70, 128, 513, 900])
@pytest.mark.parametrize("percent", [80, 90, 99])
def test_discarded_against_whole_numbers(runs, percent):
    found = tail_percentile([float(second) for second in range(runs)], percent)
    over = exact_over(runs, percent, Fraction(99, 100))
    if over < 1:
        assert found is None
        assert runs_needed(percent) > runs
    else:
        assert found == runs - over
        assert runs_needed(percent) <= runs


@pytest.mark.parametrize("runs", [64, 65, 300, 1000])
@pytest.mark.parametrize("name", KNOWN)
def test_the_true_percentile_rarely_exceeds_the_estimate(name, runs):
    """At most once in a hundred; 2,000 repetitions."""
    draw, quantile, _ = KNOWN[name]
    samples = draw(np.random.default_rng(runs), (2000, runs))
    exceeded = sum(quantile(0.9) > tail_percentile(row, 90) for row in samples)
    assert exceeded <= 20


def test_the_estimate_comes_near_the_true_percentile_with_many_runs():
    draw, quantile, _ = KNOWN["uniform"]
    found = tail_percentile(draw(np.random.default_rng(5), 100_000), 90)
    assert quantile(0.9) < found < quantile(0.905)


def test_many_runs_do_not_underflow():
    """0.5^200,000 is no double; the sum near its middle is 0.01 where a normal distribution has it, within two runs."""
    over = 200_000 - tail_percentile(np.arange(200_000.0), 50)
    assert abs(over - (100_000 + NormalDist().inv_cdf(0.01) * math.sqrt(50_000))) < 2


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(("runs", "confidence"), [(6, 0.95), (10, 0.95), (15, 0.95), (40, 0.95), (40, 0.8)])
def test_the_interval_of_the_median_holds_it_as_often_as_it_says(name, runs, confidence):
    """Over 400 repetitions, within four standard errors of the binomial count."""
    draw, quantile, _ = KNOWN[name]
    generator = np.random.default_rng(runs)
    held = 0
    for repetition in range(400):
        interval = median_interval(draw(generator, runs), confidence, seed=repetition, resamples=1000)
        held += interval.low <= quantile(0.5) <= interval.high
    assert abs(held / 400 - confidence) < 4 * math.sqrt(confidence * (1 - confidence) / 400)


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
def test_the_interval_of_few_runs_is_their_range_and_holds_the_median_as_often_as_it_says(runs):
    generator = np.random.default_rng(runs)
    intervals = [median_interval(generator.exponential(1, runs)) for _ in range(2000)]
    held = sum(interval.low <= math.log(2) <= interval.high for interval in intervals) / 2000
    possible = intervals[0].confidence
    assert possible == 1 - 2 ** (1 - runs)
    assert abs(held - possible) <= 4 * math.sqrt(possible * (1 - possible) / 2000)


def test_the_bootstrap_is_its_seeds():
    samples = np.random.default_rng(0).exponential(1, 30)
    assert median_interval(samples, seed=1) == median_interval(samples, seed=1)
    assert median_interval(samples, seed=1) != median_interval(samples, seed=2)


def test_many_samples_are_resampled_in_parts():
    """The parts are the size of memory allowed; the interval's width is that of the normal approximation, within a fifth."""
    samples = np.random.default_rng(3).uniform(0, 1, 30_000)
    interval = median_interval(samples, 0.95, resamples=500)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(30_000), rel=0.2)


def test_a_summary():
    samples = [3.0, 1.0, 2.0, 2.5, 1.5, 2.25, 1.75, 30.0]
    summary = summary_of(samples)
    assert (summary.runs, summary.median, summary.minimum, summary.maximum) == (8, 2.125, 1.0, 30.0)
    assert summary.mean == pytest.approx(5.5)
    assert summary.standard_deviation == pytest.approx(math.sqrt(sum((s - 5.5) ** 2 for s in samples) / 7))
    assert summary.median_low < summary.median < summary.median_high
    assert (summary.p90, summary.p99) == (None, None)


def test_a_summary_of_one_run():
    summary = summary_of([2.0])
    assert (summary.median, summary.median_low, summary.median_high, summary.median_confidence) == (2.0, 2.0, 2.0, 0.0)
    assert summary.standard_deviation is None


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.randoms())
def test_a_summary_is_in_order_and_does_not_depend_on_that_of_the_runs(samples, random):
    summary = summary_of(samples)
    assert summary.minimum <= summary.median_low <= summary.median_high <= summary.maximum
    assert summary.p90 is None or summary.median <= summary.p90 <= summary.maximum
    assert (summary.p90 is None) == (len(samples) < 64)
    random.shuffle(samples)
    again = summary_of(samples)
    assert (again.median, again.p90, again.runs) == (summary.median, summary.p90, len(samples))


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [1.0, math.inf], [-1.0], [[1.0, 2.0]]])
def test_what_are_no_times_is_refused(samples):
    for function in (summary_of, slope, halves, median_interval, lambda s: tail_percentile(s, 90)):
        with pytest.raises(UsageError):
            function(samples)


@pytest.mark.parametrize("percent", [0, 100, -1, 101])
def test_percentiles_out_of_range_are_refused(percent):
    with pytest.raises(UsageError):
        tail_percentile([1.0, 2.0], percent)
    with pytest.raises(UsageError):
        runs_needed(percent)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
@pytest.mark.parametrize(
    "function", [median_interval, slope, halves, lambda s, confidence: runs_needed(90, confidence)]
)
def test_a_confidence_is_between_0_and_1(function, confidence):
    with pytest.raises(UsageError, match="confidence"):
        function([1.0] * 20, confidence=confidence)


def noise(generator: np.random.Generator, size: int) -> np.ndarray:
    """Return factors: lognormal, and one in fifty is a spike."""
    spikes = np.where(generator.random(size) < 0.02, generator.uniform(1.2, 2, size), 1)
    return generator.lognormal(0, 0.03, size) * spikes


@pytest.mark.parametrize("runs", [10, 60, 300])
@pytest.mark.parametrize("drift", [0.0, 0.004, -0.002])
def test_the_interval_of_a_slope_holds_it(runs, drift):
    """At 99%, over 300 repetitions, three of which may miss; nine are more than four standard errors off."""
    generator = np.random.default_rng(runs)
    slopes = [slope(3 * noise(generator, runs) + drift * np.arange(runs)) for _ in range(300)]
    assert sum(not found.low <= drift <= found.high for found in slopes) < 10
    drifting = sum(not found.low <= 0 <= found.high for found in slopes)
    if runs == 300:
        assert drifting < 10 if drift == 0 else drifting == 300
    assert np.mean([found.value for found in slopes]) == pytest.approx(drift, abs=0.1 / runs**1.5)


def test_a_slope_of_many_runs_is_that_per_run():
    generator = np.random.default_rng(0)
    found = slope(3 * noise(generator, 4321) + 1e-4 * np.arange(4321))
    assert found.value == pytest.approx(1e-4, rel=0.05)
    assert found.low <= 1e-4 <= found.high
    assert found.high - found.low < 1e-5


def test_a_cold_first_half_shows():
    generator = np.random.default_rng(0)
    seconds = noise(generator, 30) * np.where(np.arange(30) < 15, 1.3, 1.0)
    found = halves(seconds)
    assert found.verdict(0.99) == "faster"
    assert found.low < 1 / 1.3 < found.high
    assert found.value == np.median(seconds[15:]) / np.median(seconds[:15])


@pytest.mark.parametrize("runs", [16, 40, 100])
def test_halves_alike_are_rarely_called_different(runs):
    """Over 400 repetitions; the 99% interval may miss in up to 3%, as the bootstrap of few values is too narrow."""
    generator = np.random.default_rng(runs)
    every = [halves(noise(generator, runs), seed=seed, resamples=1000) for seed in range(400)]
    assert sum(found.verdict(0.99) != "no difference found" for found in every) <= 12
