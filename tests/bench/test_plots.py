"""Plots show what was measured, in the page's colours, whatever the numbers are."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import bench_page
from helpers import bench_records as records
from helpers.bench_page import Page, checked
from helpers.bench_records import make_record, make_row
from hypothesis import given
from hypothesis import strategies as st

from edgereel.bench.records.record import (
    Quality,
    Record,
    StageResources,
)
from edgereel.bench.report import markdown_report
from edgereel.bench.report.figure import (
    INK,
    MOST_ROWS,
    STAGE_COLOURS,
    WIDTHS,
    style,
    svg,
)
from edgereel.bench.report.resource_plots import memory_over_time, quality_against_time, roofline
from edgereel.bench.report.scores import pareto_front
from edgereel.bench.report.time_plots import distribution, stage_stack
from edgereel.bench.words import duration

PLOTS = (stage_stack, distribution, quality_against_time, memory_over_time, roofline)


@pytest.fixture(scope="module")
def two_rows() -> Record:
    return bench_page.two_rows()


@pytest.fixture(scope="module")
def page(two_rows) -> Page:
    return checked(two_rows)


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


def test_drawings_take_the_pages_colours(two_rows):
    with style():
        text = svg(stage_stack(two_rows).draw(WIDTHS[1]), "n")
    assert "var(--denoise)" in text
    assert "currentColor" in text
    assert INK not in text
    assert STAGE_COLOURS["denoise"] not in text
