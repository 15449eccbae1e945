"""Which rows are measured, what each is compared with, and what is refused before anything is measured."""

from __future__ import annotations

import sys

import pytest
from conftest import DEMO_REEL
from helpers.bench_played import PROMPTS, SMALL, Played

from edgereel.bench import run as module
from edgereel.bench.contenders.base import Peer
from edgereel.bench.grid import default_steps, plan_rows, references
from edgereel.bench.run import run_bench
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import GeometryError, MissingExtraError, PromptError, UsageError


def test_the_reference_is_the_first_bundles_row_of_the_same_kind(demo_copy):
    peers = {"peer": Peer(Played)}
    grid = (["auto"], [1, 2], [(32, 32), (64, 64)], [5], PROMPTS, 1, peers)
    plans = plan_rows([DEMO_REEL, demo_copy], *grid)
    found = references(plans)
    assert list(found) == [plan.name for plan in plans[1:]]
    by_name = {plan.name: plan for plan in plans}
    for name, other in found.items():
        plan, reference = by_name[name], by_name[other]
        assert reference.contender == "edgereel"
        assert reference.bundle is plans[0].bundle
        own = plan.contender == "edgereel" and plan.bundle is plans[0].bundle
        if own:
            assert reference is plans[0]
        else:
            assert (reference.request.steps, reference.request.width) == (plan.request.steps, plan.request.width)


def test_what_cannot_be_is_refused_before_anything_is_measured(monkeypatch):
    def refuse(*_):
        raise AssertionError("it was measured")

    monkeypatch.setattr(module, "measure_limits", refuse)
    for error, arguments in (
        (GeometryError, {"sizes": [(32, 32), (33, 32)]}),
        (GeometryError, {"frames": [5, 6]}),
        (UsageError, {"steps": [1, 3]}),
        (UsageError, {"engines": ["auto", "abacus"]}),
        (UsageError, {"threads": 0}),
        (UsageError, {"min_runs": 0}),
        (UsageError, {"prompts": []}),
        (PromptError, {"prompts": [*PROMPTS, "an unheard-of zeppelin"]}),
    ):
        with pytest.raises(error):
            run_bench(**{**SMALL, **arguments})
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtraError, match=r"edgereel\[bench\]"):
        run_bench(**SMALL)


def test_rows_have_names_of_their_own(guided_copy):
    assert default_steps(open_bundle(DEMO_REEL).manifest) == [4, 2, 1]
    arguments = (["auto"], [1, 2], [(32, 32), (64, 64)], [5], PROMPTS, 1)
    names = [plan.name for plan in plan_rows([DEMO_REEL, guided_copy], *arguments)]
    assert len(set(names)) == len(names) == 8
    assert names[0] == "edgereel demo bf16 (demo.reel), 1 step, 32x32"
    twice = [plan.name for plan in plan_rows([None, None], ["auto"], [1], [None], [None], PROMPTS, 1)]
    assert len(set(twice)) == 2


def test_rows_that_do_not_fit_into_memory_together_run_in_pairs(monkeypatch):
    need = 300 * 2**20 + int(1.5 * sum(path.stat().st_size for path in DEMO_REEL.iterdir()))
    for free, groups in (
        (None, [[4, 2, 1]]),
        (4 * need, [[4, 2, 1]]),
        (2 * need, [[4, 2], [4, 1]]),
        (0, [[4], [2], [1]]),
    ):
        monkeypatch.setattr(module, "free_host_memory", lambda free=free: free)
        plans = plan_rows([None], ["auto"], None, [None], [None], PROMPTS, 1)
        bench = module.Bench(plans, module.BenchOptions(PROMPTS))
        assert [[row.plan.request.steps for row in group] for group in bench._groups()] == groups
    monkeypatch.setattr(module, "free_host_memory", lambda: 2 * need)
    plans = plan_rows([None, None], ["auto"], [4, 1], [None], [None], PROMPTS, 1)
    bench = module.Bench(plans, module.BenchOptions(PROMPTS))
    pairs = [[bench.measured.index(row) for row in group] for group in bench._groups()]
    assert pairs == [[0, 1], [0, 2], [1, 3]]
