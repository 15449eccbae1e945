"""Which of several contenders is faster: they take turns, and what each pair differs by is taken round by round.

A machine that gets slower or faster during the measurement does so for all contenders alike; within a round they are close
in time, so that their ratio there is free of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np

from ...core.errors import Cancelled, UsageError
from .repeat import Clock, timed
from .statistics import Interval, block_medians, check_confidence

ROUNDS = 28
"""Enough to find a contender 5% slower nine times in ten, where times scatter by 3% and one in fifty is far too long.

`tests/bench/test_turns.py` counts that. Times that scatter less, or a greater difference, need fewer; at least eight.
"""
CONFIDENCE = 0.99
EXACT_ROUNDS = 100
"""Up to how many rounds the distribution of the signed-rank statistic is computed; beyond, it is as good as normal."""
Verdict = Literal["faster", "slower", "no difference found", "too few rounds to tell"]


@dataclass(frozen=True)
class Turns:
    """Seconds of each contender, one for each complete round, by its name; partial: interrupted before it was done."""

    seconds: dict[str, list[float]]
    partial: bool

    @property
    def rounds(self) -> int:
        """How many complete rounds there are."""
        return len(next(iter(self.seconds.values())))


@dataclass(frozen=True)
class Comparison:
    """How the times of `contender` compare with those of `baseline`.

    ratio: contender over baseline, above 1 where the contender takes longer; interval: of the ratio. verdict: of the
    contender, which is "faster" or "slower" only where the interval does not hold 1, and "too few rounds to tell" where
    no interval has the confidence that was asked for.
    """

    baseline: str
    contender: str
    rounds: int
    baseline_median: float
    contender_median: float
    ratio: float
    interval: Interval
    verdict: Verdict


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    min_seconds: float = 0.0,
    warm_ups: int = 1,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    on_turn: Callable[[int, str, float], None] | None = None,
) -> Turns:
    """Let every contender run once a round, for at least `rounds` rounds and `min_seconds` of rounds in all.

    The order of every other round is shuffled, and the round after it has it reversed: over the two, a steady drift falls
    on all contenders alike. So the number of rounds is even: an odd `rounds` gets one more. Before the first, every
    contender runs `warm_ups` times. on_turn is told the round, from 1, the contender's name and its seconds. Ctrl-C, or a
    run that raises Cancelled, ends it: complete rounds come back as partial; where there is none, the interruption is
    passed on. Raises UsageError for fewer than two contenders or minima that cannot be, and what a contender raises.
    """
    if len(contenders) < 2:
        raise UsageError("a comparison needs at least two contenders")
    if rounds < 1 or warm_ups < 0 or not min_seconds >= 0:
        raise UsageError(f"cannot compare in {rounds} rounds and {min_seconds:g} seconds: at least 1 round, 0 seconds")
    generator = np.random.default_rng(seed)
    done: list[dict[str, float]] = []
    try:
        for run in contenders.values():
            for _ in range(warm_ups):
                run()
        start = clock()
        order: list[str] = []
        while len(done) < rounds or len(done) % 2 or clock() - start < min_seconds:
            order = order[::-1] if len(done) % 2 else [str(name) for name in generator.permutation(list(contenders))]
            turn: dict[str, float] = {}
            for name in order:
                turn[name] = timed(contenders[name], clock)
                if on_turn is not None:
                    on_turn(len(done) + 1, name, turn[name])
            done.append(turn)
    except (KeyboardInterrupt, Cancelled):
        if not done:
            raise
        return Turns(_by_name(contenders, done), partial=True)
    return Turns(_by_name(contenders, done), partial=False)


def _by_name(contenders: Mapping[str, object], rounds: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [turn[name] for turn in rounds] for name in contenders}


def compare_all(turns: Turns, confidence: float = CONFIDENCE) -> list[Comparison]:
    """Return the comparison of every pair, the earlier contender as the baseline.

    The confidence is each pair's own: of many pairs of equals, a few are called different. Raises UsageError as `compare`.
    """
    return [compare(turns, baseline, other, confidence) for baseline, other in combinations(turns.seconds, 2)]


def compare(turns: Turns, baseline: str, contender: str, confidence: float = CONFIDENCE) -> Comparison:
    """Return by what ratio the contender's times differ from the baseline's, judged round by round.

    The estimate is that of Hodges and Lehmann (1963) over the logarithms of the rounds' ratios, the interval that of the
    Wilcoxon signed-rank test (Hollander, Wolfe and Chicken, Nonparametric statistical methods, 2014, section 3.3). It
    assumes no shape of the noise, only that equals differ in either direction alike, which is so as they take turns: the
    chance of calling equals different is at most 1 - confidence. Where the rounds are too few for that confidence (99%:
    below eight), the interval is the range of the rounds' ratios with what confidence that has, and the verdict says so.
    More than 1000 rounds are first reduced by `block_medians`. Raises UsageError for times that are not above zero,
    or not equally many, names that did not take part, or a confidence not between 0 and 1.
    """
    if missing := {baseline, contender} - turns.seconds.keys():
        raise UsageError(f"{sorted(missing)[0]!r} did not take part: there are {', '.join(turns.seconds)}")
    check_confidence(confidence)
    if len(turns.seconds[baseline]) != len(turns.seconds[contender]):
        raise UsageError(f"{baseline!r} and {contender!r} did not run equally often: there are no rounds to compare")
    times = np.array([turns.seconds[baseline], turns.seconds[contender]])
    if not np.isfinite(times).all() or times.size == 0 or times.min() <= 0:
        raise UsageError("measured times must be finite and above zero to be compared")
    differences, _ = block_medians(np.diff(np.log(times), axis=0)[0])
    first, second = np.triu_indices(len(differences))
    averages = np.sort((differences[first] + differences[second]) / 2)
    outside, reached = _signed_rank(len(differences), confidence)
    interval = Interval(math.exp(averages[outside]), math.exp(averages[-1 - outside]), reached)
    verdict: Verdict = "no difference found" if reached >= confidence else "too few rounds to tell"
    if reached >= confidence and not interval.low <= 1 <= interval.high:
        verdict = "slower" if interval.low > 1 else "faster"
    medians = np.median(times, axis=1)
    return Comparison(
        baseline,
        contender,
        times.shape[1],
        float(medians[0]),
        float(medians[1]),
        math.exp(np.median(averages)),
        interval,
        verdict,
    )


def _signed_rank(rounds: int, confidence: float) -> tuple[int, float]:
    """Return how many of the sorted averages lie outside the interval on each side, and the confidence it then has.

    From the distribution of the signed-rank statistic, where every rank counts or not with even chances. 0 where even the
    range of all averages has less confidence than was asked for.
    """
    if rounds > EXACT_ROUNDS:
        spread = math.sqrt(rounds * (rounds + 1) * (2 * rounds + 1) / 24)
        middle = rounds * (rounds + 1) / 4
        return math.floor(middle + NormalDist().inv_cdf((1 - confidence) / 2) * spread), confidence
    chances = np.ones(1)
    for rank in range(1, rounds + 1):
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
    at_most = np.cumsum(chances)
    # Of M averages, `outside` more on one side than the interval leaves out happen with P(statistic <= outside).
    outside = max(0, int(np.searchsorted(at_most, (1 - confidence) / 2, side="right")) - 1)
    return outside, float(1 - 2 * at_most[outside])
