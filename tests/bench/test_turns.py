"""A/B by turns on a simulated clock: how often equals are called different, and how often a 5% difference is found."""

from __future__ import annotations

import itertools
import math
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel.bench.stats.turns import CONFIDENCE, ROUNDS, Turns, compare, interleave
from edgereel.core.errors import Cancelled, UsageError


class Machine:
    """A simulated machine and its clock: noise of its own for every run, and a drift that all contenders share."""

    def __init__(self, seed: int, noise: str = "usual", drift: bool = True) -> None:
        self.generator, self.noise, self.now, self.order = np.random.default_rng(seed), noise, 0.0, []
        self.drift = 0.05 if drift else 0.0
        self.phase = self.generator.uniform(0, 2 * math.pi)

    def clock(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float):
        def run() -> None:
            drift = 1 + self.drift * (math.sin(self.now / 20 + self.phase) + self.now / 100)
            self.order.append(name)
            self.now += seconds * drift * self._factor()

        return run

    def _factor(self) -> float:
        """Usual: lognormal 3%, one run in fifty 1.2 to 2 times as long. Heavy: Student's t of 3 degrees, more spikes."""
        if self.noise == "none":
            return 1.0
        if self.noise == "usual":
            spike = self.generator.uniform(1.2, 2) if self.generator.random() < 0.02 else 1.0
            return spike * math.exp(self.generator.normal(0, 0.03))
        spike = 1 + self.generator.exponential(0.5) if self.generator.random() < 0.04 else 1.0
        return spike * math.exp(0.02 * self.generator.standard_t(3))


def compared(turns: Turns, first: str = "old", second: str = "new"):
    """Return the comparison of two that took turns, and its verdict."""
    found = compare(turns.seconds[first], turns.seconds[second])
    return found, found.verdict(CONFIDENCE)


def verdicts(noise: str, seconds: float, count: int = 1000) -> dict[str, int]:
    """Return how often each verdict came out of `count` comparisons, at the default number of rounds."""
    found = {"faster": 0, "slower": 0, "no difference found": 0}
    for seed in range(count):
        machine = Machine(seed, noise)
        contenders = {"old": machine.contender("old", 1.0), "new": machine.contender("new", seconds)}
        turns = interleave(contenders, seed=seed, clock=machine.clock)
        assert len(turns.seconds["old"]) == len(turns.seconds["new"]) == ROUNDS
        found[compared(turns)[1]] += 1
    return found


@pytest.mark.parametrize("noise", ["usual", "heavy"])
def test_equals_are_called_different_in_at_most_20_of_1000(noise):
    found = verdicts(noise, 1.0)
    assert found["faster"] + found["slower"] <= 20


@pytest.mark.parametrize("noise", ["usual", "heavy"])
def test_a_contender_5_percent_slower_is_found_in_900_of_1000(noise):
    found = verdicts(noise, 1.05)
    assert found["slower"] >= 900
    assert found["faster"] == 0


def test_a_contender_5_percent_faster_is_found():
    assert verdicts("usual", 1 / 1.05, 200)["faster"] >= 170


@pytest.mark.parametrize("ratio", [0.8, 1.02, 1.3])
def test_the_interval_holds_the_true_ratio(ratio):
    """At 99%, over 400 comparisons, four of which may miss; 13 are more than four standard errors off."""
    missed = []
    for seed in range(400):
        machine = Machine(seed)
        contenders = {"old": machine.contender("old", 1.0), "new": machine.contender("new", ratio)}
        found, _ = compared(interleave(contenders, seed=seed, clock=machine.clock))
        missed.append(not found.low <= ratio <= found.high)
    assert sum(missed) < 13


def test_without_turns_the_drift_would_be_taken_for_a_difference():
    """The same machines, the same equals: one after the other they mostly come out different, by turns they do not."""
    different = 0
    for seed in range(100):
        machine = Machine(seed)
        alone = {"any": machine.contender("any", 1.0)}
        first, second = (interleave(alone, clock=machine.clock).seconds["any"] for _ in range(2))
        different += compare(first, second).verdict(CONFIDENCE) != "no difference found"
    assert different > 50
    assert verdicts("usual", 1.0, 100)["no difference found"] >= 96


