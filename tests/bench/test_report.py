"""Reports say what the record says, in sentences, tables and files."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from helpers import bench_page
from helpers.bench_page import checked
from helpers.bench_records import make_record, make_row

from edgereel.bench.records.record import (
    Conditions,
    Mlperf,
    Power,
    Quality,
    Record,
    RowComparison,
    Soak,
    Trend,
    read_record,
)
from edgereel.bench.report import content, html_report, markdown_report, markdown_table, write_report
from edgereel.bench.report.figure import (
    shortened,
)
from edgereel.bench.report.headline import headline
from edgereel.bench.report.markdown import _escaped
from edgereel.bench.report.results import result_sentences
from edgereel.bench.report.scores import quality_text
from edgereel.bench.words import duration, memory, percent, plural, rate, significant, span
from edgereel.core.errors import MissingExtraError, OutputError

PLOTS = 5


@pytest.fixture(scope="module")
def two_rows() -> Record:
    return bench_page.two_rows()


def cells(text: str, title: str) -> dict[str, dict[str, str]]:
    """Return a Markdown table below a heading: by row and column."""
    lines = text.split(f"## {title}")[1].split("\n## ")[0].strip().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}


def test_the_markdown_has_the_records_figures(two_rows):
    text = markdown_report(two_rows)
    table = cells(text, "Clips from prompt to file")
    for row in two_rows.rows:
        total, line = row.warm.stages["total"], table[row.name]
        assert float(line["warm median"].removesuffix(" ms")) == pytest.approx(1e3 * total.median, rel=5e-3)
        low, high = re.fullmatch(r"([\d.]+) to ([\d.]+) ms \(95%\)", line["interval of the median"]).groups()
        assert float(low) == pytest.approx(1e3 * total.median_low, rel=5e-3)
        assert float(high) == pytest.approx(1e3 * total.median_high, rel=5e-3)
        assert float(line["p90"].removesuffix(" ms")) == pytest.approx(1e3 * total.p90, rel=5e-3)
        assert line["p99"] == "needs 598 more runs"
        assert float(line["frames/s"]) == pytest.approx(17 / total.median, rel=5e-3)
        assert float(line["× clip length"]) == pytest.approx(total.median * 8 / 17, rel=5e-3)
        assert line["peak memory"] == "175 MiB"
        assert line["size"] == "64×48, 17 frames"
    assert table["demo, 1 step"]["quality"] == "34.5 dB to the first row"
    stages = cells(text, "Stages of warm clips, medians in ms")
    for row in two_rows.rows:
        for name in ("text", "denoise", "decode", "encode"):
            assert float(stages[row.name][name]) == pytest.approx(1e3 * row.warm.stages[name].median, rel=5e-3)


def test_the_first_sentence_is_of_the_fastest(two_rows):
    sentence = headline(two_rows)
    total = two_rows.rows[1].warm.stages["total"]
    assert sentence.startswith("Fastest of 2 rows: demo, 1 step makes a clip of 64×48, 17 frames in ")
    assert duration(total.median) in sentence
    assert f"95% interval {span(total.median_low, total.median_high)}" in sentence
    assert "34.5 dB" in sentence
    assert "told apart" not in sentence
    twins = make_record(make_row("a"), make_row("b"))
    assert headline(twins).endswith("Not told apart from it: b.")
    assert markdown_report(two_rows).split("\n\n")[1] == sentence


def test_nearness_names_the_row_that_it_is_to():
    near = Quality(source="none", psnr_to_first_db=20.0, psnr_to_reference_db=41.5)
    equal = near.model_copy(update={"psnr_to_reference_db": 100.0})
    rows = [make_row("a, 1 step"), make_row("a, 4 steps"), make_row("b, 4 steps", quality=near, reference="a, 4 steps")]
    rows.append(make_row("c, 4 steps", quality=equal, reference="a, 4 steps"))
    rows.append(make_row("b, 1 step", quality=near, reference="a, 1 step"))
    table = cells(markdown_report(make_record(*rows)), "Clips from prompt to file")
    assert table["b, 4 steps"]["quality"] == "41.5 dB to a, 4 steps"
    assert table["c, 4 steps"]["quality"] == "equal to a, 4 steps"
    assert table["b, 1 step"]["quality"] == "41.5 dB to the first row"


def test_the_first_sentence_agrees_with_the_comparisons():
    """Medians whose intervals overlap are told apart where the rounds tell them apart, and only there."""
    rows = [make_row("a", scale=1.0), make_row("b", scale=0.99), make_row("c", scale=1.01)]
    found = {"stage": "total", "ratio": 0.99, "low": 0.98, "high": 0.995, "rounds": 20}
    faster = RowComparison(first="a", second="b", **found, verdict="faster")
    record = make_record(*rows, comparisons=[faster])
    assert headline(record).startswith("Fastest of 3 rows: b makes")
    assert headline(record).endswith("Not told apart from it: c.")  # not compared: by the intervals
    same = faster.model_copy(update={"verdict": "no difference found"})
    assert headline(make_record(*rows, comparisons=[same])).endswith("Not told apart from it: a; c.")
    # A row that comes out slower than another, round by round, is not the fastest, whatever its median.
    slower = faster.model_copy(update={"verdict": "slower"})
    sentence = headline(make_record(*rows, comparisons=[slower]))
    assert sentence.startswith("Fastest of 3 rows: a makes")
    assert sentence.endswith("Not told apart from it: c.")
    few = make_record(*rows, comparisons=[faster.model_copy(update={"verdict": "too few rounds to tell"})])
    assert headline(few).endswith("Not told apart from it: a; c.")
    many = make_record(*(make_row(name) for name in "abcdef"), comparisons=[])
    assert headline(many).endswith("Not told apart from it: b; c; d and 2 other rows.")


def test_comparisons_are_sentences(two_rows):
    assert re.fullmatch(
        r"demo, 1 step is faster than demo, 4 steps \(0\.\d+ times its total time, 99% interval .*, 64 rounds\)\.",
        content.comparison_sentences(two_rows)[0],
    )
    twins = make_record(make_row("a"), make_row("b"))
    assert content.comparison_sentences(twins)[0].startswith("b and a: no difference found (1.00 times")


def test_a_single_run_and_a_single_round_have_no_interval():
    compared = {"first": "a", "second": "b", "stage": "total", "ratio": 1.25, "low": 1.25, "high": 1.25, "rounds": 1}
    lone = RowComparison(**compared, verdict="too few rounds to tell")
    record = make_record(make_row("a", warm_runs=1), make_row("b", warm_runs=1), comparisons=[lone])
    assert content.comparison_sentences(record) == [
        "b and a: too few rounds to tell (1.25 times its total time in 1 round)."
    ]
    assert "interval" not in headline(record)
    assert content.rows_table(record).rows[0][6] == "none: one run"


def test_what_was_not_measured_is_said():
    bare = make_row(
        "bare", cold_runs=0, stages={}, memory_timeline=[], memory_stages=[], quality=Quality(source="none")
    )
    record = make_record(bare, limits=None, command=[], notes=[])
    line = cells(markdown_report(record), "Clips from prompt to file")["bare"]
    assert line["cold total"] == line["peak memory"] == line["quality"] == "not measured"
    assert line["p90"] == "needs 44 more runs"
    page = checked(record)
    for reason in ("Memory over time was not measured.", "Work and the machine’s limits were not both measured."):
        assert f"Not drawn: {reason}" in page.text
    assert "Limits of the machine: not measured." in page.text
    assert page.text.count("Not drawn") == 3


def test_nothing_at_all():
    empty = make_record(make_row("a", warm_runs=0, cold_runs=0, stages={}, memory_timeline=[]), partial=True)
    page = checked(empty)
    assert "No clip was measured to its end." in page.text
    assert "Partial: the measurement was interrupted" in page.text
    assert page.text.count("Not drawn") == PLOTS
    assert checked(make_record(partial=True)).text.count("Not drawn") == PLOTS
    assert "Partial" in markdown_report(make_record(partial=True))


def test_failures_throttling_and_unlike_rows_are_told_first():
    slow = make_row("hot", conditions=Conditions(throttled=True, reasons=["power cap"]), failures=["the worker died"])
    slow.settings.frames = 33
    record = make_record(make_row("cool"), slow)
    told = content.warnings_of(record)
    assert told[0] == "hot: the worker died"
    assert "slowed itself down while these were measured: hot" in told[1]
    assert "different sizes or lengths" in told[2]
    text = markdown_table(record)
    assert text.index("the worker died") < text.index("| row |")
    assert "throttled (power cap)" in markdown_report(record)


@pytest.mark.parametrize("kind", ["soak", "mlperf"])
def test_other_kinds_begin_with_their_result(kind):
    record = make_record(make_row(), kind=kind, notes=["VALID: everything held."])
    page = checked(record)
    assert page.text.index("VALID: everything held.") < page.text.index("What a clip’s time is made of")
    assert content.title(record) == {"soak": "Soak: demo", "mlperf": "MLPerf: demo"}[kind]


def test_a_soaks_verdict_and_trends_are_told():
    trend = Trend(per_clip=0.0123, low=0.01, high=0.02, confidence=0.99)
    soak = Soak(
        asked=500, made=499, failed=1, skipped=50, seconds=[], resident_bytes=[], open_files=[], threads=[],
        memory_trend=trend, latency_trend=None, open_files_trend=None, threads_trend=None, second_half=1.25,
        second_half_low=1.2, second_half_high=1.3, limits={}, verdict="fail", reasons=["<b>grows</b>"],
    )  # fmt: skip
    record = make_record(make_row(), kind="soak", soak=soak)
    page = checked(record)
    for sentence in (
        "Soak: fail. 499 of 500 clips made, 1 failed.",
        "<b>grows</b>",
        "Each clip adds 0.0123 MB of memory (99% interval 0.0100 to 0.0200).",
        "Of the clips, the first 50 do not count.",
        "The later half of the clips took 1.25 times as long as the earlier (99% interval 1.20 to 1.30).",
    ):
        assert sentence in page.text
        assert _escaped(sentence) in markdown_report(record)


def test_a_soak_of_too_few_clips_says_so_throughout():
    soak = Soak(
        asked=500, made=8, failed=0, skipped=50, seconds=[], resident_bytes=[], open_files=[], threads=[],
        memory_trend=None, latency_trend=None, open_files_trend=None, threads_trend=None, second_half=None,
        second_half_low=None, second_half_high=None, limits={}, verdict="undecided",
    )  # fmt: skip
    record = make_record(make_row(warm_runs=0, cold_runs=0), kind="soak", soak=soak)
    said = "Too few clips for a trend: 8 made, the first 50 do not count."
    assert headline(record) == said
    assert result_sentences(record) == ["Soak: undecided. 8 of 500 clips made, 0 failed.", said]


@pytest.mark.parametrize("valid", [True, False])
def test_mlperfs_verdict_is_told(valid):
    mlperf = Mlperf(
        scenario="SingleStream", modes=["performance"], valid=valid, reasons=["as it said"], short_of_task=["too short"],
        division_reasons=["the model is distilled"], loadgen="loadgen 6", settings={}, results={}, samples=64,
        p90_seconds=0.125, samples_per_second=None, logs=[],
    )  # fmt: skip
    text = checked(make_record(make_row(), kind="mlperf", mlperf=mlperf)).text
    assert f"MLPerf SingleStream: {'VALID' if valid else 'INVALID'}, open division." in text
    assert ("no result in MLPerf's sense" in text) == valid
    for part in ("as it said", "Short of the task: too short", "the model is distilled", "early-stopping rule: 125 ms"):
        assert part in text


def test_power_is_told_where_it_was_measured():
    power = Power(source="rapl", average_watts=12.34, peak_watts=20.0, joules_per_clip=1.5)
    table = cells(markdown_report(make_record(make_row("a", power=power))), "Energy, disk and conditions")["a"]
    assert (table["energy per clip"], table["power, average"], table["power, peak"]) == ("1.50 J", "12.3 W", "20.0 W")


def test_a_bundles_figures_name_their_own_steps():
    rows = [make_row("four"), make_row("one", steps=1)]
    table = cells(markdown_report(make_record(*rows)), "Clips from prompt to file")
    assert table["four"]["quality"] == "shows 85% (the bundle's figure)"
    assert table["one"]["quality"] == "shows 85% (the bundle's figure, at 4 steps)"


def test_a_row_without_times_has_no_quality_and_is_not_counted(two_rows):
    failed = make_row("broken", warm_runs=0, cold_runs=0, failures=["it cannot"])
    record = make_record(two_rows.rows[0], two_rows.rows[1], failed)
    assert headline(record).startswith("Fastest of 2 rows")
    assert quality_text(failed, record) == "not measured"
    table = content.resource_table(record)
    assert table is not None
    assert not [line for line in table.rows if line[0].startswith("broken")]


def test_reports_are_files_of_their_own(two_rows, tmp_path):
    paths = write_report(two_rows, tmp_path)
    assert [path.name for path in paths] == ["report.md", "report.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]
    assert paths[0].read_text(encoding="utf-8") == markdown_report(two_rows)
    assert paths[1].read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_that_takes_no_files(two_rows, tmp_path):
    with pytest.raises(OutputError, match="it is not a folder"):
        write_report(two_rows, tmp_path / "missing")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html: it is a folder"):
        write_report(two_rows, tmp_path)


def test_a_full_disk_leaves_the_old_report(two_rows, tmp_path, monkeypatch):
    write_report(two_rows, tmp_path)
    before = (tmp_path / "report.md").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_report(make_record(make_row("other")), tmp_path)
    assert (tmp_path / "report.md").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_without_matplotlib(two_rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r'pip install "edgereel\[bench\]"'):
        write_report(two_rows, tmp_path)
    assert markdown_table(two_rows)
    assert list(Path(tmp_path).iterdir()) == []


def test_a_record_read_from_its_file_gives_the_same_report(two_rows, tmp_path):
    from edgereel.bench.records.folder import write_record

    again = read_record(write_record(two_rows, tmp_path))
    assert markdown_report(again) == markdown_report(two_rows)
    assert html_report(again) == html_report(two_rows)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (significant(0.1269), "0.127"),
        (significant(1763), "1,763"),
        (significant(0.9996), "1.00"),
        (significant(3.2e15), "3.2e+15"),
        (significant(-12.34), "-12.3"),
        (duration(0), "0 s"),
        (duration(41e-6), "41.0 µs"),
        (duration(0.12696), "127 ms"),
        (duration(0.99961), "1.00 s"),
        (duration(1234.5), "1,234 s"),
        (span(0.0959, 0.1183), "95.9 to 118 ms"),
        (span(0.9, 1.1), "0.900 to 1.10 s"),
        (memory(None), "not measured"),
        (memory(0), "0 B"),
        (memory(183341056), "175 MiB"),
        (memory(1023), "1023 B"),
        (rate(160.47e9, "FLOP/s"), "160 GFLOP/s"),
        (percent(0.0741), "7.4%"),
        (percent(1.0), "100%"),
        (plural(1, "run"), "1 run"),
        (plural(1204, "run"), "1,204 runs"),
        (shortened("edgereel", 40), "edge…"),
    ],
)
def test_figures_are_written_for_readers(made, expected):
    assert made == expected
