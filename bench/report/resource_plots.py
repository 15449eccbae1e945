"""Plots of what clips cost beside time: quality, memory, and the limits of the machine."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from ..records.record import STAGES, MachineLimits, Record, Row
from ..words import duration, listed, memory, rate, significant, tick, time_unit
from .content import STAGE_NAMES, peak_bytes, timing_of
from .figure import (
    ACCENT,
    INK,
    LABEL,
    MOST_ROWS,
    MUTED,
    PAPER,
    SMALL,
    STAGE_COLOURS,
    Plot,
    add_axes,
    add_text,
    drawable,
    label_points,
    new_figure,
    shortened,
    text_width,
)
from .scores import Axis, comparable, pareto_front
from .time_plots import left_out, log_axis

_PANELS = 12
_CLIPS = 3
StagePoint = tuple[int, str, float, float]
"""A stage of a row: the row's number, the stage, FLOPs for each byte, FLOPs a second."""


def quality_against_time(record: Record) -> Plot:
    """Return a point for each row, quality above the median of its total, and the front of those that nothing beats."""
    title = "Quality against time"
    axis = comparable(record)
    if isinstance(axis, str):
        return Plot(title, missing=axis)
    points: dict[int, tuple[float, float]] = {}
    for place, row in enumerate(record.rows):
        timing = timing_of(row, "warm") or timing_of(row, "cold")
        if place in axis.values and timing is not None and len(points) < MOST_ROWS:
            points[place] = (timing.stages["total"].median, axis.values[place])
    if len(points) < 2:
        return Plot(title, missing="Fewer than two rows have both times and a quality that can be compared.")
    if not drawable((seconds for seconds, _ in points.values()), 1e-9) or not drawable(map(abs, axis.values.values())):
        return Plot(title, missing="Times or qualities are too far apart to be drawn.")
    front = pareto_front(points)
    names = {place: record.rows[place].name for place in points}
    alt = "; ".join(
        f"{names[place]}: {duration(seconds)}, {_value(quality, axis)}{', on the front' * (place in front)}"
        for place, (seconds, quality) in points.items()
    )
    others = [row.name for place, row in enumerate(record.rows) if place not in points]
    notes = [
        "Up and to the left is better. The line joins the rows to which no other is both as fast and as good. Numbers are rows."
    ]
    if any(quality >= axis.equal for _, quality in points.values()):
        notes.append("Clips equal to the first row’s have no decibels: they stand above the scale.")
    notes += [f"Not drawn, without a quality that compares: {listed(others[:MOST_ROWS])}."] if others else []
    numbered = [row.name for row in record.rows[: max(points) + 1]]
    return Plot(title, lambda width: _draw_quality(points, front, axis, width), alt, notes, rows=numbered)


def _value(quality: float, axis: Axis) -> str:
    return axis.equal_name if quality >= axis.equal else f"{significant(quality)} ({axis.title})"


def _draw_quality(points: dict[int, tuple[float, float]], front: list[int], axis: Axis, width: int) -> Any:
    height, left, top = 330, 48, 30
    figure = new_figure(width, height)
    add_text(figure, 0, 9, axis.title, color=MUTED, size=SMALL)
    axes = add_axes(figure, left, top, 12, height - top - 40)
    scale, unit = time_unit([max(seconds for seconds, _ in points.values())])
    below = [quality for _, quality in points.values() if quality < axis.equal]
    low, high = min(below, default=0.0), max(below, default=1.0)
    room = max(high - low, 0.02 * abs(high), 1e-6)
    # Rows equal to the first have no number of decibels: they lie on a line of their own above all others.
    equal = high + 0.45 * room
    drawn = {
        place: (seconds * scale, equal if quality >= axis.equal else quality)
        for place, (seconds, quality) in points.items()
    }
    slowest, fastest = max(x for x, _ in drawn.values()), min(x for x, _ in drawn.values())
    margin = 0.25 * (slowest - fastest) + 0.02 * slowest
    axes.set_xlim(max(0.0, fastest - margin), slowest + margin)
    any_equal = len(below) < len(points)
    axes.set_ylim(low - 0.35 * room, (equal if any_equal else high) + 0.2 * room)
    axes.plot(
        [drawn[place][0] for place in front], [drawn[place][1] for place in front], color=ACCENT, linewidth=2, zorder=2
    )
    for place, (x, y) in drawn.items():
        fill = ACCENT if place in front else PAPER
        axes.plot([x], [y], "o", color=fill, markeredgecolor=ACCENT, markeredgewidth=1.8, markersize=9, zorder=3)
    axes.grid(axis="both")
    axes.locator_params(axis="both", nbins=6)
    axes.xaxis.set_major_formatter(lambda value, place: tick(value))
    ticks = [value for value in axes.get_yticks() if low - 0.35 * room <= value <= high + 0.2 * room]
    axes.set_yticks([*ticks, equal] if any_equal else ticks)
    axes.set_yticklabels([tick(value) for value in ticks] + [axis.equal_name] * any_equal)
    axes.set_xlabel(f"median of the total, {unit}", labelpad=4)
    label_points(axes, [(x, y, str(place + 1)) for place, (x, y) in drawn.items()])
    return figure


