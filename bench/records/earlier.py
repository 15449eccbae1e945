"""An earlier record beside a new one: its rows as references, and how the new ones compare with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .diff import match_rows, record_differences, stage_diff
from .record import Record, Row, RowComparison

PREFIX = "before: "


def with_earlier(record: Record, earlier: Sequence[tuple[Path, Record]]) -> Record:
    """Return the record with the rows of earlier ones, their names after "before: ", and with comparisons of warm totals.

    The runs of two records were not made in turns: the interval is that of the ratio of two medians that have nothing to do
    with each other, and what else the records differ in is noted.
    """
    rows, comparisons, notes = list(record.rows), list(record.comparisons), list(record.notes)
    for path, other in earlier:
        notes.append(
            f'Rows named "{PREFIX}…" are of {path}, measured {other.started}, and not in turns with the others.'
        )
        notes += [f"{path.name} differs: {text}" for text in record_differences(other, record)]
        names = {row.name for row in rows}
        renamed = {row.name: _new_name(row.name, names) for row in other.rows}
        rows += [_renamed(row, renamed, other.rows[0]) for row in other.rows]
        pairs, _, _ = match_rows(other.rows, record.rows)
        comparisons += [found for before, after in pairs if (found := _compare(before, after, renamed[before.name]))]
    return record.model_copy(update={"rows": rows, "comparisons": comparisons, "notes": notes})


def _renamed(row: Row, names: Mapping[str, str], first: Row) -> Row:
    """Return a row by its new name; what it is compared with is a row of its own record, as the first row of that is."""
    quality, reference = row.quality, row.reference
    psnr = quality.psnr_to_reference_db
    if psnr is None and row is not first:
        psnr, reference = quality.psnr_to_first_db, first.name
    quality = quality.model_copy(update={"psnr_to_first_db": None, "psnr_to_reference_db": psnr})
    update = {"name": names[row.name], "reference": names.get(reference or ""), "quality": quality}
    return row.model_copy(update=update)


def _new_name(name: str, taken: set[str]) -> str:
    new = PREFIX + name
    while new in taken:
        new = PREFIX + new
    taken.add(new)
    return new


def _compare(before: Row, after: Row, name: str) -> RowComparison | None:
    if before.warm is None or after.warm is None or before.failures or after.failures:
        return None
    found = stage_diff("warm", "total", before.warm, after.warm)
    if found.ratio is None or found.low is None or found.high is None or found.verdict == "cannot be compared":
        return None
    return RowComparison(
        first=name,
        second=after.name,
        stage="total",
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        rounds=min(len(timing.samples["total"]) for timing in (before.warm, after.warm)),
        verdict="too few rounds to tell" if found.verdict == "too few runs to tell" else found.verdict,
        in_turns=False,
    )
