"""Reports say what the record says, in figures and in plots, and nothing in a record is ever more than text."""

from __future__ import annotations

import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import bench_records as records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgereel.bench.records.record import (
    Conditions,
    Mlperf,
    Power,
    Quality,
    Record,
    RowComparison,
    Soak,
    StageResources,
    Trend,
    read_record,
)
from edgereel.bench.report import content, html_report, markdown_report, markdown_table, write_report
from edgereel.bench.report.drawing import (
    INK,
    MOST_ROWS,
    STAGE_COLOURS,
    WIDTHS,
    shortened,
    style,
    svg,
    without_common_words,
)
from edgereel.bench.report.headline import headline
from edgereel.bench.report.html import element
from edgereel.bench.report.markdown import _escaped
from edgereel.bench.report.resource_plots import memory_over_time, quality_against_time, roofline
from edgereel.bench.report.results import result_sentences
from edgereel.bench.report.scores import pareto_front, quality_text
from edgereel.bench.report.time_plots import distribution, stage_stack
from edgereel.bench.wording import duration, memory, percent, plural, rate, significant, span
from edgereel.core.errors import MissingExtraError, OutputError, one_line

make_record, make_row = records.make_record, records.make_row
PLOTS = (stage_stack, distribution, quality_against_time, memory_over_time, roofline)
TAGS = (
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "table", "caption", "thead",
    "tbody", "tr", "th", "td", "small", "ul", "ol", "li", "figure", "figcaption", "span", "i", "pre", "code", "svg", "g",
    "path", "use", "defs", "clippath", "rect", "text", "tspan",
)  # fmt: skip
EMPTY = {"meta"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onload="alert(1)" x="',
    "'><svg/onload=alert(1)>",
    "$\\frac{$ \\undefined{",
    "a|b `c` *d* [e](https://example.org/f)",
    "line\nbreak\ttab",
    "\x00\x1b[31m\u202eabc",
    "&lt;b&gt; &amp; &#60;",
    "]]> <!-- -->",
    "名前 🎬 é",
    "",
    " ",
    "x" * 500,
]


class Page(HTMLParser):
    """What a page holds: every tag's attributes, and all text outside of the style sheet; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.sheet = ""
        self.inside: list[str] = []
        self.unscrolled = 0
        self.feed(text)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            assert self.tags[-2][1].get("class") == "scroll"
        if tag not in EMPTY:
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if "style" in self.inside:
            self.sheet += data
        else:
            self.texts.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def checked(record: Record) -> Page:
    """Return a record's page after checking that it needs nothing from outside and is made of the tags it should be."""
    text = html_report(record)
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= set(TAGS)
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action", "data", "xmlns")
            if name in ("href", "xlink:href"):
                assert value.startswith("#")
            if name in ("style", "clip-path", "fill", "stroke"):
                assert all(found.startswith("url(#") for found in re.findall(r"url\([^)]*", value))
    assert "@import" not in page.sheet
    assert "url(" not in page.sheet
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for _, attributes in page.tags for name, value in attributes.items() if name.endswith("href")}
    styles = " ".join(
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("style", "clip-path")
    )
    wanted |= set(re.findall(r"url\(#([^)]*)", styles))
    assert wanted <= set(ids)
    for row in record.rows:
        assert one_line(row.name) in page.text
    return page


@pytest.fixture(scope="module")
def two_rows() -> Record:
    near = Quality(source="none", psnr_to_first_db=100.0)
    fewer = Quality(source="none", psnr_to_first_db=34.5)
    return make_record(
        make_row("demo, 4 steps", warm_runs=64, quality=near),
        make_row("demo, 1 step", warm_runs=64, scale=0.6, steps=1, quality=fewer),
    )


@pytest.fixture(scope="module")
def page(two_rows) -> Page:
    return checked(two_rows)


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
    assert page.text.count("Not drawn") == len(PLOTS)
    assert checked(make_record(partial=True)).text.count("Not drawn") == len(PLOTS)
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


def test_many_rows_are_drawn_up_to_a_limit():
    record = make_record(*(make_row(f"row {place}", warm_runs=8, cold_runs=0) for place in range(30)), comparisons=[])
    page = checked(record)
    assert page.text.count(f"The first {MOST_ROWS} of 30 rows are drawn.") == 3
    assert "The first 12 rows are drawn." in page.text


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e4, 1e12, 1e30])
def test_huge_and_tiny_times(scale):
    checked(make_record(make_row("a", scale=scale), make_row("b", scale=1.0)))


