"""Two records compared, row by row and stage by stage, with everything named that they differ in beside time.

The runs of two records were not made in turns: what changed on the machine between them is part of every ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...core.errors import UsageError, one_line
from ..stats.statistics import median_ratio
from ..words import duration, plural, significant
from .folder import RECORD
from .record import DETAILS, STAGES, Record, Row, Timing, read_record

CONFIDENCE = 0.99
Kind = Literal["warm", "cold"]
StageVerdict = Literal["faster", "slower", "no difference found", "too few runs to tell", "cannot be compared"]
_UNDECIDED = ("too few runs to tell", "cannot be compared")
_MOST_SAMPLES = 10_000  # of which an interval is taken; of more, every n-th
_PROMPTS = {"prompts", "prompts_sha256", "seeds"}
_NO_PAIR = "no row of one record is also in the other, by what ran or by name"


@dataclass(frozen=True)
class StageDiff:
    """How a stage's median differs, second by first. ratio: None where the first is 0. low, high, confidence: of the ratio.

    verdict: of the second; "faster" or "slower" only where the interval has the confidence asked for and leaves out 1.
    """

    kind: Kind
    stage: str
    first: float
    second: float
    ratio: float | None
    low: float | None
    high: float | None
    confidence: float | None
    verdict: StageVerdict


@dataclass(frozen=True)
class RowDiff:
    """Two rows that were matched. differences: what is not the same beside time, in words."""

    first: str
    second: str
    stages: list[StageDiff]
    differences: list[str]


@dataclass(frozen=True)
class Diff:
    """Two records compared. differences: of machine, versions and how far they went. only_first, only_second: rows unmatched."""

    rows: list[RowDiff]
    differences: list[str] = field(default_factory=list)
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)

    def slower(self, over: float) -> list[tuple[RowDiff, StageDiff]]:
        """Return the totals that take more than `over` times as long, and surely longer.

        Raises UsageError for a limit below 1, and where no row or no total could be judged: that is no proof of anything.
        """
        if not 1 <= over < math.inf:
            raise UsageError(f"a limit of {over:g} cannot be: write 1.08 to fail where a clip takes over 8% longer")
        if not self.rows:
            raise UsageError(
                f"{_NO_PAIR}: {_some(self.only_first)} in the first, {_some(self.only_second)} in the second"
            )
        totals = [stage for row in self.rows for stage in row.stages if stage.stage == "total"]
        if all(stage.verdict in _UNDECIDED for stage in totals):
            raise UsageError("there is no total with enough runs in both records to be judged")
        return [
            (row, stage)
            for row in self.rows
            for stage in row.stages
            if stage.stage == "total" and stage.verdict == "slower" and stage.ratio is not None and stage.ratio > over
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return asdict(self)


def read(path: Path) -> Record:
    """Return the record in a file, or in a report's folder. Raises UsageError, naming the file."""
    if path.is_dir() and not (path / RECORD).is_file():
        raise UsageError(f"{path}: is not a record of edgereel bench (or a report folder): it has no {RECORD}")
    return read_record(path / RECORD if path.is_dir() else path)


def diff(first: Record, second: Record, confidence: float = CONFIDENCE) -> Diff:
    """Return how the second record differs from the first. Raises UsageError for a confidence not between 0 and 1."""
    pairs, only_first, only_second = match_rows(first.rows, second.rows)
    rows = [RowDiff(a.name, b.name, list(_stages(a, b, confidence)), row_differences(a, b)) for a, b in pairs]
    return Diff(
        rows, record_differences(first, second), [row.name for row in only_first], [row.name for row in only_second]
    )


def match_rows(first: Sequence[Row], second: Sequence[Row]) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Return the pairs of rows that are the same, then the rows of the first and of the second that have no other.

    Rows are paired by contender, engine, the bundle's digest and what is made; then, where a digest is missing or another,
    by name; then by contender and what is made. Of several that could be meant one of the same name is taken, else none.
    Prompts do not count: all rows of a record have the same.
    """
    left, right = list(first), list(second)
    pairs: list[tuple[Row, Row]] = []
    for identity in (_what_ran, _name, _what_was_made):
        for row in list(left):
            what = identity(row)
            alike = [other for other in right if what is not None and identity(other) == what]
            named = [other for other in alike if other.name == row.name]
            rivals = [each for each in left if each is not row and identity(each) == what]
            if named or (len(alike) == 1 and not rivals):
                other = (named or alike)[0]
                pairs.append((row, other))
                left = [each for each in left if each is not row]
                right = [each for each in right if each is not other]
    return pairs, left, right


def _what_ran(row: Row) -> object:
    if row.bundle is None or not row.bundle.digest:
        return None
    return row.engine.engine, row.bundle.digest, _what_was_made(row)


def _name(row: Row) -> object:
    return row.name


def _what_was_made(row: Row) -> object:
    return row.contender, row.settings.model_dump(exclude=_PROMPTS)


def _stages(first: Row, second: Row, confidence: float) -> Iterator[StageDiff]:
    kinds: list[Kind] = ["warm", "cold"]
    for kind in kinds:
        before, after = getattr(first, kind), getattr(second, kind)
        for stage in ("total", *STAGES, *DETAILS):
            if before and after and stage in before.stages and stage in after.stages:
                yield stage_diff(kind, stage, before, after, confidence)


def stage_diff(kind: Kind, stage: str, before: Timing, after: Timing, confidence: float = CONFIDENCE) -> StageDiff:
    """Return how a stage's median, which both have, differs, with an interval where there are single times."""
    medians = before.stages[stage].median, after.stages[stage].median
    ratio = medians[1] / medians[0] if medians[0] > 0 else math.inf
    samples = _samples(before, stage), _samples(after, stage)
    found = median_ratio(*samples, confidence) if all(samples) and math.isfinite(ratio) else None
    if found is None or not math.isfinite(found.high):
        told = ratio if math.isfinite(ratio) else None
        return StageDiff(kind, stage, *medians, told, None, None, None, "cannot be compared")
    verdict = found.verdict(confidence)
    said: StageVerdict = "too few runs to tell" if verdict == "too few rounds to tell" else verdict
    return StageDiff(kind, stage, *medians, ratio, found.low, found.high, found.confidence, said)


