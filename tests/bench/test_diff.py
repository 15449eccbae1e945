"""Differences between records: found where they were planted, named where they are not of time, refused where damaged."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import bench_records as records

from edgereel.bench.records.diff import describe, diff, match_rows, read
from edgereel.bench.records.folder import write_record
from edgereel.bench.records.record import BundleFacts, Conditions
from edgereel.bench.rows import timing_of
from edgereel.bench.stats.statistics import median_ratio
from edgereel.core.errors import UsageError

make_record, make_row = records.make_record, records.make_row


def slower_row(factor: float, name: str = "demo, 4 steps", seed: int = 5, runs: int = 40):
    """A row whose denoiser takes `factor` times as long, of runs of its own."""
    warm = {**records.WARM, "denoise": factor * records.WARM["denoise"]}
    return make_row(name, warm=timing_of(records.make_clips(warm, runs, seed), 17, 8))


def stage(found, name, kind="warm", row=0):
    return next(each for each in found.rows[row].stages if (each.kind, each.stage) == (kind, name))


def test_a_slower_stage_is_found_and_the_others_are_not():
    first, second = make_record(slower_row(1.0, seed=4)), make_record(slower_row(1.5))
    found = diff(first, second)
    assert stage(found, "denoise").verdict == "slower"
    assert stage(found, "denoise").low < 1.5 < stage(found, "denoise").high
    assert stage(found, "denoise_step").verdict == "slower"
    assert stage(found, "total").verdict == "slower"
    assert stage(found, "total").ratio == pytest.approx(
        second.rows[0].warm.stages["total"].median / first.rows[0].warm.stages["total"].median
    )
    for name in ("text", "decode", "encode"):
        assert stage(found, name).verdict == "no difference found"
    back = diff(second, first)
    assert stage(back, "denoise").verdict == "faster"
    assert back.slower(1.0) == []


def test_the_limit_is_of_totals_that_are_surely_slower():
    found = diff(make_record(slower_row(1.0, seed=4)), make_record(slower_row(1.5)))
    ratio = stage(found, "total").ratio
    assert [(row.second, each.kind) for row, each in found.slower(ratio - 0.01)] == [("demo, 4 steps", "warm")]
    assert found.slower(ratio + 0.01) == []
    for limit in (0.9, float("nan"), float("inf"), -1.0):
        with pytest.raises(UsageError, match="a limit of"):
            found.slower(limit)


def test_too_few_runs_tell_nothing():
    first, second = make_record(slower_row(1.0, runs=5)), make_record(slower_row(3.0, runs=5))
    for record in (first, second):
        record.rows[0].cold = None
    total = stage(diff(first, second), "total")
    assert total.verdict == "too few runs to tell"
    assert total.confidence == pytest.approx(1 - 2 * 2**-4)
    with pytest.raises(UsageError, match="no total with enough runs"):
        diff(first, second).slower(1.08)
    # Steps of one clip are no runs of their own: 20 steps of five clips are five.
    assert stage(diff(first, second), "denoise_step").verdict == "too few runs to tell"


def test_stages_of_no_time_are_not_compared():
    found = diff(make_record(make_row()), make_record(make_row()))
    build = stage(found, "build", "cold")
    assert (build.ratio, build.low, build.verdict) == (None, None, "cannot be compared")
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))


def test_a_record_without_single_times_has_ratios_but_no_verdict():
    first, second = make_record(make_row()), make_record(make_row(scale=2.0))
    second.rows[0].warm.samples = {}
    total = stage(diff(first, second), "total")
    assert total.ratio == pytest.approx(2.0)
    assert total.verdict == "cannot be compared"


def test_the_interval_covers_as_often_as_it_says():
    """Of 400 pairs of equals at 95%, at most 36 may be called different: 20 are expected, 36 has a chance of 1 in 2,000."""
    generator = np.random.default_rng(7)
    outside = 0
    for seed in range(400):
        first, second = (np.exp(0.1 * generator.standard_normal(count)) for count in (20, 33))
        found = median_ratio(first.tolist(), second.tolist(), 0.95, seed, resamples=600)
        outside += not found.low <= 1 <= found.high
    assert outside <= 36


def test_a_difference_is_found_by_the_interval():
    generator = np.random.default_rng(8)
    first = np.exp(0.03 * generator.standard_normal(40))
    found = median_ratio(first.tolist(), (1.2 * np.exp(0.03 * generator.standard_normal(40))).tolist())
    assert 1.1 < found.low < 1.2 < found.high < 1.3
    assert median_ratio([0.0] * 20, [1.0] * 20) is None
    assert median_ratio([0.0, 1.0], [1.0, 1.0]) is None


def test_rows_of_one_bundle_are_matched_whatever_they_are_called():
    """A report of several bundles adds the precision to their names; the digest tells which is which."""
    bf16 = BundleFacts(name="demo", digest="aa" * 32, precision="bf16", bytes=1)
    int8 = BundleFacts(name="demo", digest="bb" * 32, precision="int8", bytes=1)
    alone = [make_row("demo, 4 steps", bundle=bf16), make_row("demo, 1 step", bundle=bf16, steps=1)]
    both = [make_row("demo int8, 4 steps", bundle=int8), make_row("demo bf16, 4 steps", bundle=bf16)]
    both += [make_row("demo int8, 1 step", bundle=int8, steps=1), make_row("demo bf16, 1 step", bundle=bf16, steps=1)]
    for row in both:
        row.settings.prompts_sha256, row.settings.prompts = "00" * 32, 3
    pairs, left, right = match_rows(alone, both)
    assert [(one.name, other.name) for one, other in pairs] == [
        ("demo, 4 steps", "demo bf16, 4 steps"),
        ("demo, 1 step", "demo bf16, 1 step"),
    ]
    assert (left, [row.name for row in right]) == ([], ["demo int8, 4 steps", "demo int8, 1 step"])
    # What ran goes before the name: here the int8 bundle stands alone, under the name that the other one has elsewhere.
    turned = [make_row("demo bf16, 4 steps", bundle=int8)]
    assert [other.name for _, other in match_rows(turned, both)[0]] == ["demo int8, 4 steps"]
    # The same bundle on another engine is another row.
    other_engine = make_row("demo on gpu, 4 steps", bundle=bf16)
    other_engine.engine.engine = "gpu"
    assert match_rows([other_engine, make_row("on cpu", bundle=bf16)], both[:2])[0][0][0].name == "on cpu"
    # Made anew, a bundle has another digest and the same name.
    anew = make_row("demo bf16, 4 steps", bundle=bf16.model_copy(update={"digest": "cc" * 32}))
    assert [other.name for _, other in match_rows([anew], both)[0]] == ["demo bf16, 4 steps"]
    assert [other.name for _, other in match_rows([make_row("demo bf16, 4 steps", bundle=None)], both)[0]] == [
        anew.name
    ]


def test_rows_are_matched_by_name_then_by_what_they_are():
    first = [make_row("a"), make_row("b", steps=2), make_row("gone", steps=7)]
    second = [make_row("new name", steps=2), make_row("a"), make_row("new", steps=9)]
    pairs, left, right = match_rows(first, second)
    assert [(one.name, other.name) for one, other in pairs] == [("a", "a"), ("b", "new name")]
    assert [row.name for row in left] == ["gone"]
    assert [row.name for row in right] == ["new"]
    # Two that could both be meant are not guessed at.
    assert match_rows([make_row("x")], [make_row("y"), make_row("z")])[0] == []


def test_rows_of_one_name_are_matched_once():
    pairs, left, right = match_rows([make_row("a"), make_row("a")], [make_row("a"), make_row("a")])
    assert (len(pairs), left, right) == (2, [], [])
    assert pairs[0][1] is not pairs[1][1]


def test_everything_else_that_differs_is_named():
    second = make_record(make_row(), kind="soak", partial=True, versions={"python": "3.12.0", "numpy": "2.0"})
    second.machine.processor = "Processor Y"
    row = second.rows[0]
    row.bundle.digest, row.engine.threads, row.settings.width = "ef" * 32, 7, 128
    row.conditions, row.failures = Conditions(throttled=True), ["it\nbroke"]
    found = diff(make_record(make_row()), second)
    assert set(found.differences) == {
        "kind: run and soak",
        "the second record is partial: it was interrupted",
        "machine: processor Processor X and Processor Y",
        "version: python 3.11.1 and 3.12.0",
        "version: edgereel 0.1.0 and none",
        "version: numpy none and 2.0",
    }
    assert set(found.rows[0].differences) == {
        f"bundle: digest {'cd' * 32} and {'ef' * 32}",
        "engine: threads 2 and 7",
        "settings: width 64 and 128",
        "the machine slowed itself down during the second",
        "1 failure in the second: it\\nbroke",
    }
    text = "\n".join(describe(found))
    assert all(difference in text for difference in [*found.differences, *found.rows[0].differences])
    assert diff(make_record(make_row()), make_record(make_row())).differences == []


def test_nothing_in_common():
    found = diff(make_record(make_row("a", steps=1)), make_record(make_row("b", steps=2)))
    said = "no row of one record is also in the other, by what ran or by name"
    assert describe(found) == ["only in the first: a", "only in the second: b", f"{said}: nothing was compared"]
    with pytest.raises(UsageError, match=f"^{said}: a in the first, b in the second$"):
        found.slower(1.08)
    many = diff(make_record(*(make_row(name) for name in "abcde")), make_record())
    with pytest.raises(UsageError, match="a; b; c and 2 more in the first, none in the second"):
        many.slower(1.08)


@pytest.fixture
def folders(tmp_path):
    """Report folders: `same` as `first`, `slow` with a denoiser that takes twice as long."""
    made = {"first": slower_row(1.0, seed=4), "same": slower_row(1.0, seed=6), "slow": slower_row(2.0)}
    for name, row in made.items():
        (tmp_path / name).mkdir()
        write_record(make_record(row), tmp_path / name)
    return tmp_path


def run(*arguments):
    command = [sys.executable, "-m", "edgereel", "bench", "diff", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_fails_over_its_limit(folders):
    slow = run(folders / "first", folders / "slow" / "record.json", "--fail-over", "1.08")
    assert slow.returncode == 1
    assert "demo, 4 steps: warm clips take 1." in slow.stderr
    assert "slower" in slow.stdout
    assert run(folders / "first", folders / "slow").returncode == 0
    same = run(folders / "first", folders / "same", "--fail-over", "1.08")
    assert (same.returncode, same.stderr) == (0, "")


def test_the_command_prints_json(folders):
    done = run(folders / "first", folders / "slow", "--fail-over", "1.08", "--json")
    data = json.loads(done.stdout)
    assert done.returncode == 1
    assert [(each["row"], each["kind"]) for each in data["failed"]] == [("demo, 4 steps", "warm")]
    assert {each["stage"] for each in data["rows"][0]["stages"]} >= {"total", "denoise", "start"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}', "\x00", '{"schema": 1, "rows": 3}']
)
def test_damaged_records_are_one_line(folders, tmp_path, content):
    bad = tmp_path / "bad.json"
    bad.write_text(content)
    with pytest.raises(UsageError, match=r"bad\.json: "):
        read(bad)


def test_damage_and_absence_end_with_2(folders, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema":')
    for path in (bad, tmp_path / "missing.json", tmp_path):
        done = run(folders / "first", path)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert str(path) in done.stderr
    assert run(folders / "first", folders / "slow", "--fail-over", "0.5").returncode == 2


def test_a_folder_without_a_record_and_a_file_of_another_kind_are_told(tmp_path):
    (tmp_path / "text.txt").write_text("no JSON")
    for path in (tmp_path, tmp_path / "text.txt"):
        with pytest.raises(UsageError, match=r"is not a record of edgereel bench \(or a report folder\)"):
            read(path)
