"""The pictures of a film from one of its scenes on, which begins out of a picture that has stood still."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from ...media.cards import draw_card
from ...media.lettering import Lettering
from ...media.transitions import dissolve, faded
from ...runtime.decoding.frame_check import FrameCheck
from ...runtime.pictures.fit import fit_picture
from ..film.plan import FilmPlan, PlannedScene
from ..film.scenes import SceneMaker

Picture = NDArray[np.uint8]


def way_pictures(
    plan: FilmPlan, maker: SceneMaker, lettering: Lettering | None, begin: int, before: Picture | None
) -> Generator[Picture, None, None]:
    """Yield the pictures, uint8 [H, W, 3], of a plan's scenes from `begin` on; no more are held than a dissolve lasts.

    before: the picture that has stood still; it dissolves or darkens into the first scene as the story says. None for none: then
    the first scene begins as a film's does. Raises what decoding raises.
    """
    opening, tail = plan.scenes[begin], list[Picture]()
    if before is not None and opening.transition == "dissolve":
        tail = [before] * opening.blend
    elif before is not None and (dark := darkening(opening)):
        yield from faded(iter([before] * dark), dark, 0, dark)
    for index, pictures in _by_scene(plan, maker, lettering, begin):
        scene = plan.scenes[index]
        following = plan.scenes[index + 1] if index + 1 < len(plan.scenes) else None
        light = scene.blend if scene.transition == "fade" else 0
        if index > begin or before is not None:
            light -= darkening(scene)
        dark = 0 if following is None else darkening(following)
        if light or dark:
            pictures = faded(pictures, scene.pictures, light, dark)
        held = following.blend if following is not None and following.transition == "dissolve" else 0
        yield from dissolve(tail, pictures)
        for _ in range(scene.pictures - held - len(tail)):
            yield next(pictures)
        tail = [next(pictures) for _ in range(held)]
        next(pictures, None)  # so that what is at the end of a scene is done: its check


def darkening(scene: PlannedScene) -> int:
    """Return how many pictures of what comes before a scene go into black."""
    return scene.blend // 2 if scene.transition == "fade" else 0


def _by_scene(
    plan: FilmPlan, maker: SceneMaker, lettering: Lettering | None, begin: int
) -> Iterator[tuple[int, Iterator[Picture]]]:
    """Yield each scene from `begin` on with its pictures, which must all be taken before the next one's are asked for."""
    for run in maker.runs():
        if run[-1] < begin:
            continue
        if (card := plan.scenes[run[0]].card) is not None:
            assert lettering is not None
            yield run[0], iter([draw_card(card, *plan.size.shown, lettering)] * plan.scenes[run[0]].pictures)
            continue
        pictures = maker.pictures(run)
        for index in run:
            if index >= begin:
                yield index, _clip(plan, plan.scenes[index], pictures)
                continue
            for _ in range(plan.scenes[index].pictures):
                next(pictures)


def _clip(plan: FilmPlan, scene: PlannedScene, pictures: Iterator[Picture]) -> Iterator[Picture]:
    check = FrameCheck()
    for _ in range(scene.pictures):
        picture = next(pictures)
        check.add(picture)
        yield fit_picture(picture, *plan.size.shown, plan.fit)
    check.finish()
