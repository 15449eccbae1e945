"""A film's pictures, one after the other: clips as they decode, cards, and what lies between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.files import whole_file
from ...media.cards import draw_card
from ...media.lettering import Lettering
from ...media.transitions import dissolve, faded
from ...runtime.clip import file_metadata
from ...runtime.decoding.frame_check import FrameCheck
from ...runtime.pictures.fit import fit_picture
from ...runtime.video.png import encode_png
from .plan import FilmPlan, PlannedScene
from .scenes import SceneMaker

Picture = NDArray[np.uint8]


def write_still(path: Path, picture: Picture, title: str | None = None) -> None:
    """Write a picture, uint8 [H, W, 3], as a PNG file that says what made it. Raises OutputError."""
    with whole_file(path) as temporary:
        temporary.write_bytes(encode_png(picture, file_metadata(title, {"ai_generated": True})))


def film_pictures(plan: FilmPlan, maker: SceneMaker, lettering: Lettering | None) -> Iterator[Picture]:
    """Yield the film's pictures, uint8 [H, W, 3]; no more are held than a dissolve lasts. Raises what decoding raises."""
    tail: list[Picture] = []
    for index, (scene, pictures) in enumerate(_by_scene(plan, maker, lettering)):
        following = plan.scenes[index + 1] if index + 1 < len(plan.scenes) else None
        first, last = _fades(scene, following, index == 0)
        if first or last:
            pictures = faded(pictures, scene.pictures, first, last)
        held = following.blend if following is not None and following.transition == "dissolve" else 0
        shown = scene.pictures - held
        if scene.transition == "dissolve":
            yield from dissolve(tail, pictures)
            shown -= scene.blend
        for _ in range(shown):
            yield next(pictures)
        tail = [next(pictures) for _ in range(held)]
        next(pictures, None)  # so that what is at the end of a scene is done: its check


def _fades(scene: PlannedScene, following: PlannedScene | None, is_first: bool) -> tuple[int, int]:
    """Return how many pictures come out of black at the beginning of a scene, and go into it at its end."""
    first = last = 0
    if scene.transition == "fade":
        first = scene.blend if is_first else scene.blend - scene.blend // 2
    if following is not None and following.transition == "fade":
        last = following.blend // 2
    return first, last


def _by_scene(
    plan: FilmPlan, maker: SceneMaker, lettering: Lettering | None
) -> Iterator[tuple[PlannedScene, Iterator[Picture]]]:
    """Yield each scene with its pictures; those of one must all be taken before the next one's are asked for."""
    for run in maker.runs():
        scenes = [plan.scenes[index] for index in run]
        if (card := scenes[0].card) is not None:
            assert lettering is not None
            drawn = draw_card(card, *plan.size.shown, lettering)
            yield scenes[0], iter([drawn] * scenes[0].pictures)
            continue
        pictures = maker.pictures(run)
        for scene in scenes:
            yield scene, _clip(plan, scene, pictures)


def _clip(plan: FilmPlan, scene: PlannedScene, pictures: Iterator[Picture]) -> Iterator[Picture]:
    check = FrameCheck()
    for _ in range(scene.pictures):
        picture = next(pictures)
        check.add(picture)
        yield fit_picture(picture, *plan.size.shown, plan.fit)
    check.finish()