def memory_over_time(record: Record) -> Plot:
    """Return the memory of each row's process while it makes clips, on one scale."""
    title = "Memory over time"
    rows = [row for row in record.rows if len(row.memory_timeline) > 1][:_PANELS]
    if not rows:
        return Plot(title, missing="Memory over time was not measured.")
    if not drawable(abs(value) for row in rows for point in row.memory_timeline for value in point):
        return Plot(title, missing="Memory or its moments are too far apart to be drawn.")
    alt = "; ".join(f"{row.name}: {_memory_text(row)}" for row in rows)
    notes = ["Resident memory of the process, from 0; all rows on one scale."]
    shaded = any(row.memory_stages for row in rows)
    if shaded:
        notes.append(f"The first {_CLIPS} of the clips during which memory was sampled; colours are stages.")
    if len(rows) < sum(1 for row in record.rows if row.memory_timeline):
        notes.append(f"The first {_PANELS} rows are drawn.")
    found = {stage for row in rows for _, stage in row.memory_stages}
    key = [stage for stage in STAGES if stage in found]
    return Plot(title, lambda width: _draw_memory(rows, width), alt, notes, key)


def _memory_text(row: Row) -> str:
    counts = [count for _, count in row.memory_timeline]
    device = peak_bytes(row, device=True)
    text = f"{memory(min(counts))} to {memory(max(counts))}"
    return text + ("" if device is None else f", device {memory(device)}")


def _window(row: Row) -> float:
    """Return until when a row is drawn: through its first clips where it is known when those were made."""
    begins = [moment for moment, stage in row.memory_stages if stage == "text"]
    end = max(moment for moment, _ in row.memory_timeline)
    return begins[_CLIPS] if len(begins) > _CLIPS else end


def _draw_memory(rows: list[Row], width: int) -> Any:
    panel, plot_height, left = 104, 70, 56
    figure = new_figure(width, panel * len(rows) + 22)
    most = max(count for row in rows for _, count in row.memory_timeline) or 1
    step = 2.0 ** math.floor(math.log2(most / 1.05))
    end = max(_window(row) for row in rows) or 1.0
    scale, unit = time_unit([end])
    for place, row in enumerate(rows):
        figures = _memory_text(row)
        add_text(figure, width, place * panel + LABEL / 2, figures, ha="right", color=MUTED, size=SMALL)
        room = width - text_width(figures, SMALL) - 10
        add_text(figure, 0, place * panel + LABEL / 2, shortened(row.name, room), color=INK)
        axes = add_axes(figure, left, place * panel + LABEL + 4, 8, plot_height)
        until = _window(row)
        points = [point for point in sorted(row.memory_timeline) if point[0] <= until]
        times, counts = [moment * scale for moment, _ in points], [float(count) for _, count in points]
        marks = [mark for mark in sorted(row.memory_stages) if mark[0] <= until][:2000]
        for stage, spans in _spans(marks, until).items():
            _shade(axes, [(start * scale, end * scale) for start, end in spans], most * 1.08, STAGE_COLOURS[stage])
        axes.fill_between(times, counts, most * 1.08, color=PAPER, linewidth=0)
        axes.plot(times, counts, color=INK, linewidth=1.6)
        axes.set_xlim(0, end * scale)
        axes.set_ylim(0, most * 1.08)
        axes.set_yticks([0, step / 2, step] if most < 1.5 * step else [0, step])
        axes.yaxis.set_major_formatter(lambda value, place: memory(int(value)) if value else "0")
        axes.grid(axis="y")
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(lambda value, place: tick(value))
        if place == len(rows) - 1:
            axes.set_xlabel(unit, labelpad=2)
        else:
            axes.tick_params(labelbottom=False)
    return figure


def _spans(marks: list[tuple[float, str]], until: float) -> dict[str, list[tuple[float, float]]]:
    """Return by stage from when to when it was under way, of (seconds, the stage that begins then) in order."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for (start, stage), (end, _) in pairwise([*marks, (until, "")]):
        if stage in STAGE_COLOURS and end > start:
            spans.setdefault(stage, []).append((start, end))
    return spans


def _shade(axes: Any, spans: list[tuple[float, float]], top: float, colour: str) -> None:
    """Fill stretches of time up to a height, all of one colour as one shape."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = [[(start, 0), (start, top), (end, top), (end, 0), (start, 0)] for start, end in spans]
    shape = Path.make_compound_path(*(Path(each, closed=True) for each in corners))
    axes.add_patch(PathPatch(shape, facecolor=colour, alpha=0.45, linewidth=0))


