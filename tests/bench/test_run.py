"""`edgereel bench run`: real processes on the shipped bundle, contenders that fail, and interruptions."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import psutil
import pytest
from conftest import DEMO_REEL
from helpers.bench_played import PROMPTS, SMALL, make_quick

from edgereel.bench import run as module
from edgereel.bench.contenders.base import Contender
from edgereel.bench.report.scores import quality_text
from edgereel.bench.run import run_bench
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import Cancelled
from edgereel.quality.metrics import psnr
from edgereel.runtime.reel import load


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    make_quick(monkeypatch)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def small_record(tmp_path_factory):
    """A whole run of two rows at the smallest size, warm and cold."""
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEREEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(module, "WATCHED_SECONDS", 0.1)
        before = children()
        record = run_bench(
            steps=[2, 1], **SMALL, min_runs=3, cold=2, quality=True, on_progress=lambda *step: told.append(step)
        )
        assert children() == before
    return record, told


def test_a_run_has_a_row_for_each_setting(small_record):
    record, _ = small_record
    assert [row.name for row in record.rows] == ["edgereel demo, 2 steps", "edgereel demo, 1 step"]
    assert not record.partial
    for row, steps in zip(record.rows, (2, 1), strict=True):
        assert row.failures == []
        assert (row.settings.steps, row.settings.width, row.settings.frames, row.settings.seeds) == (
            steps,
            32,
            5,
            [0, 1],
        )
        assert row.bundle.digest == open_bundle(DEMO_REEL).manifest.digest
        assert (row.engine.engine, row.engine.provider, row.engine.threads) == ("cpu", ["CPUExecutionProvider"], 1)
        assert row.warm.runs == 4  # three and one more: turns come in pairs of rounds
        assert row.cold.runs == 2
        assert len(row.warm.samples["denoise_step"]) == 4 * steps


def test_stages_of_every_clip_add_up(small_record):
    record, _ = small_record
    for row in record.rows:
        for timing, stages in ((row.warm, {"text", "denoise", "decode", "encode"}), (row.cold, set(module_stages()))):
            assert set(timing.samples) - {"total", "denoise_step", "first_frame", "frame"} == stages
            sums = np.sum([timing.samples[stage] for stage in stages], axis=0)
            assert sums == pytest.approx(timing.samples["total"], abs=1e-5)
        assert min(row.cold.samples["start"]) > 0
        assert min(row.cold.samples["open"]) > 0
        assert min(row.warm.samples["text"]) > 0  # no embedding comes out of the cache


def module_stages():
    from edgereel.bench.records.record import STAGES

    return STAGES


def test_rows_are_compared_and_their_pictures_too(small_record):
    record, _ = small_record
    comparison = record.comparisons[0]
    assert (comparison.first, comparison.second, comparison.rounds) == (record.rows[0].name, record.rows[1].name, 4)
    assert comparison.verdict == "too few rounds to tell"  # four rounds are too few for 99%
    assert record.rows[0].quality.psnr_to_first_db == 100.0
    with load(DEMO_REEL, threads=1, cache=False) as reel:
        clips = {
            steps: [
                np.stack(list(reel.generate(prompt, seed=seed, steps=steps, size=(32, 32), frames=5)))
                for seed, prompt in enumerate(PROMPTS)
            ]
            for steps in (2, 1)
        }
    expected = np.mean([psnr(first, other) for first, other in zip(clips[2], clips[1], strict=True)])
    assert record.rows[1].quality.psnr_to_first_db == pytest.approx(expected)


def test_rows_of_several_bundles_are_compared_at_the_same_steps(demo_copy):
    record = run_bench([None, demo_copy], steps=[1, 2], **SMALL, min_runs=8, cold=0)
    one, two, copy_one, copy_two = (row.name for row in record.rows)
    assert [row.reference for row in record.rows] == [None, one, one, two]
    assert [(each.first, each.second) for each in record.comparisons] == [(one, two), (one, copy_one), (two, copy_two)]
    qualities = [row.quality for row in record.rows]
    assert [quality.psnr_to_reference_db for quality in qualities[2:]] == [100.0, 100.0]  # the same files
    assert qualities[0].psnr_to_reference_db is None
    assert qualities[1].psnr_to_reference_db == qualities[1].psnr_to_first_db < 100
    assert qualities[3].psnr_to_first_db == qualities[1].psnr_to_first_db
    assert quality_text(record.rows[3], record).startswith(f"equal to {two}")
    assert quality_text(record.rows[2], record).startswith("equal to the first row")


def test_quality_stands_beside_speed(small_record):
    record, _ = small_record
    carried = open_bundle(DEMO_REEL).manifest.quality
    for row in record.rows:
        assert row.quality.source == "measured"
        assert row.quality.figures["held_out_clips"] == carried["held_out_clips"]
        assert row.quality.figures["clips"] == 24
        assert 0 <= row.quality.figures["colour_shown"] <= 1


def test_memory_work_and_limits_are_told(small_record):
    record, _ = small_record
    for row in record.rows:
        for stage in ("text", "denoise", "decode"):
            assert row.stages[stage].peak_host_bytes > 2**24
            assert 0 < row.stages[stage].fraction_of_compute < 10
            assert row.stages[stage].bound in ("compute", "memory")
        assert row.stages["encode"].flops is None
        assert len(row.memory_timeline) > 10
        assert {stage for _, stage in row.memory_stages} == {"text", "denoise", "decode", "encode"}
        assert [moment for moment, _ in row.memory_stages] == sorted(moment for moment, _ in row.memory_stages)
        assert row.installed_bytes > 2**26
        assert row.power.source in ("not measured", "rapl", "jetson")
        if row.power.source == "not measured":
            assert row.power.joules_per_clip is None
    assert record.rows[0].stages["denoise"].flops == 2 * record.rows[1].stages["denoise"].flops
    assert record.limits.threads == 1


def test_progress_is_told_to_the_end(small_record):
    _, told = small_record
    for stage, total in (("limits", 1), ("warm", 8), ("resources", 2), ("quality", 48), ("cold", 4)):
        steps = [(done, of) for name, done, of in told if name == stage]
        assert steps[0] == (0, total)
        assert steps[-1] == (total, total)
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_a_process_that_dies_is_told_in_its_row(monkeypatch):
    code = "import sys; print('no such device', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr(Contender, "command", lambda self: [sys.executable, "-c", code])
    record = run_bench(steps=[1], **SMALL, min_runs=1, cold=1)
    assert record.rows[0].failures == ["a contender's process ended with exit code 3: no such device"]
    assert (record.rows[0].warm, record.rows[0].cold, record.rows[0].quality.source) == (None, None, "none")


def test_a_process_that_is_killed_meanwhile_is_told_in_its_row():
    def kill(stage, done, total):
        if stage == "warm" and done == 2:
            for process in psutil.Process().children():
                if "edgereel.bench.contenders.worker" in " ".join(process.cmdline()):
                    process.kill()

    record = run_bench(steps=[1], **SMALL, min_runs=5, cold=0, on_progress=kill)
    assert record.rows[0].warm.runs == 2
    assert "signal 9" in record.rows[0].failures[0]
    assert len(record.rows[0].failures) == 1


@pytest.mark.parametrize("how", ["signal", "answer"])
def test_an_interruption_keeps_what_was_measured(how, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = children()

    def stop(stage, done, total):
        if (stage, done) == ("warm", 5):
            if how == "answer":
                return False
            os.kill(os.getpid(), signal.SIGINT)
        return True

    record = run_bench(steps=[2, 1], **SMALL, min_runs=50, cold=1, on_progress=stop)
    assert record.partial
    assert sorted(row.warm.runs for row in record.rows) == [2, 3]
    assert record.comparisons[0].rounds == 2
    assert all(row.cold is None for row in record.rows)
    assert children() == before
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_before_the_first_clip_is_passed_on():
    with pytest.raises(Cancelled):
        run_bench(steps=[1], **SMALL, on_progress=lambda *_: False)
