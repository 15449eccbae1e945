"""A record as a Markdown table, for a terminal."""

from __future__ import annotations

from ..errors import one_line
from .record import STAGES, Record, Row, Timing
from .statistics import runs_needed

_NOTHING = "–"


def markdown(record: Record) -> str:
    """Return warm clips by stage, cold ones, what they took, and how rows compare, as Markdown."""
    parts = [_times("warm", [(row, row.warm) for row in record.rows if row.warm is not None])]
    parts.append(_times("cold", [(row, row.cold) for row in record.rows if row.cold is not None]))
    parts.append(_others(record.rows))
    parts.append("\n".join(_comparisons(record)))
    parts.append("\n".join(f"- {one_line(row.name)}: {one_line(text)}" for row in record.rows for text in row.failures))
    parts.append("\n".join(_too_few(record)))
    return "\n\n".join(filter(None, parts))


def _times(title: str, rows: list[tuple[Row, Timing]]) -> str:
    if not rows:
        return ""
    stages = [stage for stage in STAGES if any(stage in timing.stages for _, timing in rows)]
    lines = [_line([f"{title}, median seconds", "runs", "total", "95% interval", "p90", *stages, "frames/s"])]
    lines.append("|---|" + "---:|" * (lines[0].count("|") - 2))
    for row, timing in rows:
        total = timing.stages["total"]
        cells = [str(timing.runs), f"{total.median:.3f}", f"{total.median_low:.3f}–{total.median_high:.3f}"]
        cells.append(_NOTHING if total.p90 is None else f"{total.p90:.3f}")
        cells += [f"{timing.stages[stage].median:.3f}" if stage in timing.stages else _NOTHING for stage in stages]
        lines.append(_line([row.name, *cells, f"{timing.frames_per_second:.1f}"]))
    return "\n".join(lines)


def _others(rows: list[Row]) -> str:
    titles = ["what ran", "precision", "peak memory", "energy per clip", "of the machine's limit", "PSNR to first row"]
    lines = [_line(["", *titles]), "|---|" + "---|" * len(titles)]
    for row in rows:
        peaks = [stage.peak_host_bytes for stage in row.stages.values() if stage.peak_host_bytes is not None]
        psnr, joules = row.quality.psnr_to_first_db, row.power.joules_per_clip
        cells = [
            f"{row.engine.version}, {row.engine.threads} threads",
            " and ".join(row.engine.precision) or _NOTHING,
            f"{max(peaks) / 2**20:.0f} MiB" if peaks else "not measured",
            "not measured" if joules is None else f"{joules:.2f} J",
            ", ".join(_fractions(row)) or _NOTHING,
            _NOTHING if psnr is None else f"{psnr:.1f} dB",
        ]
        lines.append(_line([row.name, *cells]))
    return "\n".join(lines) if rows else ""


def _fractions(row: Row) -> list[str]:
    found = []
    for name, stage in row.stages.items():
        fraction = stage.fraction_of_memory if stage.bound == "memory" else stage.fraction_of_compute
        if stage.bound is not None and fraction is not None:
            found.append(f"{name} {100 * fraction:.0f}% ({stage.bound})")
    return found


def _comparisons(record: Record) -> list[str]:
    return [
        f"- {one_line(each.second)}: {each.ratio:.3f} times the {each.stage} time of {one_line(each.first)} "
        f"(99% interval {each.low:.3f} to {each.high:.3f}, {each.rounds} "
        f"{'rounds' if each.in_turns else 'runs, not in turns'}): {each.verdict}"
        for each in record.comparisons
    ]


def _too_few(record: Record) -> list[str]:
    runs = [timing.runs for row in record.rows for timing in (row.warm, row.cold) if timing is not None]
    if not runs or min(runs) >= runs_needed(99):
        return []
    text = f"A 90th percentile needs {runs_needed(90)} runs, a 99th {runs_needed(99)}: with fewer there is none."
    return [text]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"
