"""A film's pictures, one after the other: clips as they decode, cards, and what lies between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.files import whole_file
from ...media.captions import Caption, burned, shown_on
from ...media.cards import draw_card
from ...media.lettering import Lettering
from ...media.transitions import dissolve, faded
from ...runtime.clip import file_metadata
from ...runtime.pictures.fit import fit_picture
from ...runtime.video.png import encode_png
from .plan import FilmPlan
from .scenes import SceneMaker

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Stretch:
    """Pictures of a film from one scene, or where it dissolves from the one before.

    scene: by its place in the film. start, count: which pictures of the film. dissolves: they are of both.
    """

    scene: int
    start: int
    count: int
    dissolves: bool = False


def film_stretches(plan: FilmPlan) -> list[Stretch]:
    """Return a film's stretches, one after the other."""
    stretches = []
    ends = [scene.start for scene in plan.scenes[1:]] + [plan.pictures]
    for index, (scene, end) in enumerate(zip(plan.scenes, ends, strict=True)):
        body = scene.start
        if scene.transition == "dissolve":
            stretches.append(Stretch(index, scene.start, scene.blend, dissolves=True))
            body += scene.blend
        stretches.append(Stretch(index, body, end - body))
    return stretches


def scene_fades(plan: FilmPlan, index: int) -> tuple[int, int]:
    """Return how many pictures come out of black at the beginning of a scene, and go into it at its end."""
    scene, first, last = plan.scenes[index], 0, 0
    following = plan.scenes[index + 1] if index + 1 < len(plan.scenes) else None
    if scene.transition == "fade":
        first = scene.blend if index == 0 else scene.blend - scene.blend // 2
    if following is not None and following.transition == "fade":
        last = following.blend // 2
    return first, last


def write_still(path: Path, picture: Picture, title: str | None = None) -> None:
    """Write a picture, uint8 [H, W, 3], as a PNG file that says what made it. Raises OutputError."""
    with whole_file(path) as temporary:
        temporary.write_bytes(encode_png(picture, file_metadata(title, {"ai_generated": True})))


class FilmPictures:
    """The pictures of a film, uint8 [H, W, 3]; no more are held than a dissolve lasts.

    captions: those that are drawn into them, None where none are.
    """

    def __init__(
        self,
        plan: FilmPlan,
        maker: SceneMaker,
        lettering: Lettering | None,
        captions: Sequence[Caption] | None = None,
    ) -> None:
        self._plan, self._maker, self._lettering, self._captions = plan, maker, lettering, captions
        self._places = {index: (run, at) for run in maker.runs() for index, at in _starts(plan, run)}
        self._run: list[int] = []
        self._pictures: Iterator[Picture] = iter(())
        self._at = 0

    def all(self) -> Iterator[Picture]:
        """Yield all of them. Raises what decoding raises."""
        return self.of(film_stretches(self._plan))

    def of(self, stretches: Sequence[Stretch]) -> Iterator[Picture]:
        """Yield those of stretches that follow one another. Those of a scene are best taken in order: others begin it again."""
        pictures = (picture for stretch in stretches for picture in self._stretch(stretch))
        if self._captions is None or self._lettering is None:
            return pictures
        count = sum(stretch.count for stretch in stretches)
        shown = shown_on(self._captions, Fraction(self._plan.fps), stretches[0].start, count)
        return burned(pictures, shown, self._lettering)

    def _stretch(self, stretch: Stretch) -> Iterator[Picture]:
        scene = self._plan.scenes[stretch.scene]
        if not stretch.dissolves:
            return self._scene(stretch.scene, stretch.start - scene.start, stretch.count)
        before = self._plan.scenes[stretch.scene - 1].pictures
        tail = list(self._scene(stretch.scene - 1, before - stretch.count, stretch.count))
        return dissolve(tail, self._scene(stretch.scene, 0, stretch.count))

    def _scene(self, index: int, first: int, count: int) -> Iterator[Picture]:
        """Yield some of a scene's pictures, in the film's size, darker where it comes out of black or goes into it."""
        plan, scene = self._plan, self._plan.scenes[index]
        if scene.card is not None:
            assert self._lettering is not None
            pictures = iter([draw_card(scene.card, *plan.size.shown, self._lettering)] * count)
        else:
            pictures = (fit_picture(each, *plan.size.shown, plan.fit) for each in self._clip(index, first, count))
        light, dark = scene_fades(plan, index)
        return faded(pictures, scene.pictures, light, dark, first) if light or dark else pictures

    def _clip(self, index: int, first: int, count: int) -> Iterator[Picture]:
        run, start = self._places[index]
        at = start + first
        if run is not self._run or at < self._at:
            self._run, self._at, self._pictures = run, at, self._maker.pictures(run, at)
        while self._at < at:
            next(self._pictures)
            self._at += 1
        for _ in range(count):
            self._at += 1
            yield next(self._pictures)


def _starts(plan: FilmPlan, run: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield each scene of a run with the number of pictures before it there."""
    at = 0
    for index in run:
        yield index, at
        at += plan.scenes[index].pictures
