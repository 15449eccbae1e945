"""A stream for minutes: how fast pictures come, how long another prompt takes to be seen, and whether memory grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import Cancelled, UsageError, require_packages
from ...core.progress import Progress, report_progress
from ...runtime.clip import file_metadata
from ...runtime.reel import Reel, load
from ...runtime.streaming import Stream
from ...runtime.video.output import Output
from ..records.record import MEGABYTE, Trend
from ..scores import default_prompts
from .soak import trend

LONGEST = 24 * 3600
FEWEST_SAMPLES = 16
"""Readings of memory from which on a trend can be told."""
_READ_EVERY = 2.0
_SKIPPED = 0.1
"""Of the time, at the beginning, that the memory's trend leaves out."""


@dataclass
class LiveFigures:
    """What was seen of a stream.

    seconds: how long it was watched. pictures_per_second: over all of it; by_quarter: of each quarter of the time.
    first_picture_seconds: from the asking for it. switch_seconds: from each change of the prompt to its first picture.
    sampled, decoded, waited: seconds of sampling, of decoding, and of pictures waiting for the sampler; overlapped: of work that
    was done while other work was. memory_trend: MB a reading, every two seconds; resident_bytes: those readings.
    """

    bundle: str
    engine: dict[str, Any]
    size: tuple[int, int]
    seconds: float
    pictures: int
    pictures_per_second: float
    by_quarter: list[float]
    first_picture_seconds: float
    switch_seconds: list[float]
    sampled: float
    decoded: float
    waited: float
    overlapped: float
    resident_bytes: list[int]
    memory_trend: Trend | None
    partial: bool = False
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        found = asdict(self)
        found["memory_trend"] = None if self.memory_trend is None else self.memory_trend.model_dump(mode="json")
        found["switch_median"] = median(self.switch_seconds) if self.switch_seconds else None
        return found


def run_live(
    bundle: Path | None = None,
    engine: str = "auto",
    *,
    seconds: float = 60,
    every: float = 20,
    prompts: Sequence[str] | None = None,
    size: tuple[int, int] | str | None = None,
    steps: int | None = None,
    decoder: str | None = None,
    output: Path | None = None,
    threads: int | None = None,
    memory: str | None = None,
    on_progress: Progress | None = None,
) -> LiveFigures:
    """Watch a stream for so many seconds of the clock, its prompt changed `every` so often, and return what was seen.

    prompts: used in turn; None is captions of the built-in model's. size, steps, decoder: see Reel.stream. output: where
    the film is kept, None for nowhere. on_progress: the stage `live`, in seconds; where it answers False the figures are of
    the time until then.

    Raises UsageError where the bundle makes no streams, PromptError for a prompt that it cannot take, MissingExtraError
    without psutil, OutputError.
    """
    require_packages(("psutil",), "bench", "watching a stream")
    if not 1 <= seconds <= LONGEST or not 0 < every <= seconds:
        raise UsageError(f"--seconds is 1 to {LONGEST}, and --every above 0 and no more than that")
    texts = list(prompts) if prompts is not None else default_prompts(64)
    checked = None if output is None else Output.check(output)
    with load(bundle, engine, threads, on_progress, memory=memory) as reel:
        for text in texts:
            reel.check_prompt(text)
        started = time.perf_counter()
        with reel.stream(texts[0], size=size, steps=steps, decoder=decoder) as stream:
            watch = _Watch(reel, stream, texts, seconds, every, started, on_progress)
            if checked is None:
                for _ in watch.pictures():
                    pass
            else:
                written = checked.at(stream.request.fps)
                written.write(watch.pictures(), file_metadata(None, stream.settings(private=True)))
            return watch.figures()