def test_whole_numbers_beyond_any_float():
    row = make_row("a", bytes_read=10**400, memory_timeline=[(0.0, 1), (1.0, 10**400)], installed_bytes=10**20)
    row.stages["decode"] = StageResources(peak_host_bytes=10**400, flops=10**400, bytes=1)
    row.settings.steps = row.settings.frames = 10**400
    page = checked(make_record(row, limits=None))
    assert "too far apart" in page.text
    assert markdown_report(make_record(row))


def test_the_page_is_complete(page, two_rows):
    assert "Not drawn" not in page.text
    assert page.text.index("Fastest of 2 rows") < page.text.index("Clips from prompt to file")
    assert page.text.index("Clips from prompt to file") < page.text.index("What a clip’s time is made of")
    assert "edgereel bench run 'my bundle.reel'" in page.text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert sum(tag == "svg" for tag, _ in page.tags) == 2 * len(PLOTS)
    headers = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert set(headers) == {"row", "col"}
    labels = [attributes["aria-label"] for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert len(labels) == len(PLOTS)
    assert all(duration(row.warm.stages["total"].median) in labels[1] for row in two_rows.rows)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_colours_have_contrast(page):
    """WCAG 2: 4.5 for text, in light and dark."""
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{[^}]*", page.sheet)
    )
    for colours in (light, dark):
        pairs = [("ink", "paper"), ("muted", "paper"), ("ink", "warn"), ("ink", "code"), ("accent", "paper")]
        for text, ground in pairs + [("on", stage) for stage in STAGE_COLOURS]:
            bright, dim = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, ground)


def drawn(plot):
    """Return a plot's axes, drawn for a desktop."""
    with style():
        return plot.draw(WIDTHS[0]).axes


def test_bars_are_the_medians_of_stages(two_rows):
    warm, cold = drawn(stage_stack(two_rows))
    for axes, kind in ((warm, "warm"), (cold, "cold")):
        widths = [bar.get_width() for bar in axes.patches]
        unit = 1e3 if kind == "warm" else 1.0
        parts = [getattr(row, kind).stages for row in two_rows.rows]
        expected = [stages[name].median * unit for stages in parts for name in records.COLD if name in stages]
        assert widths == pytest.approx(expected)


def test_lanes_show_every_clip_and_the_median(two_rows):
    (axes,) = drawn(distribution(two_rows))
    dots = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 64]
    for row, seen in zip(two_rows.rows, dots, strict=True):
        assert np.asarray(seen) == pytest.approx([1e3 * value for value in row.warm.samples["total"]])
        total = row.warm.stages["total"]
        assert any(
            line.get_xdata()[0] == pytest.approx(1e3 * total.median) and len(line.get_xdata()) == 2
            for line in axes.lines
        )
        band = [bar for bar in axes.patches if bar.get_x() == pytest.approx(1e3 * total.median_low)]
        assert band[0].get_width() == pytest.approx(1e3 * (total.median_high - total.median_low))


def test_roofline_points_are_work_by_time(two_rows):
    (axes,) = drawn(roofline(two_rows))
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    expected = {
        (took.flops / took.bytes, took.flops / row.warm.stages[stage].median)
        for row in two_rows.rows
        for stage, took in row.stages.items()
    }
    assert np.array(sorted(points)) == pytest.approx(np.array(sorted(expected)))
    roofs = {line.get_ydata()[1] for line in axes.lines if len(line.get_xdata()) == 2}
    assert {160e9, 500e9} <= roofs
    slope = next(
        line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] != line.get_ydata()[1]
    )
    assert np.asarray(slope.get_ydata()) / np.asarray(slope.get_xdata()) == pytest.approx([30e9, 30e9])


def test_memory_is_drawn_as_sampled(two_rows):
    axes = drawn(memory_over_time(two_rows))
    for row, panel in zip(two_rows.rows, axes, strict=True):
        line = panel.lines[0]
        assert list(line.get_ydata()) == [count for _, count in row.memory_timeline]
        assert len(panel.patches) == 4
        assert panel.get_ylim()[0] == 0


@given(st.dictionaries(st.integers(0, 30), st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1))
def test_the_front_is_what_nothing_beats(points):
    front = pareto_front(points)
    for key, (seconds, quality) in points.items():
        beaten = any(
            other[0] <= seconds and other[1] >= quality and other != (seconds, quality) for other in points.values()
        )
        if key in front:
            assert not beaten
        else:
            assert beaten or any(points[other] == (seconds, quality) for other in front)
    assert front == sorted(front, key=lambda key: points[key][0])


