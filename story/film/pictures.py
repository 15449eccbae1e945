"""A film's pictures, one after the other: clips as they decode, cards, and what lies between them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
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


def film_pictures(
    plan: FilmPlan, maker: SceneMaker, lettering: Lettering | None, begin: int = 0, before: Picture | None = None
) -> Generator[Picture, None, None]:
    """Yield the film's pictures, uint8 [H, W, 3]; no more are held than a dissolve lasts. Raises what decoding raises.

    begin: the scene to begin with. before: the picture that has stood still until then, which becomes that scene as the story
    says; None for none.
    """
    opening, tail = plan.scenes[begin], list[Picture]()
    if before is not None and opening.transition == "dissolve":
        tail = [before] * opening.blend
    elif before is not None and (dark := darkening(opening)):
        yield from faded(iter([before] * dark), dark, 0, dark)
    for index, (scene, pictures) in enumerate(_by_scene(plan, maker, lettering, begin), start=begin):
        following = plan.scenes[index + 1] if index + 1 < len(plan.scenes) else None
        first, last = _fades(scene, following, index == begin and before is None)
        if first or last:
            pictures = faded(pictures, scene.pictures, first, last)
        held = following.blend if following is not None and following.transition == "dissolve" else 0
        shown = scene.pictures - held
        if scene.transition == "dissolve":
            yield from dissolve(tail, pictures)
            shown -= len(tail)
        for _ in range(shown):
            yield next(pictures)
        tail = [next(pictures) for _ in range(held)]
        next(pictures, None)  # so that what is at the end of a scene is done: its check


def darkening(scene: PlannedScene) -> int:
    """Return how many pictures of what comes before a scene go into black."""
    return scene.blend // 2 if scene.transition == "fade" else 0


def _fades(scene: PlannedScene, following: PlannedScene | None, is_first: bool) -> tuple[int, int]:
    """Return how many pictures come out of black at the beginning of a scene, and go into it at its end."""
    first = last = 0
    if scene.transition == "fade":
        first = scene.blend if is_first else scene.blend - darkening(scene)
    if following is not None:
        last = darkening(following)
    return first, last


def _by_scene(
    plan: FilmPlan, maker: SceneMaker, lettering: Lettering | None, begin: int
) -> Iterator[tuple[PlannedScene, Iterator[Picture]]]:
    """Yield each scene from `begin` on with its pictures; those of one must all be taken before the next one's are asked for."""
    for run in maker.runs():
        if run[-1] < begin:
            continue
        scenes = [plan.scenes[index] for index in run]
        if (card := scenes[0].card) is not None:
            assert lettering is not None
            drawn = draw_card(card, *plan.size.shown, lettering)
            yield scenes[0], iter([drawn] * scenes[0].pictures)
            continue
        pictures = maker.pictures(run)
        for index, scene in zip(run, scenes, strict=True):
            if index < begin:
                for _ in range(scene.pictures):
                    next(pictures)
                continue
            yield scene, _clip(plan, scene, pictures)


def _clip(plan: FilmPlan, scene: PlannedScene, pictures: Iterator[Picture]) -> Iterator[Picture]:
    check = FrameCheck()
    for _ in range(scene.pictures):
        picture = next(pictures)
        check.add(picture)
        yield fit_picture(picture, *plan.size.shown, plan.fit)
    check.finish()