@settings(max_examples=60)
@given(st.integers(8, 11), st.integers(0, 2**32), st.sampled_from([0.9, 0.97, 0.99]))
def test_the_interval_leaves_1_out_where_too_few_sign_changes_are_as_extreme(rounds, seed, confidence):
    """The same test by its definition: of all 2^n ways to swap the contenders in rounds, how many are as extreme."""
    generator = np.random.default_rng(seed)
    differences = generator.normal(generator.uniform(-1, 1), 1, rounds)
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    signs = np.array(list(itertools.product([0, 1], repeat=rounds)))
    sums = signs @ ranks
    own = ranks[differences > 0].sum()
    chance = 2 * min((sums <= own).mean(), (sums >= own).mean())
    verdict = compare([1.0] * rounds, np.exp(differences), confidence).verdict(confidence)
    assert (verdict in ("faster", "slower")) == (chance <= 1 - confidence + 1e-12)


def test_a_published_interval():
    """Hollander and Wolfe, Nonparametric statistical methods, examples 3.1, 3.3 and 3.4: Hamilton's depression factor."""
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    found = compare(np.exp(before), np.exp(after), 0.96)
    assert math.log(found.value) == pytest.approx(-0.46)
    assert math.log(found.low) == pytest.approx(-0.786)
    assert math.log(found.high) == pytest.approx(-0.010)
    assert found.confidence == pytest.approx(0.961, abs=5e-4)


def test_many_rounds_by_the_normal_distribution_continue_the_exact_ones():
    """The interval's width goes with one over the root of the rounds, on both sides of the change, within a twentieth."""
    generator = np.random.default_rng(0)
    widths = []
    for rounds in (100, 101):
        every = [compare(*np.exp(generator.normal(0, 0.03, (2, rounds)))) for _ in range(100)]
        widths.append(np.mean([math.log(found.high / found.low) for found in every]))
    assert widths[0] == pytest.approx(widths[1], rel=0.05)


def test_thousands_of_rounds():
    generator = np.random.default_rng(0)
    times = np.exp(generator.normal([[0.0], [0.01]], 0.03, (2, 5000)))
    found = compare(*times)
    assert found.verdict(CONFIDENCE) == "slower"
    assert found.low < math.exp(0.01) < found.high
    assert found.high - found.low < 0.006


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=1, max_size=30), st.floats(0.001, 1000))
def test_exchanged_contenders_give_the_reciprocal_in_any_unit(times, unit):
    old, new = ([pair[side] for pair in times] for side in (0, 1))
    found = compare(old, new)
    turned = compare([unit * second for second in new], [unit * second for second in old])
    assert turned.value == pytest.approx(1 / found.value)
    assert turned.low == pytest.approx(1 / found.high)
    assert turned.high == pytest.approx(1 / found.low)
    assert found.low <= found.value * (1 + 1e-9)
    assert found.value <= found.high * (1 + 1e-9)


@pytest.mark.parametrize("rounds", range(1, 10))
def test_few_rounds_find_nothing_whatever_they_show(rounds):
    """With n rounds the range of their ratios has 1 - 2^(1 - n), which reaches 99% at eight."""
    found = compare([1.0] * rounds, [2.0 + 0.01 * place for place in range(rounds)])
    assert found.verdict(CONFIDENCE) == ("slower" if rounds >= 8 else "too few rounds to tell")
    if rounds <= 8:
        assert found.confidence == 1 - 2 ** (1 - rounds)
        assert (found.low, found.high) == pytest.approx((2.0, 1.99 + 0.01 * rounds))


def test_one_round_of_three_tells_every_pair():
    machine = Machine(1)
    contenders = {name: machine.contender(name, seconds) for name, seconds in [("a", 1.0), ("b", 1.2), ("c", 0.8)]}
    turns = interleave(contenders, clock=machine.clock)
    assert [compared(turns, *pair)[1] for pair in ("ab", "ac", "bc")] == ["slower", "faster", "faster"]
    assert compared(turns, "b", "c")[0].value == pytest.approx(0.8 / 1.2, rel=0.05)


def test_every_second_round_runs_backwards():
    machine = Machine(0, "none")
    contenders = {name: machine.contender(name, 1.0) for name in "abc"}
    turns = interleave(contenders, rounds=39, clock=machine.clock)
    assert len(turns.seconds["a"]) == 40
    rounds = ["".join(machine.order[start : start + 3]) for start in range(0, len(machine.order), 3)]
    assert rounds[1::2] == [order[::-1] for order in rounds[::2]]
    assert len(set(rounds)) == 6
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)


