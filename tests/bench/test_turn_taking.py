"""Rows take turns on the same prompts, and one that fails is told in its row: with contenders that are played."""

from __future__ import annotations

import pytest
from conftest import DEMO_REEL
from helpers.bench_played import PROMPTS, PlayedOurs, make_quick, run_played

from edgereel.bench import run as module


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    make_quick(monkeypatch)


@pytest.fixture
def ours_played(monkeypatch):
    monkeypatch.setattr(module, "Contender", PlayedOurs)


def test_peers_take_turns_on_the_same_prompts_and_seeds():
    record, played = run_played({"one": {}, "two": {"starting": 0.02}}, min_runs=3, cold=2)
    assert [row.contender for row in record.rows] == ["edgereel", "one", "two"]
    expected = [(PROMPTS[0], 0), (PROMPTS[0], 0), *[(PROMPTS[n % 2], n % 2) for n in range(4)]]
    assert played["one"][0].made == played["two"][0].made == expected
    cold = played["two"][1:]
    assert [contender.made for contender in cold] == [[(PROMPTS[0], 0)], [(PROMPTS[1], 1)]]
    assert all(contender.closed for contender in cold)
    samples = record.rows[2].cold.samples
    for start, making, contender in zip(samples["start"], samples["denoise"], cold, strict=True):
        assert contender.slept[0] - 1e-6 <= start <= contender.lived - making + 1e-6
    assert record.rows[1].stages["denoise"].peak_host_bytes == 1000
    assert record.rows[1].quality.psnr_to_edgereel_db == record.rows[1].quality.psnr_to_first_db < 40
    assert record.rows[0].quality.psnr_to_edgereel_db is None


@pytest.mark.parametrize("fail_at", [0, 1, 4])
def test_a_contender_that_fails_is_told_in_its_row(fail_at, ours_played):
    record, _ = run_played({"weak": {"fail_at": fail_at}}, cold=1)
    weak = record.rows[1]
    assert weak.failures == ["it broke"]
    assert weak.cold is None
    assert (weak.warm.runs if weak.warm else 0) == max(0, fail_at - 2)
    assert record.rows[0].failures == []
    assert record.rows[0].warm.runs >= 3
    assert record.comparisons == []


def test_pairs_measure_the_first_row_once_and_compare_all(monkeypatch, ours_played):
    need = 310 * 2**20 + int(1.5 * sum(path.stat().st_size for path in DEMO_REEL.iterdir()))
    monkeypatch.setattr(module, "free_host_memory", lambda: 2 * need)
    record, played = run_played({"one": {}, "two": {}}, min_runs=2)
    assert [row.warm.runs for row in record.rows] == [2, 2, 2]
    assert [each.second for each in record.comparisons] == [row.name for row in record.rows[1:]]
    assert [len(contenders) for contenders in played.values()] == [1, 1]
