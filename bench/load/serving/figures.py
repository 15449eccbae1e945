"""What was measured of a server, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...records.record import Trend
from ...stats.statistics import median_interval, runs_needed, tail_percentile
from ...words import duration, memory, plural, significant, span


@dataclass(frozen=True)
class Times:
    """Times of one kind, in seconds: how many, their median with its interval, their upper percentiles, the longest.

    p90, p99: upper estimates by early stopping (see stats/statistics.py); None where there were too few.
    """

    runs: int
    median: float
    low: float
    high: float
    p90: float | None
    p99: float | None
    longest: float

    @staticmethod
    def of(samples: Sequence[float]) -> Times | None:
        """Return what samples come to, None where there are none."""
        if not samples:
            return None
        middle = median_interval(samples)
        p90, p99 = (tail_percentile(samples, percent) for percent in (90, 99))
        return Times(len(samples), middle.value, middle.low, middle.high, p90, p99, max(samples))


@dataclass
class ServeFigures:
    """What a server did under load. Times in seconds, memory in bytes.

    offered: clients that each wait for their job, or jobs a second that come whatever becomes of others. throughput: completed jobs
    a second, from the first request to the last end; pictures_per_second and seconds_per_video_second (of the clock, for a second
    of video) of the same time. post, get: answers while jobs were made. queue_wait: from the job's being accepted to its beginning.
    first_preview: from asking to the first picture of the clip to be. total: from when a job was due to having its file.
    cancel: until a cancel was answered; freed: from the cancel until the next job began in its place. failures: how many by code.
    complete_streams: jobs of whose states the events told each. start, first_clip: of a server that was started for this, from the
    beginning of its process. memory_trend: MB a second of the process that answers. bare: clips a second of a reel in one process
    on this machine, with no server.
    """

    url: str
    model: str
    offered: str
    seconds: float
    asked: int
    completed: int
    failures: dict[str, int]
    throughput: float | None
    pictures_per_second: float | None
    seconds_per_video_second: float | None
    bytes: int
    post: Times | None
    get: Times | None
    queue_wait: Times | None
    first_preview: Times | None
    total: Times | None
    cancel: Times | None
    freed: Times | None
    by_events: bool
    complete_streams: int
    streams_resumed: int
    start_seconds: float | None = None
    first_clip_seconds: float | None = None
    idle_bytes: int | None = None
    peak_bytes: int | None = None
    memory_trend: Trend | None = None
    bare: float | None = None
    partial: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def beside_bare(self) -> float | None:
        """Throughput as a part of the bare reel's."""
        return None if not self.bare or self.throughput is None else self.throughput / self.bare

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        found = asdict(self)
        found["memory_trend"] = None if self.memory_trend is None else self.memory_trend.model_dump(mode="json")
        return {**found, "beside_bare": self.beside_bare}


def serve_markdown(found: ServeFigures) -> str:
    """Return the figures as Markdown, for a terminal: the headline units first."""
    failed = ", ".join(f"{count} {code}" for code, count in sorted(found.failures.items())) or "none"
    rows = [
        ("pictures a second", _figure(found.pictures_per_second)),
        ("seconds per second of video", _figure(found.seconds_per_video_second)),
        ("jobs", f"{found.completed} of {found.asked} completed in {duration(found.seconds)}, {found.offered}"),
        ("jobs a second", _figure(found.throughput)),
        ("failures", failed),
        ("POST", _times(found.post)),
        ("GET", _times(found.get)),
        ("queue wait", _times(found.queue_wait)),
        ("first preview", _times(found.first_preview) if found.by_events else "not told: the server has no events"),
        ("until the file is here", _times(found.total)),
    ]
    if found.cancel is not None:
        rows += [("cancel answered", _times(found.cancel)), ("next job begun after a cancel", _times(found.freed))]
    if found.by_events:
        rows.append(("events", f"every state of {found.complete_streams} jobs; resumed {found.streams_resumed} times"))
    if found.start_seconds is not None:
        rows.append(("start", f"answers after {duration(found.start_seconds)}"))
    if found.first_clip_seconds is not None:
        rows.append(("first clip, cold", duration(found.first_clip_seconds)))
    if found.idle_bytes is not None:
        rows.append(
            (
                "memory of the process that answers",
                f"{memory(found.idle_bytes)} idle, {memory(found.peak_bytes)} at most",
            )
        )
    if found.memory_trend is not None:
        each = [value * 60 for value in (found.memory_trend.per_clip, found.memory_trend.low, found.memory_trend.high)]
        rows.append(("its growth", "{:.3g} MB a minute ({:.3g} to {:.3g})".format(*each)))
    if found.beside_bare is not None:
        rows.append(
            ("beside a bare reel", f"{100 * found.beside_bare:.0f}% of its {_figure(found.bare)} clips a second")
        )
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join([f"| {found.url} | {found.model} |", "|---|---|", *lines, *(f"\n{note}" for note in found.notes)])


def _figure(value: float | None) -> str:
    return "not measured" if value is None else significant(value)


def _times(found: Times | None) -> str:
    if found is None:
        return "not measured"
    tails = [
        f"p{percent} {duration(value)}" for percent, value in ((90, found.p90), (99, found.p99)) if value is not None
    ]
    if found.p99 is None:
        tails.append(f"no p99: that needs {runs_needed(99)}")
    middle = f"p50 {duration(found.median)} ({span(found.low, found.high)})"
    return f"{middle}, {', '.join(tails)}, at most {duration(found.longest)}, of {plural(found.runs, 'time')}"
