"""MLPerf's load generator: its verdict is ours, both ways; what ends a test early is told; its log is read with care."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import psutil
import pytest
from conftest import edit_manifest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgereel.bench.load import mlperf
from edgereel.bench.load.loadgen_log import LoadgenLog, read_log, reasons_invalid
from edgereel.bench.load.mlperf import run_mlperf
from edgereel.bench.records.record import read_record
from edgereel.bench.report.results import mlperf_markdown
from edgereel.cli import app
from edgereel.core.errors import Cancelled, MissingExtraError, PlanError, PromptError, UsageError
from edgereel.demo.evaluate import held_out_captions

needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None,
    reason='MLPerf\'s load generator is not installed: pip install "edgereel[mlperf]"',
)
PROMPTS = [caption for _, caption in held_out_captions(5)]


@pytest.fixture
def small(demo_copy):
    """The demo, which makes a picture of 32x32 where nothing else is asked for: a clip takes milliseconds."""
    edit_manifest(demo_copy, lambda data: data["defaults"].update(width=32, height=32, frames=1))
    return demo_copy


def run(folder, bundle=None, scenario="singlestream", **options):
    folder.mkdir(exist_ok=True)
    return run_mlperf(bundle, scenario, folder, **{"threads": 1, "prompts": PROMPTS, **options})


def logged(folder, name="performance"):
    return read_log(folder / name / "mlperf_log_detail.txt").values


@needs_loadgen
def test_a_single_stream_that_is_long_enough_is_valid(small, tmp_path):
    """The 70 queries alone outlast the duration, however slow the warm-up that says how many queries to prepare."""
    record = run(tmp_path / "report", small, min_seconds=0.2, min_queries=70)
    found, values = record.mlperf, logged(tmp_path / "report")
    assert (record.kind, record.partial, found.valid, found.reasons) == ("mlperf", False, True, [])
    assert values["result_validity"] == "VALID"
    assert found.samples == values["result_query_count"] >= 70
    assert found.p90_seconds == values["early_stopping_latency_ss"] / 1e9
    assert record.rows[0].warm.stages["total"].median <= found.p90_seconds
    assert found.settings["min_duration_ms"] == 200
    assert found.settings["min_query_count"] == 70
    assert found.settings["performance_sample_count"] == len(PROMPTS)
    assert found.samples_per_second == pytest.approx(values["result_qps_with_loadgen_overhead"])
    assert "## MLPerf SingleStream: VALID" in mlperf_markdown(record)


@needs_loadgen
def test_what_is_less_than_the_task_asks_is_said(small, tmp_path):
    record = run(tmp_path / "report", small, min_seconds=0.2, min_queries=70)
    assert [reason.split(" ")[0] for reason in record.mlperf.short_of_task] == ["a", "at", "there"]
    assert "the task asks for 600 s" in record.mlperf.short_of_task[0]
    text = mlperf_markdown(record)
    assert "no result in MLPerf's sense" in text
    assert "Open division: the model is" in text


@needs_loadgen
def test_too_few_queries_for_the_percentile_are_not_valid(small, tmp_path):
    record = run(tmp_path / "report", small, min_seconds=0.001, min_queries=20)
    assert not record.mlperf.valid
    assert not record.partial
    assert logged(tmp_path / "report")["result_validity"] == "INVALID"
    assert "Need to process at least 64 queries" in record.mlperf.reasons[0]
    assert record.mlperf.p90_seconds is None
    assert "INVALID" in mlperf_markdown(record)


@needs_loadgen
def test_offline_answers_all_at_once(small, tmp_path):
    record = run(tmp_path / "report", small, "offline", min_seconds=0.01, min_queries=30)
    values = logged(tmp_path / "report")
    assert record.mlperf.valid == (values["result_validity"] == "VALID")
    assert values["effective_scenario"] == "Offline"
    assert record.mlperf.samples == values["effective_samples_per_query"] >= 30
    assert record.mlperf.samples_per_second == pytest.approx(values["result_samples_per_second"])
    assert record.mlperf.p90_seconds is None


@needs_loadgen
def test_the_settings_are_the_tasks_own(tmp_path):
    """The settings ask for the task's own duration; a clip's warm-up tells the load generator how many queries to prepare."""
    import mlperf_loadgen

    from edgereel.bench.load.loadgen_worker import settings_for

    request = {"folder": str(tmp_path), "scenario": "Offline", "mode": "PerformanceOnly"}
    settings, task = settings_for(mlperf_loadgen, {**request, "min_seconds": None, "min_queries": None}, 248, 0.25)
    assert task == {"min_duration_ms": 600_000, "min_query_count": 248, "performance_sample_count": 248}
    assert settings.offline_expected_qps == pytest.approx(1.2 * 4)
    assert settings.single_stream_expected_latency_ns == 250_000_000
    assert (settings.min_duration_ms, settings.min_query_count) == (600_000, 248)
    assert list(tmp_path.iterdir()) == []


@needs_loadgen
def test_accuracy_keeps_and_scores_the_demos_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(mlperf, "TASK_PROMPTS", 6)
    record = run(tmp_path / "report", prompts=None, min_seconds=0.01, min_queries=3, accuracy=True)
    assert record.mlperf.modes == ["PerformanceOnly", "AccuracyOnly"]
    assert record.mlperf.accuracy["clips"] == 6
    assert record.mlperf.accuracy["colour_shown"] >= 0.8  # the bundle's own figure is 1.0
    assert "not MLPerf's" in " ".join(record.mlperf.accuracy_note.split())
    folder = tmp_path / "report" / "accuracy"
    assert len(list((folder / "clips").glob("*.mp4"))) == 6
    answers = json.loads((folder / "mlperf_log_accuracy.json").read_text(encoding="utf-8"))
    assert sorted(answer["qsl_idx"] for answer in answers) == list(range(6))
    for answer in answers:
        clip = (folder / "clips" / f"{answer['qsl_idx']:05}.mp4").read_bytes()
        assert answer["data"].lower() == hashlib.sha256(clip).hexdigest()
    assert len(held_out_captions(6)) == record.rows[0].settings.prompts


@needs_loadgen
def test_clips_of_other_prompts_are_kept_and_not_scored(small, tmp_path):
    record = run(tmp_path / "report", small, min_seconds=0.01, min_queries=3, accuracy=True)
    assert record.mlperf.accuracy is None
    assert "not scored" in record.mlperf.accuracy_note
    assert len(list((tmp_path / "report" / "accuracy" / "clips").glob("*.mp4"))) == len(PROMPTS)


def child():
    return next(
        each for each in psutil.Process().children() if "edgereel.bench.load.loadgen_worker" in " ".join(each.cmdline())
    )


def after_clips(act):
    """Progress that acts once some clips are made."""
    acted = []

    def on_progress(stage, done, total):
        if stage == "queries" and done and not acted:
            acted.append(act())

    return on_progress


@needs_loadgen
@pytest.mark.parametrize("scenario", ["singlestream", "offline"])
def test_a_crash_leaves_what_was_completed(scenario, small, tmp_path):
    record = run(
        tmp_path / "report", small, scenario, min_seconds=60.0, on_progress=after_clips(lambda: child().kill())
    )
    assert record.partial
    assert not record.mlperf.valid
    assert record.mlperf.samples == record.rows[0].warm.runs > 0
    assert f"was ended by signal 9 after {record.mlperf.samples} clips" in record.mlperf.reasons[0]
    assert record.rows[0].failures == [record.mlperf.reasons[0].rsplit(" after", 1)[0]]


@needs_loadgen
def test_a_clip_that_fails_ends_the_test(small, tmp_path):
    def take_its_folder():
        Path(child().environ()["TMPDIR"]).rename(tmp_path / "taken away")

    record = run(tmp_path / "report", small, min_seconds=60.0, on_progress=after_clips(take_its_folder))
    assert record.partial
    assert not record.mlperf.valid
    assert "sample" in record.mlperf.reasons[0]
    assert "clip.mp4" in record.mlperf.reasons[0]


@needs_loadgen
def test_interrupted_it_keeps_what_was_completed_and_ends_its_process(small, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    record = run(tmp_path / "report", small, min_seconds=60.0, on_progress=after_clips(interrupt))
    assert record.partial
    assert record.rows[0].failures == ["interrupted"]
    assert record.mlperf.reasons == [f"interrupted after {record.mlperf.samples} clips"]
    assert not any("loadgen_worker" in " ".join(each.cmdline()) for each in psutil.Process().children())


@needs_loadgen
def test_interrupted_before_the_first_clip_there_is_nothing(small, tmp_path, monkeypatch):
    def interrupt(self, **request):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgereel.bench.contenders.process.WorkerProcess.request", interrupt)
    with pytest.raises(Cancelled):
        run(tmp_path / "report", small)


@needs_loadgen
def test_clips_that_do_not_fit_are_refused_before_the_test_starts(small, tmp_path):
    with pytest.raises(PlanError, match="does not fit into 1 B of memory"):
        run(tmp_path / "report", small, memory="1B", min_seconds=0.1)
    assert not list(tmp_path.glob("report/*"))


@needs_loadgen
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"scenario": "server"}, UsageError, "singlestream or offline"),
        ({"min_seconds": 0.0}, UsageError, "--min-duration"),
        ({"min_seconds": float("nan")}, UsageError, "--min-duration"),
        ({"min_queries": 0}, UsageError, "--min-queries"),
        ({"prompts": ["a purple walrus"]}, PromptError, "walrus"),
    ],
)
def test_what_cannot_be_tested_is_refused(options, error, said, tmp_path):
    with pytest.raises(error, match=said):
        run(tmp_path / "report", **options)


def test_without_the_load_generator_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtraError, match=r"edgereel\[mlperf\]"):
        run(tmp_path / "report")


@needs_loadgen
def test_the_command_prints_verdict_and_configuration(small, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    arguments = ["bench", "mlperf", str(small), "--prompts", str(tmp_path / "prompts.txt"), "--threads", "1"]
    arguments += ["--min-duration", "0.1", "-o", str(tmp_path / "report")]
    result = CliRunner().invoke(app, [*arguments, "--min-queries", "64"])
    assert result.exit_code == 0, result.output
    assert "MLPerf SingleStream: VALID" in result.output
    assert "| minimum queries | 64 |" in result.output
    path = tmp_path / "report" / "record.json"
    record = read_record(path)
    assert record.mlperf.valid
    assert not record.mlperf.model_extra
    assert record.to_json() == json.loads(path.read_text(encoding="utf-8"))
    result = CliRunner().invoke(app, [*arguments, "--min-queries", "5", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["valid"] is False


def line(key, value, **metadata):
    return ":::MLLOG " + json.dumps({"key": key, "value": value, "metadata": metadata}) + "\n"


def test_an_error_in_the_log_is_never_valid(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text(line("result_validity", "VALID"), encoding="utf-8")
    assert reasons_invalid(read_log(log)) == []
    log.write_text(line("result_validity", "VALID") + line("error_runtime", "lost", is_error=True), encoding="utf-8")
    assert reasons_invalid(read_log(log)) == ["error_runtime: lost"]


def test_a_log_without_a_result_is_not_valid(tmp_path):
    assert reasons_invalid(LoadgenLog()) == ["the load generator wrote no result"]
    assert read_log(tmp_path / "nothing.txt") == LoadgenLog()


@given(st.binary(max_size=300), st.booleans())
def test_any_log_is_read(tmp_path_factory, content, marked):
    path = Path(tmp_path_factory.mktemp("log")) / "log.txt"
    path.write_bytes(
        (b':::MLLOG {"key": ' if marked else b"") + content + b"\n" + line("result_validity", "VALID").encode()
    )
    log = read_log(path)
    assert log.values["result_validity"] == "VALID"
    assert (reasons_invalid(log) == []) == (log.errors == [])
    assert all("\n" not in error for error in log.errors)


def test_a_scenario_that_is_none_is_refused_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(UsageError, match="--scenario server: choose singlestream or offline"):
        run_mlperf(None, "server", tmp_path)
