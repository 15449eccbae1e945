"""Which of several contenders is faster: they take turns, and what each pair differs by is taken round by round.

A machine that gets slower or faster during the measurement does so for all contenders alike; within a round they are close
in time, so that their ratio there is free of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from ...core.errors import Cancelled, UsageError
from .statistics import Estimate, block_medians, check_confidence

Clock = Callable[[], float]
"""Returns seconds that never go back; differences alone are used."""
ROUNDS = 28
"""Enough to find a contender 5% slower nine times in ten, where times scatter by 3% and one in fifty is far too long.

`tests/bench/test_turns.py` counts that. Times that scatter less, or a greater difference, need fewer; at least eight.
"""
CONFIDENCE = 0.99
EXACT_ROUNDS = 100
"""Up to how many rounds the distribution of the signed-rank statistic is computed; beyond, it is as good as normal."""


@dataclass(frozen=True)
class Turns:
    """Seconds of each contender, one for each complete round, by its name; partial: interrupted before it was done."""

    seconds: dict[str, list[float]]
    partial: bool


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    min_seconds: float = 0.0,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    on_turn: Callable[[int, str, float], None] | None = None,
) -> Turns:
    """Let every contender run once a round, for at least `rounds` rounds and `min_seconds` of rounds in all.

    The order of every other round is shuffled, and the round after it has it reversed: over the two, a steady drift falls
    on all contenders alike. So the number of rounds is even, where there are several: an odd `rounds` gets one more. A
    contender must come back only when its work is done: what it has put on a device's queue it waits for. on_turn is told
    the round, from 1, the contender's name and its seconds. Ctrl-C, or a run that raises Cancelled, ends it: complete rounds
    come back as partial; where there is none, the interruption is passed on. Raises UsageError for minima that cannot be,
    and what a contender raises.
    """
    if not contenders or rounds < 1 or not min_seconds >= 0:
        raise UsageError(f"cannot measure {rounds} rounds and {min_seconds:g} seconds: at least 1 round, 0 seconds")
    generator = np.random.default_rng(seed)
    done: list[dict[str, float]] = []
    names = order = list(contenders)
    start, partial = clock(), False
    try:
        while len(done) < rounds or (len(done) % 2 and len(order) > 1) or clock() - start < min_seconds:
            order = order[::-1] if len(done) % 2 else [names[place] for place in generator.permutation(len(names))]
            turn: dict[str, float] = {}
            for name in order:
                begun = clock()
                contenders[name]()
                turn[name] = clock() - begun
                if on_turn is not None:
                    on_turn(len(done) + 1, name, turn[name])
            done.append(turn)
    except (KeyboardInterrupt, Cancelled):
        if not done:
            raise
        partial = True
    return Turns({name: [turn[name] for turn in done] for name in contenders}, partial)


def compare(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the ratio of the second's times to the first's, judged round by round: the n-th of both are of one round.

    The estimate is that of Hodges and Lehmann (1963) over the logarithms of the rounds' ratios, the interval that of the
    Wilcoxon signed-rank test (Hollander, Wolfe and Chicken, Nonparametric statistical methods, 2014, section 3.3). It
    assumes no shape of the noise, only that equals differ in either direction alike, which is so as they take turns: the
    chance of calling equals different is at most 1 - confidence. Where the rounds are too few for that confidence (99%:
    below eight), the interval is the range of the rounds' ratios with what confidence that has. More than 1000 rounds are
    first reduced by `block_medians`. Raises UsageError for times that are not above zero, or not equally many, or a
    confidence not between 0 and 1.
    """
    check_confidence(confidence)
    if len(first) != len(second):
        raise UsageError("the two did not run equally often: there are no rounds to compare")
    times = np.array([first, second])
    if not np.isfinite(times).all() or times.size == 0 or times.min() <= 0:
        raise UsageError("measured times must be finite and above zero to be compared")
    differences, _ = block_medians(np.diff(np.log(times), axis=0)[0])
    places = np.triu_indices(len(differences))
    averages = np.sort((differences[places[0]] + differences[places[1]]) / 2)
    outside, reached = _signed_rank(len(differences), confidence)
    low, high = averages[outside], averages[-1 - outside]
    return Estimate(math.exp(np.median(averages)), math.exp(low), math.exp(high), reached)


@lru_cache(maxsize=64)
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
