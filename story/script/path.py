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
    scenes = file.story.scenes
    left = list(choices or ())
    shown = stretch(file, 0)
    while scenes[at := shown[-1]].choices:
        if len(shown) > LONGEST:
            raise file.source.error(("scenes", at), f"the way leads to more than {LONGEST} scenes: it goes in a circle")
        if not left:
            offered = ", ".join(
                f"{number} {choice.text!r}" for number, choice in enumerate(scenes[at].choices, start=1)
            )
            raise file.source.error(
                ("scenes", at, "choices"),
                f"here the story branches: say what is chosen with --choose, one number each time: {offered}",
            )
        shown += stretch(file, chosen_scene(file, at, left.pop(0)))
    if left:
        raise UsageError(f"--choose has {len(left)} more than the way has choices: leave them out")
    return shown


def scene_numbers(file: StoryFile) -> dict[str, int]:
    """Return the number, from 0, of each scene by its name."""
    return {name: number for number, name in enumerate(file.story.names())}


def stretch(file: StoryFile, at: int) -> list[int]:
    """Return a scene and those that follow it up to the next choice or the end, by their number from 0.

    The story is one that `check_story` took: it has no circle without a choice.
    """
    scenes, numbers = file.story.scenes, scene_numbers(file)
    shown = [at]
    while not (scenes[at].choices or scenes[at].ends):
        goto = scenes[at].goto
        at = at + 1 if goto is None else numbers[goto]
        if at == len(scenes):
            break
        shown.append(at)
    return shown


def chosen_scene(file: StoryFile, at: int, choice: int) -> int:
    """Return the scene that a choice, from 1, leads to from the scene `at`. Raises SourceError where there is none."""
    choices = file.story.scenes[at].choices
    if not 1 <= choice <= len(choices):
        raise file.source.error(
            ("scenes", at, "choices"), f"there is no choice {choice} here: choose from 1 to {len(choices)}"
        )
    return scene_numbers(file)[choices[choice - 1].goto]
