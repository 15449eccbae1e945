"""What somebody is shown from one choice to the next, made ahead: pictures as JPEG files, and what is said beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.progress import Progress
from ...runtime.reel import Reel
from ...runtime.video.jpeg import jpeg_bytes
from ..film.scenes import SceneMaker
from ..film.store import Store
from .cues import way_cues
from .pictures import way_pictures
from .show import Show, Way

Picture = NDArray[np.uint8]


class Shot(NamedTuple):
    """One picture. cues: what changes with it, see way_cues; None for nothing."""

    jpeg: bytes
    cues: dict[str, Any] | None


class Limit(NamedTuple):
    """How much of a tape may lie ready: bytes, and seconds."""

    bytes: int
    seconds: float


LOW, ENOUGH = 5.0, 20.0
"""Seconds that lie ready: with less than the first, what is shown comes before all else, until there is the second."""
SHOWN, AHEAD = Limit(16 * 2**20, 60.0), Limit(2 * 2**20, 20.0)
"""Of what is shown, and of what may be chosen next: a visitor's pictures take 34 MiB of memory at most."""


class Tape:
    """Made piece by piece in the one thread that has the reel, and taken from there or from another under the player's lock.

    shots: what lies ready. ended: there is no more to be made. failure: why no more can be. last: its newest picture.
    scenes: how many of its scenes lie ready whole. is_free: whether it need not wait for the end of what is shown before it.
    is_short: whether so little of it lies ready that nothing else may be made.
    """

    def __init__(self, show: Show, choices: Sequence[int], before: Tape | None = None) -> None:
        """before: what is shown until the last of the choices, None for a tape that begins by itself."""
        self.show, self.choices, self.before = show, tuple(choices), before
        self.shots: deque[Shot] = deque()
        self.way: Way | None = None
        self.ended, self.is_free, self.dropped = False, before is None, False
        self.failure: str | None = None
        self.last: Picture | None = None
        self.scenes, self.is_short = 0, True
        self._bytes, self._made = 0, 0
        self._maker: SceneMaker | None = None
        self._runs: list[list[int]] = []
        self._ends: list[int] = []
        self._pictures: Generator[Picture, None, None] | None = None
        self._cues: dict[int, dict[str, Any]] = {}

    def wants(self, limit: Limit) -> bool:
        """Tell whether a piece is missing that can be made now."""
        if self.ended or self.failure is not None or self.dropped or self._bytes >= limit.bytes:
            return False
        if self.way is None:
            return True
        if self._seconds() >= limit.seconds:
            return False
        return self._missing() is not None or self._may_begin()

    def take(self) -> Shot:
        """Return the next picture. Raises IndexError where none lies ready."""
        shot = self.shots.popleft()
        self._bytes -= len(shot.jpeg)
        self.is_short = self.is_short or self._seconds() < LOW
        return shot

    def put(self, shot: Shot) -> None:
        """Lay a picture ready."""
        self.shots.append(shot)
        self._bytes += len(shot.jpeg)
        self.is_short = self.is_short and self._seconds() < ENOUGH

    def work(self, reel: Reel, store: Store, private: bool, on_progress: Progress) -> Shot | None:
        """Make the next piece, and return it if it is a picture. Raises EngineError, SourceError, Cancelled."""
        if self.way is None:
            self._plan(reel, store, private)
            return None
        assert self._maker is not None
        if (missing := self._missing()) is not None:
            self._maker.made_video(missing, on_progress)
            return None
        if self._pictures is None:
            held = None if self.before is None else self.before.last
            self.before = None
            self._cues = way_cues(self.show, self.way, held is not None)
            self._pictures = way_pictures(self.way.plan, self._maker, self.show.lettering, self.way.begin, held)
        picture = next(self._pictures, None)
        if picture is None:
            self.ended = True
            return None
        shot = Shot(jpeg_bytes(picture), self._cues.get(self._made))
        self.last = picture
        self._made += 1
        self.scenes = sum(end <= self._made for end in self._ends)
        return shot

    def close(self) -> None:
        """Let go of what is half made; for the thread that has the reel."""
        if self._pictures is not None:
            self._pictures.close()

    def _seconds(self) -> float:
        return 0.0 if self.way is None else len(self.shots) / float(self.way.plan.fps)

    def _plan(self, reel: Reel, store: Store, private: bool) -> None:
        before = None if self.before is None else self.before.way
        way = self.show.way(self.choices) if before is None else before.after(self.choices[-1])
        self._maker = SceneMaker(way.plan, reel, store, private=private)
        self._runs = [run for run in self._maker.runs() if run[-1] >= way.begin]
        first = way.plan.scenes[way.begin].start
        self._ends = [scene.start + scene.pictures - first for scene in way.plan.scenes[way.begin :]]
        self.way = way

    def _missing(self) -> int | None:
        """Return the first scene that the next picture needs and that was not sampled, None where there is none."""
        assert self.way is not None
        assert self._maker is not None
        scenes, begin = self.way.plan.scenes, self.way.begin
        while self._runs and scenes[max(begin, self._runs[0][0])].start - scenes[begin].start <= self._made:
            missing = next((index for index in self._runs[0] if not self._maker.is_made(index)), None)
            if missing is not None:
                return missing
            self._runs.pop(0)
        return None

    def _may_begin(self) -> bool:
        """Tell whether the picture is known that this begins with, where it does not begin with a cut."""
        assert self.way is not None
        is_cut = self.way.plan.scenes[self.way.begin].transition == "cut"
        return self._pictures is not None or self.is_free or is_cut or self.before is None or self.before.ended
