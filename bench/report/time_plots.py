"""Plots of times: what a clip's time is made of, and how single clips scatter."""

from __future__ import annotations

from typing import Any

from ..records.record import STAGES, Record, Row, Timing
from ..words import duration, plural, span, tick, time_unit, whole
from .content import STAGE_NAMES, timing_of
from .figure import (
    ACCENT,
    INK,
    LABEL,
    LANE,
    LINE,
    MOST_ROWS,
    MUTED,
    ON,
    PAPER,
    SMALL,
    STAGE_COLOURS,
    Plot,
    add_axes,
    add_text,
    drawable,
    new_figure,
    shortened,
    text_width,
)

_AXIS = 34  # pixels below the lowest lane, for ticks and the axis' title
_POINTS = 3000  # that one plot draws at most
Timed = list[tuple[Row, Timing]]


def timed_rows(record: Record, kind: str) -> Timed:
    """Return the first rows that have warm or cold times, as many as a plot takes."""
    rows = [(row, timing) for row in record.rows if (timing := timing_of(row, kind)) is not None]
    return rows[:MOST_ROWS]


def left_out(record: Record) -> list[str]:
    """Return a note where a plot does not draw all rows."""
    count = len(record.rows)
    return [f"The first {MOST_ROWS} of {whole(count)} rows are drawn."] if count > MOST_ROWS else []


def stage_stack(record: Record) -> Plot:
    """Return horizontal bars, a row each, made of the medians of its stages; warm and cold clips on axes of their own."""
    title = "What a clip’s time is made of"
    groups = {kind: _with_stages(timed_rows(record, kind)) for kind in ("warm", "cold")}
    groups = {kind: rows for kind, rows in groups.items() if rows}
    if not groups:
        return Plot(title, missing="No row has times of stages.")
    sums = [sum(_parts(timing).values()) for rows in groups.values() for _, timing in rows]
    if not drawable(sums, 1e-9):
        return Plot(title, missing="The times of stages are too far apart, or too close to 0, to be drawn.")
    present = [stage for stage in STAGES if any(_parts(t).get(stage) for rows in groups.values() for _, t in rows)]
    alt = "; ".join(
        f"{row.name}, {kind}: "
        + ", ".join(f"{STAGE_NAMES[stage]} {duration(seconds)}" for stage, seconds in _parts(timing).items() if seconds)
        for kind, rows in groups.items()
        for row, timing in rows
    )
    notes = [
        "Each part is the median of its stage; at the end stands the median of the total, which need not be their sum."
    ]
    notes += ["Warm and cold clips have axes of their own."] if len(groups) > 1 else []
    return Plot(title, lambda width: _draw_stacks(groups, width), alt, notes + left_out(record), present)


def _with_stages(rows: Timed) -> Timed:
    return [(row, timing) for row, timing in rows if any(_parts(timing).values())]


def _parts(timing: Timing) -> dict[str, float]:
    return {stage: timing.stages[stage].median for stage in STAGES if stage in timing.stages}


def _draw_stacks(groups: dict[str, Timed], width: int) -> Any:
    heading = 26
    figure = new_figure(
        width, sum(heading + LANE * len(rows) + _AXIS for rows in groups.values()) + 12 * (len(groups) - 1)
    )
    top = 0.0
    names = {"warm": "Warm: by a process that stays", "cold": "Cold: by a fresh process"}
    for kind, rows in groups.items():
        add_text(figure, 0, top + 9, names[kind], weight="bold")
        top += heading
        axes = add_axes(figure, 1, top, 68, LANE * len(rows))
        largest = max(sum(_parts(timing).values()) for _, timing in rows)
        scale, unit = time_unit([largest])
        pixels = (width - 69) / largest
        for lane, (row, timing) in enumerate(rows):
            add_text(figure, 0, top + lane * LANE + LABEL / 2, shortened(row.name, width), color=INK)
            start = 0.0
            middle = lane + (LABEL + 11) / LANE
            for stage, seconds in _parts(timing).items():
                axes.barh(
                    middle,
                    seconds * scale,
                    22 / LANE,
                    start * scale,
                    color=STAGE_COLOURS[stage],
                    edgecolor=PAPER,
                    linewidth=1,
                )
                _label_part(axes, (start + seconds / 2) * scale, middle, stage, seconds, seconds * pixels)
                start += seconds
            total = duration(timing.stages["total"].median)
            axes.annotate(
                total, (start * scale, middle), (6, 0), textcoords="offset points", va="center_baseline", weight="bold"
            )
        _time_axis(axes, len(rows), unit)
        axes.set_xlim(0, largest * scale)
        top += LANE * len(rows) + _AXIS + 12
    return figure


