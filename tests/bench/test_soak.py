"""Soaking: planted leaks, slowdowns and failures are found, a healthy worker passes; the demo makes clips for real."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import HELPERS
from typer.testing import CliRunner

from edgereel.bench.contenders.base import Contender
from edgereel.bench.contenders.stages import ClipTimes
from edgereel.bench.load.soak import Sample, SoakLimits, default_skip, judge, longest_stretch, run_soak
from edgereel.bench.records.record import read_record
from edgereel.bench.report.results import soak_markdown
from edgereel.cli import app
from edgereel.core.errors import EngineError, PromptError, UsageError

WORKER = HELPERS / "planted_worker.py"
NEVER = SoakLimits(memory=0.1, latency=1.1)


def soak_of(fault, clips=90, skip=10, **options):
    class Planted(Contender):
        def command(self):
            return [sys.executable, str(WORKER), fault]

    return run_soak(clips=clips, skip=skip, contender=Planted, limits=NEVER, **options)


def samples_of(seconds, resident=None, process=0):
    resident = [10**8] * len(seconds) if resident is None else resident
    return [
        Sample(ClipTimes(each, {"denoise": each}, {}), int(memory), 20, 4, process)
        for each, memory in zip(seconds, resident, strict=True)
    ]


def test_a_healthy_worker_passes():
    record = soak_of("healthy")
    assert record.kind == "soak"
    assert not record.partial
    soak = record.soak
    assert (soak.verdict, soak.reasons, soak.made, soak.failed) == ("pass", [], 90, 0)
    assert abs(soak.memory_trend.per_clip) < 0.01
    assert len(soak.resident_bytes) == len(soak.seconds) == len(soak.open_files) == len(soak.threads) == 90
    assert min(soak.resident_bytes) > 10**6
    assert record.rows[0].warm.runs == 80
    assert record.rows[0].settings.seeds == list(range(90))


def test_a_leak_of_a_megabyte_for_each_clip_is_found():
    soak = soak_of("leaks").soak
    assert soak.memory_trend.per_clip == pytest.approx(1.0, rel=0.1)
    assert soak.memory_trend.low <= soak.memory_trend.per_clip <= soak.memory_trend.high
    assert soak.verdict == "fail"
    assert len(soak.reasons) == 1
    assert "MB with each clip, and 0.1 are allowed" in soak.reasons[0]


def test_a_worker_that_slows_down_is_found():
    soak = soak_of("slows").soak
    assert soak.verdict == "fail"
    assert soak.latency_trend.per_clip == pytest.approx(1e-5, rel=1e-3)
    assert soak.second_half == pytest.approx((1 + 0.01 * 70.5) / (1 + 0.01 * 30.5), rel=1e-3)
    assert "times as long as earlier ones" in soak.reasons[0]


def test_files_that_stay_open_are_found():
    soak = soak_of("opens").soak
    assert soak.open_files_trend.per_clip == 1
    assert soak.reasons == ["the number of open files grew by 1.00 with each clip"]


def test_a_clip_that_fails_is_counted_and_the_others_are_made():
    record = soak_of("fails")
    soak = record.soak
    assert (soak.made, soak.failed, soak.verdict) == (89, 1, "fail")
    assert [place for place, seconds in enumerate(soak.seconds) if seconds is None] == [6]
    assert record.rows[0].failures == ["clip 7: planted: clip 7 cannot be made"]
    assert "1 of 90 clips failed, first: clip 7" in soak.reasons[0]


def test_a_worker_that_dies_is_started_again():
    record = soak_of("dies")
    assert (record.soak.made, record.soak.failed) == (89, 1)
    assert "exit code 3" in record.rows[0].failures[0]


def test_trends_are_over_clips_of_one_process():
    first = samples_of([0.1] * 20, np.linspace(1e8, 2e8, 20))
    second = samples_of([0.1] * 30, process=1)
    assert longest_stretch([*first, None, *second]) == second
    assert judge([*first, None, *second], [], 51, 0).memory_trend.per_clip == 0


def test_a_worker_that_always_fails_is_given_up(monkeypatch):
    def fail(self, prompt, seed):
        raise EngineError("planted")

    monkeypatch.setattr("edgereel.bench.contenders.base.Contender.make", fail)
    record = soak_of("healthy")
    assert record.soak.made == 0
    assert record.soak.failed == 10
    assert record.soak.verdict == "fail"
    assert "given up" in record.rows[0].failures[-1]
    assert "too few clips" in soak_markdown(record)


def test_noise_alone_does_not_fail():
    """Planted: a steady worker whose times scatter by a fifth and whose memory steps up and down, five times."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        soak = judge(samples_of(0.1 * rng.lognormal(0, 0.2, 300), 1e8 + rng.normal(0, 2e6, 300)), [], 300, 0)
        assert soak.verdict == "pass"
        assert abs(soak.memory_trend.per_clip) < 0.01


