"""Sampling a film's scenes, each kept as it is made, and finding them again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ...bundle.geometry import clip_size, token_count
from ...core.errors import EngineError
from ...core.progress import Progress, report_progress
from ...runtime.clip import Video
from ...runtime.continuation import continue_video
from ...runtime.decoding.frame_check import FrameCheck
from ...runtime.reel import Reel
from .picture_cache import PictureCache, picture_key
from .plan import FilmPlan, PlannedScene
from .store import Store

Picture = NDArray[np.uint8]


class SceneMaker:
    """Makes the clips of a film's scenes, or takes them from the store.

    made: the names of those that it sampled. cache: of their pictures. decoded: how many pictures had to be decoded.
    """

    def __init__(
        self,
        plan: FilmPlan,
        reel: Reel,
        store: Store,
        *,
        private: bool = False,
        cache: PictureCache | None = None,
    ) -> None:
        self.made: list[str] = []
        self.decoded = 0
        self._cache = PictureCache() if cache is None else cache
        self._plan, self._reel, self._store, self._private = plan, reel, store, private

    def make_all(self, on_progress: Progress | None, on_made: Callable[[PlannedScene], object] | None = None) -> None:
        """Sample what is not there yet, in the film's order. Raises EngineError, OutputError, Cancelled."""
        total = len(self._plan.scenes)
        for index, scene in enumerate(self._plan.scenes):
            report_progress(on_progress, "scenes", index, total)
            if scene.key is not None and scene.key not in self._store:
                self._make(scene, on_progress)
                if on_made is not None:
                    on_made(scene)
        report_progress(on_progress, "scenes", total, total)

    def is_made(self, index: int) -> bool:
        """Tell whether a scene need not be sampled: it was, or is a card."""
        key = self._plan.scenes[index].key
        return key is None or key in self._store

    def made_video(self, index: int, on_progress: Progress | None) -> Video:
        """Return the clip of one scene, sampled if need be, and what it goes on from too."""
        scene = self._plan.scenes[index]
        if scene.origin is not None:
            self.made_video(scene.origin, on_progress)
        if scene.key is not None and scene.key not in self._store:
            self._make(scene, on_progress)
        return self.video(index)

    def video(self, index: int) -> Video:
        """Return the clip of a scene, which goes on from all that it is joined to."""
        scene = self._plan.scenes[index]
        assert scene.request is not None
        kept = self._kept(scene)
        pieces = [kept.latents]
        at = scene
        while at.joined and at.origin is not None:
            at = self._plan.scenes[at.origin]
            pieces.insert(0, self._kept(at).latents)
        if len(pieces) == 1:
            return self._reel.video(scene.request, kept.latents, kept.noise)
        return self._reel.video(scene.request, np.concatenate(pieces, axis=2), None)

    def runs(self) -> Iterator[list[int]]:
        """Yield the film's scenes, those together that are decoded as one."""
        run: list[int] = []
        for index, scene in enumerate(self._plan.scenes):
            if run and scene.joined and scene.origin == index - 1:
                run.append(index)
                continue
            if run:
                yield run
            run = [index]
        yield run

    def pictures(self, run: list[int], first: int = 0) -> Iterator[Picture]:
        """Yield the pictures of scenes that are decoded as one, from one of them on, in the size that the model makes.

        Raises EngineError where a scene shows nothing, and what decoding raises.
        """
        scenes = [self._plan.scenes[index] for index in run]
        keys = [picture_key(scene.key or "", self._decoder(scene), self._reel.threads) for scene in scenes]
        skipped = [
            max(0, min(first - before, scene.pictures)) for scene, before in zip(scenes, _before(scenes), strict=True)
        ]
        kept = [
            self._cache.read(key, scene.pictures, skip) for key, scene, skip in zip(keys, scenes, skipped, strict=True)
        ]
        if all(each is not None for each in kept):
            for each, scene, skip in zip(kept, scenes, skipped, strict=True):
                if skip < scene.pictures:
                    yield from each or ()
            return
        decoded, number = self._decode(run), 0
        for key, scene in zip(keys, scenes, strict=True):
            for picture in self._cache.keeping(key, _checked(decoded, scene.pictures), scene.pictures):
                self.decoded += 1
                if number >= first:
                    yield picture
                number += 1

    def _decode(self, run: list[int]) -> Iterator[Picture]:
        first, last = self._plan.scenes[run[0]], self._plan.scenes[run[-1]]
        assert first.request is not None
        assert last.request is not None
        video = self.video(run[-1])
        video.request = replace(last.request, overlap=first.request.overlap)
        yield from video

    def _decoder(self, scene: PlannedScene) -> str | None:
        return None if scene.request is None else scene.request.decoder

    def _kept(self, scene: PlannedScene) -> Video:
        assert scene.key is not None
        video = self._store.get(scene.key, self._reel)
        if video is None:  # somebody took it away, or it is damaged
            self._make(scene, None)
            video = self._store.get(scene.key, self._reel)
        if video is None:
            raise EngineError(f"the latents of scene {scene.name} cannot be read again from {self._store.folder}")
        return video

    def _make(self, scene: PlannedScene, on_progress: Progress | None) -> None:
        """Sample one scene and keep it: of a film that goes on, the new part."""
        assert scene.asked is not None
        assert scene.request is not None
        assert scene.key is not None
        reel, geometry = self._reel, self._reel.bundle.manifest.latent
        started = time.perf_counter()
        if scene.origin is None:
            video = reel.make(scene.asked, on_progress)
        else:
            video = continue_video(reel, self.video(scene.origin), scene.asked, scene.seconds, on_progress)
        seconds = time.perf_counter() - started
        work = token_count(geometry, video.latents.shape) * scene.request.steps
        if scene.joined:
            before = self._plan.scenes[scene.origin or 0].request
            assert before is not None
            new = video.latents[:, :, 1 + (before.frames - 1) // geometry.temporal_scale :]
            work = token_count(geometry, new.shape) * scene.request.steps
            piece = replace(scene.request, frames=clip_size(geometry, new.shape)[2], overlap=0)
            video = reel.video(piece, np.ascontiguousarray(new), None)
        record = {"name": scene.name, "seconds": round(seconds, 4), "work": work, "settings": scene.request.settings()}
        if self._private:
            record["settings"] = {
                key: value for key, value in scene.request.settings().items() if not key.endswith("prompt")
            }
        self._store.put(scene.key, video, reel, record, private=self._private)
        self.made.append(scene.name)


def _checked(pictures: Iterator[Picture], count: int) -> Iterator[Picture]:
    """Yield a scene's pictures, the last one when it is known that they show something. Raises EngineError."""
    check = FrameCheck()
    for number in range(1, count + 1):
        picture = next(pictures)
        check.add(picture)
        if number == count:
            check.finish()
        yield picture


def _before(scenes: list[PlannedScene]) -> list[int]:
    """Return for each scene how many pictures the ones before it have."""
    return list(accumulate((scene.pictures for scene in scenes[:-1]), initial=0))
