"""Where a clip's time goes: every moment from asking for it to the finished file belongs to one stage, so that they add up.

Opening is what the reel says it was. Of the rest, what comes before the first denoiser step is `text`, from there until the
latents are whole is `denoise`, inside the decoder is `decode`, and all that is left is `encode`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...core.errors import EngineError
from ...core.progress import Span
from ...runtime.clip import Video
from ...runtime.reel import Reel
from .protocol import OnStage


@dataclass(frozen=True)
class ClipTimes:
    """Seconds of one clip: stages (of record.STAGES) add up to `total`; details: lists by record.DETAILS.

    frame: one value for each latent frame after the first, its seconds by the number of pictures it becomes.
    """

    total: float
    stages: dict[str, float]
    details: dict[str, list[float]]

    def to_json(self) -> dict[str, Any]:
        """Return the times as plain data."""
        return asdict(self)


_CLIP_TIMES = TypeAdapter(ClipTimes)


def times_from_json(data: Any) -> ClipTimes:
    """Return the times that `to_json` gave. Raises EngineError for anything else."""
    try:
        return _CLIP_TIMES.validate_python(data)
    except ValidationError as error:
        raise EngineError("a contender answered with something that is not a clip's times") from error


def make_clip(
    reel: Reel, prompt: str, output: Path, on_stage: OnStage = lambda stage: None, **settings: Any
) -> tuple[Video, ClipTimes]:
    """Make a clip's file with an opened reel and return it with its times; settings: as of Reel.generate.

    Raises what Reel.generate and Video.save do.
    """
    spans: list[Span] = []
    steps: list[float] = []
    before, reports = reel.on_span, reel.report()

    def on_span(span: Span) -> None:
        spans.append(span)
        if span.stage == "decode":
            on_stage("encode")

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage == "denoise":
            steps.append(time.perf_counter())
        if stage == "decode" or done == 0:
            on_stage(stage)

    reel.on_span = on_span
    on_stage("text")
    started = time.perf_counter()
    try:
        video = reel.generate(prompt, **settings, on_progress=on_progress)
        sampled = time.perf_counter()
        on_stage("decode")
        video.save(output, on_progress=on_progress)
        ended = time.perf_counter()
    finally:
        reel.on_span = before
    new = [report for name, report in reel.report().items() if report is not reports.get(name)]
    built = sum(report.build_seconds for report in new if report.build == "built")
    scale = reel.bundle.manifest.latent.temporal_scale
    return video, split_times((started, *steps, sampled, ended), spans, built, len(video), scale)


def split_times(moments: Sequence[float], spans: Iterable[Span], built: float, frames: int, pictures: int) -> ClipTimes:
    """Return a clip's times from what was noted while it was made.

    moments, in seconds of one clock: start, before the first step, after each step, latents whole, end. built: seconds of
    building engines, which happened while graphs were opened. frames: of the clip; pictures: that a latent frame becomes.
    """
    started, steps, sampled, ended = moments[0], moments[1:-2], moments[-2], moments[-1]
    spans = list(spans)
    opened = [(span.start, span.start + span.seconds) for span in spans if span.stage == "open"]
    decoded = [
        span.seconds - _inside(opened, span.start, span.start + span.seconds)
        for span in spans
        if span.stage == "decode"
    ]
    opening = _inside(opened, started, ended)
    build = min(built, opening)
    text = steps[0] - started - _inside(opened, started, steps[0])
    denoise = sampled - steps[0] - _inside(opened, steps[0], sampled)
    decode = sum(decoded)
    encode = max(0.0, ended - started - opening - text - denoise - decode)
    stages = {"open": opening - build, "build": build, "text": text, "denoise": denoise}
    details = {"denoise_step": [end - start - _inside(opened, start, end) for start, end in pairwise(steps)]}
    # The last call finds that there is no frame left; not so where memory ran out in between.
    if len(decoded) == frames + 1:
        groups = [decoded[place : place + pictures] for place in range(1, frames, pictures)]
        details |= {"first_frame": decoded[:1], "frame": [sum(group) / len(group) for group in groups]}
    return ClipTimes(ended - started, {**stages, "decode": decode, "encode": encode}, details)


def _inside(intervals: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """Return how long any of the intervals lasts between start and end; what two of them cover counts once."""
    total, until = 0.0, start
    for low, high in sorted(intervals):
        low, high = max(low, until), min(high, end)
        if high > low:
            total += high - low
            until = high
    return total


def cold_times(outside: float, opening: Mapping[str, float], clip: ClipTimes) -> ClipTimes:
    """Return the times of a clip that a fresh process made.

    outside: seconds from starting the process until the clip was there, taken by who waited for it. opening: seconds by
    stage before the clip was asked for. What neither accounts for is `start`.
    """
    names = dict.fromkeys([*opening, *clip.stages])  # a peer's clips open nothing, its process does
    stages = {name: clip.stages.get(name, 0.0) + opening.get(name, 0.0) for name in names}
    return ClipTimes(outside, {"start": max(0.0, outside - sum(stages.values())), **stages}, clip.details)


_OPENING = ("open", "build")


def without_openings(clips: Sequence[ClipTimes]) -> list[ClipTimes]:
    """Return warm clips' times without the stages `open` and `build` where none of them opened anything."""
    if any(clip.stages.get(stage) for clip in clips for stage in _OPENING):
        return list(clips)
    return [
        replace(clip, stages={stage: clip.stages[stage] for stage in clip.stages if stage not in _OPENING})
        for clip in clips
    ]
