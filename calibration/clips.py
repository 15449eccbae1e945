"""Which clips are made to measure quality, and how long that takes: told before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..bundle.reader import Bundle
from ..core.errors import EngineError, MissingExtraError, UsageError
from ..engines import get_engine
from ..engines.costs.peaks import product_peak
from ..runtime.memory.work import count_runs, count_work
from ..runtime.request import OpenRequest, Request

_MEASURED = 0.5
"""Seconds that measuring the machine may take, about."""
_SHARE = 0.6
"""Of the speed of large products that graphs reach, about: what else they do, and small products, are not counted."""
_EACH_RUN = 0.003
"""Seconds that a run of a graph takes beside its products."""
_MOST_CLIPS = 100_000
_LONG = 600
"""Seconds from which on a user may want to ask for less."""


@dataclass(frozen=True)
class ClipSettings:
    """How clips are made; None leaves it to the bundle. See OpenRequest."""

    steps: int | None = None
    size: tuple[int, int] | None = None
    frames: int | None = None
    recipe: str | None = None
    guidance: float | None = None
    decoder: str | None = None

    def given(self) -> dict[str, Any]:
        """Return what Reel.generate takes."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def option(self) -> str | None:
        """Return one of the options that were given, as the command line has it; None where none was."""
        return next((f"--{name}" for name in self.given()), None)

    def complete(self, bundle: Bundle) -> Request:
        """Return a clip's request. Raises UsageError, GeometryError for what the bundle's model cannot do."""
        return OpenRequest("", **self.given()).complete(bundle.manifest)


def check_count(prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Raise UsageError where there is no clip of these to make, or more than anyone can wait for."""
    count = len(prompts) * len(seeds)
    if not count:
        raise UsageError("there is nothing to compare: give at least one prompt and one seed")
    if count > _MOST_CLIPS:
        raise UsageError(f"{count} clips are too many: give fewer prompts or --seeds, {_MOST_CLIPS} clips at most")


def estimate_in_words(
    bundles: Sequence[Bundle],
    clips: int,
    settings: ClipSettings,
    engine: str = "cpu",
    threads: int | None = None,
    trials: int = 0,
) -> str:
    """Return which clips will be made by each of these bundles, and how long that takes.

    trials: how often at most the first bundle makes all of the clips once more.
    """
    request = settings.complete(bundles[0])
    each = f"{request.width}x{request.height}, {request.frames} frames, {request.steps} step{'s' * (request.steps > 1)}"
    times = f"up to {len(bundles) + trials}" if trials else str(len(bundles))
    made = f"{clips} clip{'s' * (clips > 1)} of {each}, made {times} times"
    try:
        seconds = estimate_seconds(bundles, clips, settings, engine, threads, trials)
    except (EngineError, MissingExtraError) as error:
        return f"{made}: how long that takes cannot be told: {error}"
    less = "; fewer --prompts, --steps or --frames, or a smaller --size, take less" if seconds > _LONG else ""
    return f"{made}: {'at most ' if trials else ''}about {in_words(seconds)} on this machine{less}"


def estimate_seconds(
    bundles: Sequence[Bundle], clips: int, settings: ClipSettings, engine: str, threads: int | None, trials: int = 0
) -> float:
    """Return how long making the clips takes, from the arithmetic of the graphs and the speed of this machine.

    The speed is measured, for half a second, by products that the engine runs. Raises EngineError, MissingExtraError without
    onnx.
    """
    speed = _SHARE * product_peak(get_engine(engine), threads, "float32", _MEASURED)
    each = [_seconds(bundle, settings.complete(bundle), speed) for bundle in bundles]
    return clips * (sum(each) + trials * each[0])


def in_words(seconds: float) -> str:
    """Return a time for people, with no more digits than an estimate has."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _seconds(bundle: Bundle, request: Request, speed: float) -> float:
    """Return the seconds of one clip."""
    flops = sum(part.flops for part in count_work(bundle, request).values())
    return flops / speed + _EACH_RUN * sum(count_runs(bundle.manifest, request).values())
