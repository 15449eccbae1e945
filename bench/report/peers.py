"""`python -m edgereel.bench.report.peers RECORD`: edgereel and its peers as one short Markdown table."""

from __future__ import annotations

import sys
from pathlib import Path

from ...core.errors import one_line
from ..records.record import STAGES, Record, Row, read_record
from .content import peak_bytes

_NOTHING = "–"
_WARM = tuple(stage for stage in STAGES if stage not in ("start", "open", "build"))


def has_peers(record: Record) -> bool:
    """Tell whether anything but edgereel took part."""
    return any(row.contender != "edgereel" for row in record.rows)


def peer_table(record: Record) -> str:
    """Return a line for each row: process start to MP4 with what comes before the clip, a warm clip by stage, memory, size.

    A row that failed has no time. Times are medians.
    """
    cold = ["process start to MP4, s", "start", "open", "build"]
    warm = ["warm clip, s", *_WARM]
    titles = ["", *cold, *warm, "peak memory, MiB", "installed, MB", "PSNR to edgereel, dB"]
    lines = [_line(titles), "|---|" + "---:|" * (len(titles) - 1)]
    return "\n".join([*lines, *(_line(_cells(row)) for row in record.rows)])


def _cells(row: Row) -> list[str]:
    quality = row.quality
    nearness = (quality.psnr_to_edgereel_db, quality.psnr_to_reference_db, quality.psnr_to_first_db)
    psnr = next((f"{each:.1f}" for each in nearness if each is not None), _NOTHING)
    if row.failures:
        return [f"{row.name}: failed", *[_NOTHING] * 11, psnr]
    times = [
        _NOTHING if timing is None or stage not in timing.stages else f"{timing.stages[stage].median:.3f}"
        for timing, stages in ((row.cold, ("total", "start", "open", "build")), (row.warm, ("total", *_WARM)))
        for stage in stages
    ]
    peak, size = peak_bytes(row), row.installed_bytes
    sizes = [_NOTHING if peak is None else f"{peak / 2**20:.0f}", _NOTHING if size is None else f"{size / 1e6:.0f}"]
    return [row.name, *times, *sizes, psnr]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(peer_table(read_record(Path(sys.argv[1]))))