@pytest.mark.parametrize("made", [0, 1, 40])
def test_interrupted_it_keeps_what_was_made(made, tmp_path):
    def stop(stage, done, total):
        if done == made:
            raise KeyboardInterrupt
        return True

    if not made:
        with pytest.raises(KeyboardInterrupt):
            soak_of(
                "healthy", on_progress=lambda stage, done, total: stop(stage, done, total) if stage == "clips" else True
            )
        return
    record = soak_of(
        "healthy", on_progress=lambda stage, done, total: stop(stage, done, total) if stage == "clips" else True
    )
    assert record.partial
    assert record.soak.made == made
    assert (record.soak.memory_trend is None) == (made - 10 < 16)
    assert record.soak.verdict == ("undecided" if made - 10 < 16 else "pass")
    assert "Soak" in soak_markdown(record)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"clips": 15, "skip": 0}, UsageError, "--clips 15"),
        ({"clips": 50, "skip": 35}, UsageError, "--skip 35"),
        ({"prompts": ["a purple walrus"]}, PromptError, "walrus"),
        ({"threads": 0}, UsageError, "threads"),
        ({"memory": "lots"}, UsageError, "lots"),
        ({"limits": SoakLimits(memory=float("nan"))}, UsageError, "--fail-memory"),
        ({"limits": SoakLimits(latency=float("inf"))}, UsageError, "--fail-latency"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_first_clip(options, error, said):
    with pytest.raises(error, match=said):
        run_soak(**{"clips": 50, "skip": 10, "contender": None, **options})


@pytest.mark.parametrize(("clips", "skip"), [(16, 0), (20, 4), (24, 6), (80, 20), (199, 49), (200, 50), (500, 50)])
def test_the_first_clips_are_left_out_as_far_as_enough_are_left(clips, skip):
    assert default_skip(clips) == skip


def test_a_short_soak_needs_no_option_and_says_what_it_skipped():
    record = soak_of("healthy", clips=24, skip=None)
    assert (record.soak.skipped, record.soak.verdict, record.rows[0].warm.runs) == (6, "pass", 18)
    assert "Of the clips, the first 6 do not count." in soak_markdown(record)
    assert "Of the clips, all of them count." in soak_markdown(soak_of("healthy", clips=16, skip=None))


def test_the_demo_makes_clips_and_the_command_says_how_it_went(tmp_path):
    arguments = ["bench", "soak", "--clips", "20", "--threads", "1", "-o", str(tmp_path / "report")]
    result = CliRunner().invoke(app, [*arguments, "--fail-memory", "1000", "--fail-latency", "1000"])
    assert result.exit_code == 0, result.output
    assert "20 of 20 clips made, 0 failed" in result.output
    record = read_record(tmp_path / "report" / "record.json")
    assert record.soak.made == 20
    assert not record.soak.model_extra
    assert record.to_json() == json.loads((tmp_path / "report" / "record.json").read_text(encoding="utf-8"))
    assert record.soak.limits == {"memory_mb_per_clip": 1000, "latency_second_half": 1000}
    assert record.rows[0].engine.engine == "cpu"
    assert "pass" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "pass" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_a_limit_that_is_broken_is_the_exit_code(tmp_path):
    arguments = ["bench", "soak", "--clips", "20", "--skip", "4", "--threads", "1", "-o", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--fail-latency", "0.001"])
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["verdict"], answer["skipped"]) == ("fail", 4)
    assert "later clips took" in " ".join(answer["reasons"])


@pytest.mark.parametrize(
    ("options", "status"), [(["--memory", "100MiB"], 1), (["--clips", "15"], 2), (["--skip", "490"], 2)]
)
def test_what_cannot_be_measured_is_refused_and_leaves_no_folder(options, status, tmp_path):
    folder = tmp_path / "new" / "report"
    ended = subprocess.run(
        [sys.executable, "-m", "edgereel", "bench", "soak", "-o", str(folder), *options], capture_output=True, text=True
    )
    assert ended.returncode == status, ended.stderr
    assert not (tmp_path / "new").exists()
