"""The pictures of a film from one of its scenes on, which begins out of a picture that has stood still."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from ...media.lettering import Lettering
from ...media.transitions import dissolve, faded
from ..film.pictures import FilmPictures, Stretch, film_stretches
from ..film.plan import FilmPlan, PlannedScene
from ..film.scenes import SceneMaker

Picture = NDArray[np.uint8]


def way_pictures(
    plan: FilmPlan, maker: SceneMaker, lettering: Lettering | None, begin: int, before: Picture | None
) -> Generator[Picture, None, None]:
    """Yield the pictures, uint8 [H, W, 3], of a plan's scenes from `begin` on; no more are held than a dissolve lasts.

    before: the picture that has stood still; it dissolves or darkens into the first scene as the story says. None where nothing
    has been shown. Raises what decoding raises.
    """
    opening, film = plan.scenes[begin], FilmPictures(plan, maker, lettering)
    stretches = [stretch for stretch in film_stretches(plan) if stretch.scene >= begin]
    if before is not None and (dark := darkening(opening)):
        yield from faded(iter([before] * dark), dark, 0, dark)
    if stretches[0].dissolves:
        count = stretches.pop(0).count
        pictures = film.of([Stretch(begin, opening.start, count)])
        yield from pictures if before is None else dissolve([before] * count, pictures)
    yield from film.of(stretches)


def darkening(scene: PlannedScene) -> int:
    """Return how many pictures of what comes before a scene go into black."""
    return scene.blend // 2 if scene.transition == "fade" else 0