def test_a_steady_drift_falls_on_all_alike():
    """Without noise, and 1% more for every run: in each two rounds, both contenders have had the same geometric mean."""
    now = [0.0, 1.0]

    def run() -> None:
        now[0] += now[1]
        now[1] *= 1.01

    turns = interleave({"a": run, "b": run}, clock=lambda: now[0])
    ratios = np.log(turns.seconds["b"]) - np.log(turns.seconds["a"])
    assert np.abs(ratios).min() > 0.009
    assert ratios.reshape(-1, 2).sum(axis=1) == pytest.approx(0, abs=1e-9)


def test_it_goes_on_for_the_seconds_asked_for():
    machine, told = Machine(0, "none", drift=False), []
    contenders = {"a": machine.contender("a", 1.0), "b": machine.contender("b", 2.0)}
    turns = interleave(contenders, 2, 20.0, clock=machine.clock, on_turn=lambda *turn: told.append(turn))
    assert turns.seconds == {"a": pytest.approx([1.0] * 8), "b": pytest.approx([2.0] * 8)}
    assert [turn[0] for turn in told] == [number for number in range(1, 9) for _ in range(2)]
    assert {turn[1:] for turn in told} == {("a", 1.0), ("b", 2.0)}


def test_an_interrupted_comparison_keeps_complete_rounds():
    machine = Machine(0)

    def interrupted() -> None:
        machine.contender("b", 1.0)()
        if machine.order.count("b") == 5:
            signal.raise_signal(signal.SIGINT)

    turns = interleave({"a": machine.contender("a", 1.0), "b": interrupted}, clock=machine.clock)
    assert turns.partial
    assert len(turns.seconds["a"]) == len(turns.seconds["b"]) == 4
    assert compared(turns, "a", "b")[1] == "too few rounds to tell"


def test_an_interruption_before_a_complete_round_is_passed_on():
    with pytest.raises(KeyboardInterrupt):
        interleave({"a": lambda: None, "b": lambda: signal.raise_signal(signal.SIGINT)})


def test_what_cannot_be_compared_is_refused():
    for first, second, said in (
        ([1.0, 1.0], [1.0, 0.0], "above zero"),
        ([], [], "above zero"),
        ([1.0], [1.0, 1.0], "equally often"),
    ):
        with pytest.raises(UsageError, match=said):
            compare(first, second)
    with pytest.raises(UsageError, match="confidence"):
        compare([1.0], [1.0], 1.0)


class Ticks:
    """A clock that `run` moves on by the next of the given times, starting over at their end."""

    def __init__(self, *times: float) -> None:
        self.now, self.times, self.runs = 100.0, times, 0

    def run(self) -> None:
        self.now += self.times[self.runs % len(self.times)]
        self.runs += 1

    def clock(self) -> float:
        return self.now


def test_one_alone_goes_on_until_both_minima_are_met():
    ticks = Ticks(8.0, 1.0, 2.0)
    assert interleave({"it": ticks.run}, 3, clock=ticks.clock) == Turns({"it": [8.0, 1.0, 2.0]}, partial=False)
    ticks, told = Ticks(1.0), []
    found = interleave({"it": ticks.run}, 2, 5.0, clock=ticks.clock, on_turn=lambda *turn: told.append(turn))
    assert found == Turns({"it": [1.0] * 5}, partial=False)
    assert told == [(number, "it", 1.0) for number in range(1, 6)]


@pytest.mark.parametrize("stop", [lambda: signal.raise_signal(signal.SIGINT), lambda: (_ for _ in ()).throw(Cancelled)])
def test_one_alone_that_is_interrupted_keeps_what_there_is(stop):
    ticks = Ticks(1.0, 2.0, 3.0, 4.0)

    def run():
        ticks.run()
        if ticks.runs == 4:
            next(iter(stop() or ()), None)

    assert interleave({"it": run}, clock=ticks.clock) == Turns({"it": [1.0, 2.0, 3.0]}, partial=True)


def test_errors_of_a_run_are_passed_on():
    with pytest.raises(ZeroDivisionError):
        interleave({"it": lambda: 1 / 0})


@pytest.mark.parametrize("minima", [(0, 0.0), (1, -1.0), (1, math.nan)])
def test_impossible_minima_are_refused(minima):
    with pytest.raises(UsageError, match="at least 1 round"):
        interleave({"it": lambda: None}, *minima)
    with pytest.raises(UsageError, match="at least 1 round"):
        interleave({})
