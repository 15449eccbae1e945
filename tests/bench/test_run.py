"""`edgereel bench run`: real processes on the shipped bundle, contenders that fail, and interruptions."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from conftest import DEMO_REEL

from edgereel.bench import run as module
from edgereel.bench.contenders.base import Contender, Peer, ResourceReadings
from edgereel.bench.contenders.process import WorkerProcess
from edgereel.bench.contenders.stages import ClipTimes
from edgereel.bench.grid import default_steps, plan_rows, references
from edgereel.bench.records.record import EngineFacts, read_record
from edgereel.bench.report.content import stage_table
from edgereel.bench.report.scores import quality_text
from edgereel.bench.run import run_bench
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import Cancelled, EngineError, GeometryError, MissingExtraError, PromptError, UsageError
from edgereel.quality.metrics import psnr
from edgereel.runtime.reel import load

PROMPTS = ["a red ball bounces over the ocean", "a blue star rises over the desert"]
SMALL = {"sizes": [(32, 32)], "frames": [5], "prompts": PROMPTS, "threads": 1}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Peaks and memory are looked for in tests of their own."""
    monkeypatch.setattr(module, "WATCHED_SECONDS", 0.1)
    monkeypatch.setattr(module, "WATCHED_CLIPS", 2)
    measured = module.measure_limits
    monkeypatch.setattr(module, "measure_limits", lambda *args: measured(*args, seconds=0.1))


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


class Played(Contender):
    """A contender without a process: it sleeps, notes how long it really did, and fails when it is told to."""

    kind = "played"

    def __init__(self, plan, fail_at=None, starting=0.0):
        super().__init__(plan)
        self.fail_at, self.starting = fail_at, starting
        self.made: list[tuple[str, int]] = []
        self.slept: list[float] = []
        self.closed = 0
        self.lived = -time.perf_counter()

    def start(self):
        started = time.perf_counter()
        time.sleep(self.starting)
        self.slept.append(time.perf_counter() - started)
        return {}

    def make(self, prompt, seed):
        if len(self.made) == self.fail_at:
            raise EngineError("it broke")
        self.made.append((prompt, seed))
        started = time.perf_counter()
        time.sleep(0.001)
        seconds = time.perf_counter() - started
        return ClipTimes(seconds, {"denoise": seconds}, {})

    def frames(self, prompt, seed):
        return np.full((5, 32, 32, 3), 128, np.uint8)

    def facts(self):
        return EngineFacts(engine="played", version="1", provider=["none"], precision=["float32"], threads=1)

    def watch(self, prompts, clips, seconds):
        return ResourceReadings(clips, seconds, {"denoise": 1000})

    def installed_bytes(self):
        return None

    def close(self):
        self.closed += 1
        self.lived += time.perf_counter()


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


def run_played(made, *, min_runs=3, cold=0, **arguments):
    """Run the shipped bundle beside contenders that are played, by name."""

    def factory(name):
        def make(plan):
            contender = Played(plan, **made[name])
            played.setdefault(name, []).append(contender)
            return contender

        return Peer(make)

    played: dict[str, list[Played]] = {}
    peers = {name: factory(name) for name in made}
    return run_bench(steps=[1], **SMALL, min_runs=min_runs, cold=cold, peers=peers, **arguments), played


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
def test_a_contender_that_fails_is_told_in_its_row(fail_at):
    record, _ = run_played({"weak": {"fail_at": fail_at}}, cold=1)
    weak = record.rows[1]
    assert weak.failures == ["it broke"]
    assert weak.cold is None
    assert (weak.warm.runs if weak.warm else 0) == max(0, fail_at - 2)
    assert record.rows[0].failures == []
    assert record.rows[0].warm.runs >= 3
    assert record.comparisons == []


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
                if "edgereel.bench.contenders.worker" in process.cmdline():
                    process.kill()

    record = run_bench(steps=[1], **SMALL, min_runs=5, cold=0, on_progress=kill)
    assert record.rows[0].warm.runs == 2
    assert "signal 9" in record.rows[0].failures[0]
    assert len(record.rows[0].failures) == 1


def test_what_a_worker_refuses_is_its_own_message(tmp_path):
    worker = WorkerProcess([sys.executable, "-m", "edgereel.bench.contenders.worker"])
    try:
        with pytest.raises(EngineError, match="nothing open"):
            worker.request(do="make", prompt="x", seed=0)
        with pytest.raises(EngineError, match="not 'dance'"):
            worker.request(do="dance")
        with pytest.raises(EngineError, match="KeyError"):
            worker.request(do="open")
        with pytest.raises(EngineError, match=r"nowhere\.reel"):
            worker.request(
                do="open", bundle=str(tmp_path / "nowhere.reel"), engine="auto", threads=1, settings={"size": [1, 1]}
            )
    finally:
        worker.close()
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize("program", ["print('hello')", "print([1])", "print('{}')", "pass", "import os; os.close(1)"])
def test_a_process_that_talks_nonsense_is_an_error(program):
    process = WorkerProcess([sys.executable, "-c", program])
    try:
        with pytest.raises(EngineError) as raised:
            process.request(do="open")
        assert "\n" not in str(raised.value)
    finally:
        process.close()


