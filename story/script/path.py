"""Which scenes a film shows, and in which order: the file's own, or the way that choices lead."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import UsageError
from .story import StoryFile

LONGEST = 10_000
"""Scenes of a film: a way that goes on is a circle."""


def follow(file: StoryFile, choices: Sequence[int] | None = None) -> list[int]:
    """Return the scenes that are shown, by their number from 0: the first one, and what follows each.

    choices: which one is taken at each scene that has some, counted from 1; None where a story may have none. Raises
    SourceError, UsageError where they are too few or too many.
    """
    scenes, numbers = file.story.scenes, scene_numbers(file)
    left = list(choices or ())
    shown: list[int] = []
    at = 0
    while True:
        shown.append(at)
        scene = scenes[at]
        if len(shown) > LONGEST:
            raise file.source.error(("scenes", at), f"the way leads to more than {LONGEST} scenes: it goes in a circle")
        if scene.choices:
            if not left:
                offered = ", ".join(f"{number} {choice.text!r}" for number, choice in enumerate(scene.choices, start=1))
                raise file.source.error(
                    ("scenes", at, "choices"),
                    f"here the story branches: say what is chosen with --choose, one number each time: {offered}",
                )
            chosen = left.pop(0)
            if not 1 <= chosen <= len(scene.choices):
                raise file.source.error(
                    ("scenes", at, "choices"),
                    f"there is no choice {chosen} here: choose from 1 to {len(scene.choices)}",
                )
            at = numbers[scene.choices[chosen - 1].goto]
        elif scene.goto is not None:
            at = numbers[scene.goto]
        elif scene.ends or at + 1 == len(scenes):
            break
        else:
            at += 1
    if left:
        raise UsageError(f"--choose has {len(left)} more than the way has choices: leave them out")
    return shown


def scene_numbers(file: StoryFile) -> dict[str, int]:
    """Return the number, from 0, of each scene by its name."""
    return {name: number for number, name in enumerate(file.story.names())}
