"""How good a row's clips are, in few words and, where rows can be compared, as one number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...quality.metrics import PSNR_OF_EQUAL_FRAMES
from ..records.record import Record, Row
from ..words import NOT_MEASURED, percent, significant

_TRAITS = ("colour_shown", "scene_shown", "motion_shown", "shape_shown")


@dataclass(frozen=True)
class Axis:
    """One number for each row by which their quality can be compared. values: by the row's place; equal: the most there is."""

    title: str
    values: dict[int, float]
    equal: float
    equal_name: str


def quality_text(row: Row, record: Record) -> str:
    """Return a row's quality in a few words: nearness to its reference's clips, then what the bundle or a scorer says."""
    if row.warm is None and row.cold is None:
        return NOT_MEASURED
    quality, parts = row.quality, []
    first = record.rows[0]
    psnr, other = quality.psnr_to_reference_db, "the first row"
    if psnr is None:  # also in records from before rows had references
        psnr = quality.psnr_to_first_db
    elif row.reference not in (None, first.name):
        other = str(row.reference)
    if psnr is not None and row is not first:
        parts.append(f"equal to {other}" if psnr >= PSNR_OF_EQUAL_FRAMES else f"{significant(psnr)} dB to {other}")
    figures = number_figures(quality.figures)
    shown = [figures[name] for name in _TRAITS if name in figures]
    if quality.source == "measured" and shown:
        parts.append(f"shows {percent(sum(shown) / len(shown))} of what was asked for")
    elif quality.source == "bundle":
        parts += _carried(quality.figures, figures, shown, row.settings.steps)
    return ", ".join(parts) or ("the first row" if row is first and len(record.rows) > 1 else "not measured")


def _carried(all_figures: Mapping[str, Any], figures: Mapping[str, float], shown: list[float], steps: int) -> list[str]:
    """Return what the bundle carries, with the number of steps it is of where that is another than the row's."""
    parts = []
    to_source = all_figures.get("to_source")
    psnr = number_figures(to_source).get("psnr_db") if isinstance(to_source, Mapping) else None
    if psnr is not None:
        parts.append(f"{significant(psnr)} dB to the bundle's source")
    if shown:
        other = figures.get("steps")
        of = "" if other is None or other == steps else f", at {other:g} steps"
        parts.append(f"shows {percent(sum(shown) / len(shown))} (the bundle's figure{of})")
    return parts or [
        f"{name.replace('_', ' ')} {significant(value)} (the bundle's)" for name, value in list(figures.items())[:2]
    ]


def number_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return those of the figures that are finite numbers."""
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and math.isfinite(value)
    }


def comparable(record: Record) -> Axis | str:
    """Return the number by which at least two rows' quality can be compared, or in a sentence why there is none.

    Fresh scores where they tell rows apart, else nearness to the first row's clips. That is quality only where no row
    takes more steps than the first: clips of more steps are not worse for being unlike it. A bundle's own figures are
    left out: they are of its own settings, not of the row's.
    """
    scores: dict[int, float] = {}
    near: dict[int, float] = {}
    for place, row in enumerate(record.rows):
        if row.warm is None and row.cold is None:
            continue
        figures = number_figures(row.quality.figures)
        shown = [figures[name] for name in _TRAITS if name in figures]
        if row.quality.source == "measured" and shown:
            scores[place] = 100 * sum(shown) / len(shown)
        if row.quality.psnr_to_first_db is not None:
            near[place] = row.quality.psnr_to_first_db
    by_scores = Axis("shown of what was asked for, %", scores, math.inf, "")
    if len(set(scores.values())) > 1:
        return by_scores
    most_first = all(record.rows[place].settings.steps <= record.rows[0].settings.steps for place in near)
    if len(near) > 1 and most_first:
        return Axis("PSNR to the first row, dB", near, PSNR_OF_EQUAL_FRAMES, "equal")
    if len(scores) > 1:
        return by_scores
    if len(near) > 1:
        return (
            "Rows take more steps than the first, to which PSNR is: being unlike it is no lack of quality. "
            "Measure with the most steps first, or with --quality."
        )
    return "Fewer than two rows have a quality that can be compared; --quality scores clips of the built-in model."


def pareto_front(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """Return the keys of those points (seconds, quality) that no other is at least equal to in both, fastest first."""
    front: list[int] = []
    for key, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if not front or quality > points[front[-1]][1]:
            front.append(key)
    return front