def test_likeness_is_no_quality_where_the_first_row_takes_fewer_steps():
    near, far = Quality(source="none", psnr_to_first_db=100.0), Quality(source="none", psnr_to_first_db=30.0)
    record = make_record(make_row("one", steps=1, quality=near), make_row("four", steps=4, quality=far))
    assert "being unlike it is no lack of quality" in quality_against_time(record).missing
    turned = make_record(make_row("four", steps=4, quality=near), make_row("one", steps=1, quality=far))
    assert quality_against_time(turned).missing == ""


def test_fresh_scores_go_before_likeness_and_rows_without_are_named():
    scores = [Quality(source="measured", figures={"colour_shown": share, "scene_shown": 1.0}) for share in (1.0, 0.5)]
    rows = [make_row("good", scale=2.0, quality=scores[0]), make_row("fast", quality=scores[1])]
    record = make_record(*rows, make_row("unknown", quality=Quality(source="none")))
    plot = quality_against_time(record)
    assert "Not drawn, without a quality that compares: unknown." in plot.notes
    (axes,) = drawn(plot)
    front = next(line for line in axes.lines if len(line.get_xdata()) == 2)
    assert list(front.get_ydata()) == pytest.approx([75.0, 100.0])


def test_a_bundles_figures_name_their_own_steps():
    rows = [make_row("four"), make_row("one", steps=1)]
    table = cells(markdown_report(make_record(*rows)), "Clips from prompt to file")
    assert table["four"]["quality"] == "shows 85% (the bundle's figure)"
    assert table["one"]["quality"] == "shows 85% (the bundle's figure, at 4 steps)"


hostile = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60))


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(hostile, min_size=12, max_size=12))
def test_text_of_a_record_stays_text(texts):
    check_hostile(texts)


@pytest.mark.parametrize("text", HOSTILE)
def test_known_tricks_stay_text(text):
    check_hostile([text] * 12)


def check_hostile(texts: list[str]) -> None:
    words = iter(texts)
    row = make_row(
        next(words),
        warm_runs=8,
        cold_runs=0,
        quality=Quality(source="bundle", figures={next(words): 1.5, "of_source": {"a": [1]}}),
    )
    row.contender, row.engine.version, row.engine.precision = next(words), next(words), [next(words)]
    row.bundle.name, row.failures, row.settings.recipe = next(words), [next(words)], next(words)
    row.memory_stages.append((0.4, next(words)))
    row.stages[next(words)] = StageResources(flops=1, bytes=1)
    record = make_record(row, command=texts, notes=texts)
    record.machine.processor, record.versions["x"] = next(words), next(words)
    record.limits.flops_per_second[texts[0]] = 1e9
    page = checked(record)
    for note in record.notes:
        if note.strip():
            assert one_line(note) in page.text
    text = markdown_report(record)
    assert all(character == "\n" or character.isprintable() for character in text)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    body = re.sub(r"(?s)^(`{3,})\n.*?\n\1$", "", text, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)(?:[<>`*]|\](?=[(\[:]))", body.replace("\\\\", ""))
    assert all(len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) in {15, 9, 10, 11, 12, 13} for line in lines)


def test_words_that_all_names_begin_with_are_left_out():
    assert without_common_words(["a demo int8, 1 step", "a demo bf16, 4 steps"]) == ["int8, 1 step", "bf16, 4 steps"]
    assert without_common_words(["a demo", "a demo"]) == ["demo", "demo"]
    assert without_common_words(["a demo", "a"]) == ["a demo", "a"]
    assert without_common_words(["one row alone"]) == ["one row alone"]


@given(st.text(), st.text())
def test_elements_escape_text_and_attributes(text, attribute):
    page = Page(element("p", text, title=attribute))
    assert page.tags == [("p", {"title": one_line(attribute)})]
    assert "".join(page.texts) == one_line(text)


@given(st.text())
def test_markdown_shows_text_as_it_is(text):
    plain = re.sub(r"\\([\\`*\[\]<>|~_&])", r"\1", _escaped(text))
    assert plain == one_line(text)


def test_a_command_in_markdown_can_be_pasted():
    assert _escaped('it needs torch: pip install "edgereel[export]"').endswith('pip install "edgereel[export]"')
    assert _escaped("[x] [a](b) [c]: d [e][f]") == r"\[x] [a\](b) [c\]: d [e\][f]"


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


def test_drawings_take_the_pages_colours(two_rows):
    with style():
        text = svg(stage_stack(two_rows).draw(WIDTHS[1]), "n")
    assert "var(--denoise)" in text
    assert "currentColor" in text
    assert INK not in text
    assert STAGE_COLOURS["denoise"] not in text


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