class _Watch:
    """One stream that is being watched."""

    def __init__(
        self,
        reel: Reel,
        stream: Stream,
        prompts: Sequence[str],
        seconds: float,
        every: float,
        started: float,
        on_progress: Progress | None,
    ) -> None:
        import psutil

        self._reel, self._stream, self._prompts, self._on_progress = reel, stream, prompts, on_progress
        self._seconds, self._every, self._started = seconds, every, started
        self._process = psutil.Process()
        self._times: list[float] = []
        self._switches: list[float] = []
        self._resident: list[int] = []
        self._first = 0.0
        self._partial = False

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures until the time is over, and note what they tell."""
        begun = change_at = read_at = 0.0
        told, changes = self._stream.switch_seconds, 0
        for picture in self._stream:
            now = time.perf_counter()
            if not self._times:
                begun, self._first = now, now - self._started
                self._before = dict(self._reel.timings)
                change_at, read_at = now + self._every, now
            self._times.append(now - begun)
            if self._stream.switch_seconds != told:
                told = self._stream.switch_seconds
                self._switches.append(told or 0.0)
            if now >= change_at:
                changes += 1
                self._stream.prompt = self._prompts[changes % len(self._prompts)]
                change_at += self._every
            if now >= read_at:
                self._resident.append(int(self._process.memory_info().rss))
                read_at += _READ_EVERY
                try:
                    done = min(int(now - begun), int(self._seconds))
                    report_progress(self._on_progress, "live", done, int(self._seconds))
                except Cancelled:
                    self._partial = True
                    return
            yield picture
            if now - begun >= self._seconds:
                return

    def figures(self) -> LiveFigures:
        """Return what was seen."""
        stream, whole = self._stream, max(self._times[-1], 1e-9)
        decoded = self._reel.timings.get("decode", 0.0) - self._before.get("decode", 0.0)
        quarters = np.histogram(self._times[1:], bins=4, range=(0, whole))[0]
        steady = self._resident[int(len(self._resident) * _SKIPPED) :]
        told = len(steady) >= FEWEST_SAMPLES
        return LiveFigures(
            bundle=self._reel.bundle.manifest.digest,
            engine=self._reel.facts(),
            size=(stream.request.width, stream.request.height),
            seconds=whole,
            pictures=len(self._times),
            pictures_per_second=(len(self._times) - 1) / whole,
            by_quarter=[float(count) * 4 / whole for count in quarters],
            first_picture_seconds=self._first,
            switch_seconds=self._switches,
            sampled=stream.sampled_seconds,
            decoded=decoded,
            waited=stream.waited_seconds,
            overlapped=max(0.0, stream.sampled_seconds - stream.waited_seconds),
            resident_bytes=self._resident,
            memory_trend=trend([count / MEGABYTE for count in steady]) if told else None,
            partial=self._partial,
            notes=[] if told else ["too short for a trend of memory"],
        )


def live_markdown(found: LiveFigures) -> str:
    """Return the figures as Markdown, for a terminal."""
    switches = found.switch_seconds
    quarters = ", ".join(f"{rate:.3g}" for rate in found.by_quarter)
    rows = [
        ("pictures", f"{found.pictures} of {found.size[0]}x{found.size[1]} in {found.seconds:.1f} s"),
        ("pictures a second", f"{found.pictures_per_second:.3g} (by quarter of the time: {quarters})"),
        ("first picture", f"{found.first_picture_seconds:.3g} s after the asking"),
        (
            "another prompt",
            f"seen after {median(switches):.3g} s, at most {max(switches):.3g} s, of {len(switches)}"
            if switches
            else "none",
        ),
        ("sampling", f"{found.sampled:.3g} s, {found.overlapped:.3g} s of it while pictures were decoded and taken"),
        ("decoding", f"{found.decoded:.3g} s"),
    ]
    if found.memory_trend is not None:
        per_minute = [value * 60 / _READ_EVERY for value in _interval(found.memory_trend)]
        rows.append(("memory", "{:.3g} MB a minute more ({:.3g} to {:.3g})".format(*per_minute)))
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["| live | |", "|---|---|", *lines, *(f"\n{note}" for note in found.notes)])


def _interval(found: Trend) -> tuple[float, float, float]:
    return found.per_clip, found.low, found.high
