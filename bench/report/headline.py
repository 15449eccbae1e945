"""The first sentence of a report: which row is the fastest, and which were not told apart from it."""

from __future__ import annotations

from collections.abc import Mapping

from ..records.record import Record, Row, Summary
from ..words import duration, percent, plural, span, whole
from .content import clip_size, pace, timing_of
from .results import skipped_sentence
from .scores import quality_text


def headline(record: Record) -> str:
    """Return what the fastest row takes, its interval and quality, and which rows were not told apart from it.

    The fastest has the lowest median of the rows that no comparison calls slower than another. Where a comparison of two
    warm rows is in the record, it alone tells them apart; the intervals of the medians do so for other rows.
    """
    for kind in ("warm", "cold"):
        timed = [(timing.stages["total"], row) for row in record.rows if (timing := timing_of(row, kind)) is not None]
        if timed:
            break
    else:
        if record.soak is not None and record.soak.made:
            return skipped_sentence(record.soak)
        return "No clip was measured to its end."
    verdicts = _verdicts(record) if kind == "warm" else {}
    names = {row.name for _, row in timed}
    beaten = {name for (name, other), verdict in verdicts.items() if verdict == "slower" and other in names}
    total, row = min(timed, key=lambda pair: (pair[1].name in beaten, pair[0].median))
    timing = timing_of(row, kind)
    assert timing is not None
    start = f"Fastest of {whole(len(timed))} rows: {row.name}" if len(timed) > 1 else row.name
    told = f"a single {kind} run"
    if total.runs > 1:
        interval = f"{percent(total.median_confidence)} interval {span(total.median_low, total.median_high)}"
        told = f"median of {plural(total.runs, kind + ' run')}, {interval}"
    text = (
        f"{start} makes a clip of {clip_size(row)} in {duration(total.median)} ({told}), "
        f"{pace(timing)}; quality: {quality_text(row, record)}."
    )
    near = [
        other.name for found, other in timed if other is not row and _not_told_apart(total, row, found, other, verdicts)
    ]
    if near:
        more = f" and {plural(len(near) - 3, 'other row')}" if len(near) > 3 else ""
        text += f" Not told apart from it: {'; '.join(near[:3])}{more}."
    return text


def _verdicts(record: Record) -> dict[tuple[str, str], str]:
    """Return what comparisons of totals say: by two rows' names, what the first of them is to the second."""
    opposite = {"faster": "slower", "slower": "faster"}
    found: dict[tuple[str, str], str] = {}
    for each in record.comparisons:
        if each.stage == "total":
            found[each.second, each.first] = each.verdict
            found[each.first, each.second] = opposite.get(each.verdict, each.verdict)
    return found


def _not_told_apart(
    total: Summary, row: Row, other_total: Summary, other: Row, verdicts: Mapping[tuple[str, str], str]
) -> bool:
    if (row.name, other.name) in verdicts:
        return verdicts[row.name, other.name] != "faster"
    return other_total.runs > 1 and other_total.median_low <= total.median_high
