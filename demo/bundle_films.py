"""A bundle as something that makes films, through the runtime as its users run it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np

from ..runtime.reel import Reel
from .films import FIRST, pictures_of
from .gauges import Clips


class BundleFilms:
    """A reel with settings, such as `steps` or `decoder`: a FilmMaker. Films of several chunks are streams."""

    def __init__(self, reel: Reel, **settings: Any) -> None:
        self._reel, self._settings = reel, settings

    def films(
        self,
        prompts: Sequence[Sequence[str]],
        seeds: Sequence[int],
        size: tuple[int, int],
        pictures: Clips | None = None,
    ) -> Clips:
        """See FilmMaker."""
        given = repeat(None) if pictures is None else chain(pictures)
        each = zip(zip(*prompts, strict=True), seeds, given, strict=False)
        return np.stack([self._film(texts, seed, size, picture) for texts, seed, picture in each])

    def _film(self, prompts: Sequence[str], seed: int, size: tuple[int, int], picture: Clips | None) -> Clips:
        settings: dict[str, Any] = {**self._settings, "seed": seed, "size": size, "image": picture}
        if len(prompts) == 1:
            return np.stack(list(self._reel.generate(prompts[0], frames=FIRST, **settings)))
        fps = self._reel.bundle.manifest.defaults.fps
        times = [pictures_of(index) / fps for index in range(1, len(prompts))]
        then = [(time, text) for time, text, last in zip(times, prompts[1:], prompts, strict=False) if text != last]
        with self._reel.stream(prompts[0], seconds=pictures_of(len(prompts)) / fps, then=then, **settings) as stream:
            return np.stack(list(stream))