def roofline(record: Record) -> Plot:
    """Return each stage of each row as a point below what the machine can do: Williams, Waterman and Patterson, 2009."""
    title = "How near to the machine’s limits"
    limits = _distinct_limits(record)
    points: list[StagePoint] = []
    for place, row in enumerate(record.rows[:MOST_ROWS]):
        warm = timing_of(row, "warm")
        for stage, took in row.stages.items():
            if (
                warm is None
                or stage not in warm.stages
                or stage not in STAGE_COLOURS
                or not took.flops
                or not took.bytes
            ):
                continue
            seconds = warm.stages[stage].median
            if seconds > 0 and drawable([took.flops, took.bytes]):
                points.append((place + 1, stage, took.flops / took.bytes, took.flops / seconds))
    if not limits or not points:
        return Plot(title, missing="Work and the machine’s limits were not both measured.")
    if not drawable((value for _, _, *both in points for value in both), 1e-9):
        return Plot(title, missing="Work and time are too far apart to be drawn.")
    alt = "; ".join(
        f"{record.rows[place - 1].name}, {STAGE_NAMES[stage]}: {rate(achieved, 'FLOP/s')} at {significant(intensity)} FLOP per byte"
        for place, stage, intensity, achieved in points
    )
    notes = [
        "A point is a stage of a row: work done a second, above work for each byte that graphs read and write. Numbers, "
        "where there are any, are those of the rows whose points are there. The sloping line is "
        "what copying memory allows, a level one what matrix products reach. Data that stay in caches can lie above the slope."
    ]
    names = [row.name for row in record.rows[:MOST_ROWS]] if len(record.rows) > 1 else []
    found = [stage for stage in STAGES if any(stage == point[1] for point in points)]
    return Plot(title, lambda width: _draw_roofline(limits, points, width), alt, notes + left_out(record), found, names)


def _distinct_limits(record: Record) -> list[MachineLimits]:
    limits = [record.limits, *(row.limits for row in record.rows)]
    usable = [each for each in limits if each is not None and drawable(each.flops_per_second.values(), 1e-3)]
    usable = [each for each in usable if each.bytes_per_second is None or drawable([each.bytes_per_second], 1e-3)]
    return [each for place, each in enumerate(usable) if each.flops_per_second and each not in usable[:place]][:3]


def _draw_roofline(limits: list[MachineLimits], points: list[StagePoint], width: int) -> Any:
    height, top = 380, 30
    figure = new_figure(width, height)
    add_text(figure, 0, 9, "work a second, FLOP/s", color=MUTED, size=SMALL)
    axes = add_axes(figure, 44, top, 14, height - top - 42)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ridges = [
        peak / each.bytes_per_second
        for each in limits
        if each.bytes_per_second
        for peak in each.flops_per_second.values()
    ]
    intensities = [point[2] for point in points] + ridges
    low, high = min(intensities) / 3, max(intensities) * 8
    highest = max(peak for each in limits for peak in each.flops_per_second.values())
    axes.set_xlim(low, high)
    achieved = [point[3] for point in points]
    axes.set_ylim(min(achieved) / 4, max(highest, *achieved) * 3)
    for each in limits:
        _draw_roof(axes, each, low, high)
    for _, stage, intensity, reached in points:
        axes.plot([intensity], [reached], "o", color=STAGE_COLOURS[stage], markersize=9, markeredgecolor=PAPER)
    if len({point[0] for point in points}) > 1:
        label_points(axes, [(intensity, reached, str(row)) for row, _, intensity, reached in points])
    axes.grid(axis="both")
    log_axis(axes.xaxis)
    log_axis(axes.yaxis)
    axes.yaxis.set_major_formatter(lambda value, place: f"{tick(value / 1e9)} G")
    axes.set_xlabel("FLOP per byte", labelpad=4)
    return figure


def _draw_roof(axes: Any, limits: MachineLimits, low: float, high: float) -> None:
    """Draw a level line for each type of number, and the slope of memory, with their names."""
    copied, line = limits.bytes_per_second, {"color": MUTED, "linewidth": 1.6}
    text = {"textcoords": "offset points", "va": "center_baseline", "size": SMALL, "color": MUTED}
    for name, peak in limits.flops_per_second.items():
        axes.plot([max(low, peak / copied if copied else low), high], [peak, peak], **line)
        axes.annotate(f"{shortened(name, 80, SMALL)} {rate(peak, 'FLOP/s')}", (high, peak), (0, 11), ha="right", **text)
    if copied:
        ridge = max(low, max(limits.flops_per_second.values()) / copied)
        axes.plot([low, ridge], [low * copied, ridge * copied], **line)
        middle = math.sqrt(low * ridge)
        axes.annotate(f"memory {rate(copied, 'B/s')}", (middle, middle * copied), (-8, 8), ha="right", **text)
