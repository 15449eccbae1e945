"""What is said beside the pictures of a way: which scene it is, captions, words that are heard, and what may be chosen."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from ..film.plan import PlannedScene
from ..film.timing import film_captions
from .pictures import darkening
from .show import Show, Way, offered


def way_cues(show: Show, way: Way, held: bool) -> dict[int, dict[str, Any]]:
    """Return by picture, from the first one after the last choice, what changes with it.

    scene: its name; card: its text, where it is one. caption: the text that is shown from there on, "" for none. sound: which
    of the show's sounds is heard, its volume and its seconds. choices: may be made from there on. held: whether the scene begins
    with the picture before it.
    """
    plan, cues = way.plan, dict[int, dict[str, Any]]()
    opening = plan.scenes[way.begin]
    extra = darkening(opening) if held else 0

    def at(film_picture: int) -> dict[str, Any]:
        return cues.setdefault(max(0, film_picture - opening.start + extra), {})

    for scene in plan.scenes[way.begin :]:
        at(scene.start)["scene"] = scene.name
        at(scene.start)["card"] = "" if scene.card is None else scene.card.text
        at(scene.start).setdefault("caption", "")
        _add_sound(show, way, scene, at)
    first = opening.start * 1000 / Fraction(plan.fps)
    for caption in film_captions(plan):
        if caption.end <= first:
            continue
        at(_picture(caption.start, plan.fps))["caption"] = caption.text
        end = at(_picture(caption.end, plan.fps))
        end.setdefault("caption", "")
    if way.last.choices:
        at(plan.scenes[-1].start)["choices"] = offered(way)
    return cues


def _add_sound(show: Show, way: Way, scene: PlannedScene, at: Any) -> None:
    narration = show.file.story.scenes[scene.number].narration
    sound = show.sound(scene.number)
    if narration is None or sound is None:
        return
    start = scene.start + round(narration.at * Fraction(way.plan.fps))
    at(start)["sound"] = {"sound": sound, "volume": narration.volume}


def _picture(milliseconds: int, fps: Any) -> int:
    return round(milliseconds * Fraction(fps) / 1000)