def test_a_command_that_is_not_there_is_an_error():
    with pytest.raises(EngineError, match="cannot be started"):
        WorkerProcess(["/no/such/program"])


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


def test_ctrl_c_saves_the_record_of_the_command(tmp_path):
    """The worker's clip is written anew each time: after six of them, four were timed."""
    folder, temporary = tmp_path / "report", tmp_path / "temporary"
    temporary.mkdir()
    line = [
        sys.executable,
        "-m",
        "edgereel",
        "bench",
        "run",
        "-o",
        str(folder),
        "--steps",
        "1,2",
        "--min-runs",
        "100000",
    ]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [*line, "--sizes", "32x32", "--frames", "5", "--threads", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = set()
    while len(seen) < 14 and process.poll() is None:
        for path in glob.iglob(f"{temporary}/*/*/clip.mp4"):  # Path.glob fails where a folder goes meanwhile
            with contextlib.suppress(OSError):
                seen.add(os.stat(path).st_mtime_ns)
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "marked partial" in errors
    record = read_record(folder / "record.json")
    assert record.partial
    assert all(row.warm.runs >= 2 for row in record.rows)
    assert "| edgereel demo, 2 steps |" in printed
    assert list(temporary.glob("edgereel*")) == []


def test_an_interruption_before_the_first_clip_is_passed_on():
    with pytest.raises(Cancelled):
        run_bench(steps=[1], **SMALL, on_progress=lambda *_: False)


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


def test_pairs_measure_the_first_row_once_and_compare_all(monkeypatch):
    need = 310 * 2**20 + int(1.5 * sum(path.stat().st_size for path in DEMO_REEL.iterdir()))
    monkeypatch.setattr(module, "free_host_memory", lambda: 2 * need)
    record, played = run_played({"one": {}, "two": {}}, min_runs=2)
    assert [row.warm.runs for row in record.rows] == [2, 2, 2]
    assert [each.second for each in record.comparisons] == [row.name for row in record.rows[1:]]
    assert [len(contenders) for contenders in played.values()] == [1, 1]


def command(*arguments, **options):
    line = [sys.executable, "-m", "edgereel", "bench", "run", "--size", "32x32"]
    line = [*line[:-2], "--sizes", "32x32", "--frames", "5", "--threads", "1", "--min-runs", "2", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


def test_the_command_writes_a_record_and_prints_a_table(tmp_path):
    done = command("--steps", "1", "--cold-runs", "1", "-o", str(tmp_path / "report"))
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "report" / "record.json")
    assert record.command[:3] == ["edgereel", "bench", "run"]
    table = stage_table(record, "warm")
    assert table is not None
    assert f"| {' | '.join(table.rows[0][:3])} |" in done.stdout
    assert table.rows[0][:2] == ["edgereel demo, 1 step", "2"]
    assert "Stages of cold clips" in done.stdout
    assert "Cold clips are made by fresh processes" in done.stdout


def test_the_command_prints_json(tmp_path):
    done = command("--steps", "1", "--no-cold", "--json", "-o", str(tmp_path))
    printed = json.loads(done.stdout)
    record = read_record(tmp_path / "record.json")
    assert printed["record"] == str(tmp_path / "record.json")
    row = printed["rows"]["edgereel demo, 1 step"]
    assert row == {"warm_seconds": record.rows[0].warm.stages["total"].median, "cold_seconds": None}
    for text in (*record.notes, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert "fresh processes" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--steps", "1,x"], 2, "--steps 1,x"),
        (["--steps", "0"], 2, "--steps 0"),
        (["--sizes", "64"], 2, "64"),
        (["--frames", ""], 2, "--frames"),
        (["--prompts", "/no/such/file"], 2, "cannot be read"),
        (["nowhere.reel"], 1, "nowhere.reel"),
        (["-o", "/dev/null"], 1, "it is a file"),
        (["-o", "/dev/null/below"], 1, "cannot write"),
        (["-o", "clips"], 1, "clips: holds other files (frame_0000.png) and no earlier report"),
    ],
)
def test_wrong_usage_is_one_line(arguments, code, words, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "frame_0000.png").write_bytes(b"x")
    done = command(*arguments, cwd=tmp_path)
    assert [each.name for each in (tmp_path / "clips").iterdir()] == ["frame_0000.png"]
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