def _label_part(axes: Any, x: float, y: float, stage: str, seconds: float, pixels: float) -> None:
    """Write a part's name and time into it, only its name, or nothing, by the room there is."""
    name = STAGE_NAMES[stage]
    for text in (f"{name} {duration(seconds)}", name):
        if text_width(text, SMALL) + 8 <= pixels:
            axes.text(x, y, text, ha="center", va="center_baseline", size=SMALL, color=ON)
            return


def _time_axis(axes: Any, lanes: int, unit: str) -> None:
    axes.set_ylim(lanes, 0)
    axes.set_yticks([])
    axes.grid(axis="x")
    if axes.get_xscale() == "log":
        log_axis(axes.xaxis)
    else:
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(lambda value, place: tick(value))
    axes.set_xlabel(unit, labelpad=2)


def distribution(record: Record) -> Plot:
    """Return all single times, a lane for each row, with the median's interval and the 90th percentile marked."""
    title = "How single clips scatter"
    kind, rows = "warm", _with_samples(timed_rows(record, "warm"))
    if not rows:
        kind, rows = "cold", _with_samples(timed_rows(record, "cold"))
    if not rows:
        return Plot(title, missing="The record holds no single times.")
    everything = [value for _, timing in rows for value in _samples(timing)]
    if not drawable(everything, 1e-9):
        return Plot(title, missing="Single times are too far apart, or too close to 0, to be drawn.")
    alt = "; ".join(f"{row.name}: {_described(timing)}" for row, timing in rows)
    notes = [
        f"A dot for the total of each {kind} clip, in the order they were made from the top of a lane to its foot. "
        "Line: median; band: its interval; mark below: p90, where there are runs enough to tell."
    ]
    logarithmic = max(everything) > 8 * min(everything)
    notes += ["The axis is logarithmic."] if logarithmic else []
    return Plot(title, lambda width: _draw_lanes(rows, width, logarithmic), alt, notes + left_out(record))


def _samples(timing: Timing) -> list[float]:
    return timing.samples.get("total", [])


def _with_samples(rows: Timed) -> Timed:
    return [(row, timing) for row, timing in rows if _samples(timing)]


def _described(timing: Timing) -> str:
    total = timing.stages["total"]
    tail = "" if total.p90 is None else f", p90 {duration(total.p90)}"
    return (
        f"{plural(total.runs, 'run')} from {duration(total.minimum)} to {duration(total.maximum)}, median "
        f"{duration(total.median)}, interval {span(total.median_low, total.median_high)}{tail}"
    )


def _draw_lanes(rows: Timed, width: int, logarithmic: bool) -> Any:
    lane_height = 66
    figure = new_figure(width, lane_height * len(rows) + _AXIS)
    axes = add_axes(figure, 8, 0, 12, lane_height * len(rows))
    values = [value for _, timing in rows for value in _samples(timing)]
    scale, unit = time_unit([max(values)])
    for lane, (row, timing) in enumerate(rows):
        total = timing.stages["total"]
        figures = f"median {duration(total.median)}" + ("" if total.p90 is None else f", p90 {duration(total.p90)}")
        add_text(figure, width, lane * lane_height + LABEL / 2, figures, ha="right", color=MUTED, size=SMALL)
        room = width - text_width(figures, SMALL) - 10
        add_text(figure, 0, lane * lane_height + LABEL / 2, shortened(row.name, room), color=INK)
        upper, lower = lane + (LABEL + 4) / lane_height, lane + 1 - 10 / lane_height
        axes.barh(
            (upper + lower) / 2,
            (total.median_high - total.median_low) * scale,
            lower - upper,
            total.median_low * scale,
            color=ACCENT,
            alpha=0.22,
            linewidth=0,
        )
        samples = _samples(timing)
        every = -(-len(samples) * len(rows) // _POINTS)
        places = range(0, len(samples), every)
        heights = [upper + (lower - upper) * (place + 0.5) / len(samples) for place in places]
        axes.plot(
            [samples[place] * scale for place in places],
            heights,
            "o",
            color=INK,
            alpha=0.5,
            markersize=3.4,
            markeredgewidth=0,
        )
        axes.plot([total.median * scale] * 2, [upper, lower], color=ACCENT, linewidth=2.2, solid_capstyle="butt")
        if total.p90 is not None:
            axes.plot([total.p90 * scale], [lower + 4 / lane_height], "^", color=INK, markersize=6, markeredgewidth=0)
        if lane:
            axes.axhline(lane, color=LINE, linewidth=1)
    if logarithmic:
        axes.set_xscale("log")
    _time_axis(axes, len(rows), unit)
    return figure


def log_axis(axis: Any) -> None:
    """Put ticks at 1, 2 and 5 of each decade where there are few, else at powers of ten, and name them in plain figures."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,), numticks=8))
    axis.set_major_formatter(lambda value, place: tick(value))
    axis.set_minor_formatter(NullFormatter())