def _samples(timing: Timing, stage: str) -> list[float]:
    """Return a stage's times, one for each clip: steps and frames of one clip are no runs of their own."""
    samples = timing.samples.get(stage, [])
    if stage in DETAILS and 0 < timing.runs < len(samples) and len(samples) % timing.runs == 0:
        samples = np.median(np.reshape(samples, (timing.runs, -1)), axis=1).tolist()
    return samples[:: -(-len(samples) // _MOST_SAMPLES) or 1]


def record_differences(first: Record, second: Record) -> list[str]:
    """Return in words what two records differ in beside their rows: kind, completeness, machine, versions."""
    found = _differences("", {"kind:": first.kind}, {"kind:": second.kind})
    for name, record in (("first", first), ("second", second)):
        if record.partial:
            found.append(f"the {name} record is partial: it was interrupted")
    found += _differences("machine: ", first.machine.model_dump(), second.machine.model_dump())
    found += _differences("version: ", first.versions, second.versions)
    return found


def row_differences(first: Row, second: Row) -> list[str]:
    """Return in words what two rows differ in beside time: bundle, engine, settings, throttling, failures."""
    unlike = first.bundle is None or second.bundle is None
    found = []
    for what, facts_of in (
        ("", lambda row: {"bundle:": row.bundle and row.bundle.name} if unlike else {}),
        ("bundle: ", lambda row: {} if unlike else row.bundle.model_dump()),
        ("engine: ", lambda row: row.engine.model_dump(exclude={"build", "build_seconds", "lowered"})),
        ("settings: ", lambda row: row.settings.model_dump(exclude={"seeds"})),  # there are as many as prompts
        ("", lambda row: {"contender:": row.contender}),
    ):
        found += _differences(what, facts_of(first), facts_of(second))
    for name, row in (("first", first), ("second", second)):
        if row.conditions.throttled:
            found.append(f"the machine slowed itself down during the {name}")
        if row.failures:
            found.append(f"{plural(len(row.failures), 'failure')} in the {name}: {_text(row.failures[0])}")
    return found


def _differences(what: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys([*first, *second]))
    return [
        f"{what}{_text(name)} {_text(first.get(name))} and {_text(second.get(name))}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def _text(value: object, limit: int = 80) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(_text(each, limit) for each in value)
    text = "none" if value is None or value == "" else one_line(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def describe(found: Diff) -> list[str]:
    """Return a diff as lines of text: first what differs beside time, then each row's stages."""
    lines = [f"differs: {text}" for text in found.differences]
    for row in found.rows:
        title = row.first if row.first == row.second else f"{row.first} -> {row.second}"
        lines += ["", one_line(title)]
        lines += [f"  differs: {text}" for text in row.differences]
        lines += [f"  {_line(stage)}" for stage in row.stages] or ["  no times that both have"]
    lines += [f"only in the first: {one_line(name)}" for name in found.only_first]
    lines += [f"only in the second: {one_line(name)}" for name in found.only_second]
    lines += [] if found.rows else [f"{_NO_PAIR}: nothing was compared"]
    return lines[1:] if lines[:1] == [""] else lines


def _some(names: Sequence[str]) -> str:
    """Return up to three names on one line, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ("; ".join(one_line(name) for name in names[:3]) or "none") + more


def _line(stage: StageDiff) -> str:
    figures = "" if stage.ratio is None else f"x{significant(stage.ratio)}"
    if stage.low is not None and stage.high is not None and stage.confidence is not None:
        figures += f" ({significant(stage.low)} to {significant(stage.high)}, {100 * stage.confidence:.3g}%)"
    times = f"{duration(stage.first)} -> {duration(stage.second)}"
    return f"{stage.kind} {stage.stage:<12} {times:<22} {figures:<30} {stage.verdict}".rstrip()
