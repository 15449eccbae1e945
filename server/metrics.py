"""What the server measures of itself, as Prometheus reads it: text, base units, counters that only rise."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

from ..jobs.job import Job

_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Histogram:
    """Counts of values up to bounds, their sum and number."""

    def __init__(self) -> None:
        self.counts = [0] * len(_BUCKETS)
        self.sum = 0.0
        self.number = 0

    def add(self, value: float) -> None:
        """Count a value."""
        self.sum += value
        self.number += 1
        for index, bound in enumerate(_BUCKETS):
            if value <= bound:
                self.counts[index] += 1

    def lines(self, name: str, labels: str = "") -> Iterable[str]:
        """Yield it as Prometheus reads it."""
        before = f"{labels}," if labels else ""
        for bound, count in zip(_BUCKETS, self.counts, strict=True):
            yield f'{name}_bucket{{{before}le="{bound:g}"}} {count}'
        yield f'{name}_bucket{{{before}le="+Inf"}} {self.number}'
        around = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{around} {self.sum:.6f}"
        yield f"{name}_count{around} {self.number}"


class Metrics:
    """Counted since the server started."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.waits = Histogram()
        self.stages: dict[str, float] = defaultdict(float)
        self.failures: dict[str, int] = defaultdict(int)
        self.completed = 0
        self.accepted = 0
        self.pictures = 0
        self.video_seconds = 0.0
        self.worker_deaths = 0
        self._accepted_at: dict[str, float] = {}
        self._recent: list[float] = []

    def accept(self, id: str) -> None:
        """Note that a job was taken in."""
        self.accepted += 1
        self._accepted_at[id] = time.monotonic()

    def begin(self, id: str) -> None:
        """Note that a worker begins a job."""
        if (accepted := self._accepted_at.pop(id, None)) is not None:
            self.waits.add(time.monotonic() - accepted)

    def die(self) -> None:
        """Note that a worker ended unasked."""
        self.worker_deaths += 1

    def stage(self, stage: str, seconds: float) -> None:
        """Note what a stage of a finished job took; `total` is all of them."""
        if stage == "total":
            self._recent = [*self._recent[-19:], seconds]
        else:
            self.stages[stage] += seconds

    def end(self, job: Job) -> None:
        """Note what became of a job."""
        self._accepted_at.pop(job.id, None)
        if job.error_code is not None:
            self.failures[job.error_code] += 1
            return
        self.completed += 1
        frames, fps = job.facts.get("num_frames") or 0, job.facts.get("fps") or 0
        self.pictures += frames
        self.video_seconds += frames / fps if fps else 0.0

    def usual_seconds(self) -> float:
        """Return what a job took lately, in the middle; 5 before there was one."""
        return sorted(self._recent)[len(self._recent) // 2] if self._recent else 5.0


def text_of(
    metrics: Metrics, states: dict[str, int], bytes: int, workers: list[tuple[bool, int | None]], own: int
) -> str:
    """Return everything as Prometheus reads it. workers: ready, bytes of memory. own: bytes of this process."""
    lines: list[str] = []

    def add(name: str, kind: str, help: str, values: Iterable[str]) -> None:
        lines.extend([f"# HELP edgereel_{name} {help}", f"# TYPE edgereel_{name} {kind}", *values])

    def one(name: str, kind: str, help: str, value: float) -> None:
        add(
            name, kind, help, [f"edgereel_{name} {value:g}" if isinstance(value, float) else f"edgereel_{name} {value}"]
        )

    one("uptime_seconds", "gauge", "Since the server started.", time.monotonic() - metrics.started)
    add(
        "jobs",
        "gauge",
        "Jobs in the record by state.",
        (f'edgereel_jobs{{state="{k}"}} {v}' for k, v in states.items()),
    )
    one("jobs_accepted_total", "counter", "Jobs that were taken in.", metrics.accepted)
    one("jobs_completed_total", "counter", "Jobs that were completed.", metrics.completed)
    failures = sorted(metrics.failures.items())
    add(
        "jobs_failed_total",
        "counter",
        "Jobs that failed, by code.",
        (f'edgereel_jobs_failed_total{{code="{code}"}} {count}' for code, count in failures),
    )
    add(
        "queue_wait_seconds",
        "histogram",
        "From accepting a job to its beginning.",
        metrics.waits.lines("edgereel_queue_wait_seconds"),
    )
    stages = sorted(metrics.stages.items())
    add(
        "stage_seconds_total",
        "counter",
        "Time of completed jobs by stage.",
        (f'edgereel_stage_seconds_total{{stage="{stage}"}} {seconds:.6f}' for stage, seconds in stages),
    )
    one("pictures_total", "counter", "Pictures of completed jobs.", metrics.pictures)
    one("video_seconds_total", "counter", "Length of completed jobs' clips.", metrics.video_seconds)
    one("video_bytes", "gauge", "Bytes of all jobs' files.", bytes)
    one("workers_ready", "gauge", "Workers that could begin a job.", sum(1 for ready, _ in workers if ready))
    one("worker_deaths_total", "counter", "Workers that ended unasked.", metrics.worker_deaths)
    held = ((number, size) for number, (_, size) in enumerate(workers) if size is not None)
    add(
        "worker_resident_memory_bytes",
        "gauge",
        "Memory of each worker.",
        (f'edgereel_worker_resident_memory_bytes{{worker="{number}"}} {size}' for number, size in held),
    )
    one("process_resident_memory_bytes", "gauge", "Memory of the process that answers.", own)
    return "\n".join(lines) + "\n"
