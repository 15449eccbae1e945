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


def followers(file: StoryFile, at: int, numbers: dict[str, int]) -> list[int]:
    """Return the scenes that may follow a scene, by their number; none where the story ends with it.

    numbers: see scene_numbers; it has every name that a way leads to.
    """
    scenes = file.story.scenes
    scene = scenes[at]
    if scene.choices:
        return list(dict.fromkeys(numbers[choice.goto] for choice in scene.choices))
    if scene.goto is not None:
        return [numbers[scene.goto]]
    return [] if scene.ends or at + 1 == len(scenes) else [at + 1]


def always_before(file: StoryFile) -> dict[int, int]:
    """Return the scenes that come before a scene on every way to it, itself among them, as bits, for each that a way leads to.

    These are a graph's dominators, by their equations (Allen, 1970), in reverse postorder.
    """
    numbers = scene_numbers(file)
    ways: dict[int, list[int]] = {}
    order: list[int] = []
    stack = [(0, iter(ways.setdefault(0, followers(file, 0, numbers))))]
    while stack:
        at, left = stack[-1]
        following = next((each for each in left if each not in ways), None)
        if following is None:
            order.append(at)
            stack.pop()
        else:
            stack.append((following, iter(ways.setdefault(following, followers(file, following, numbers)))))
    order.reverse()
    leading: dict[int, list[int]] = {at: [] for at in order}
    for at in order:
        for following in ways[at]:
            leading[following].append(at)
    before = {at: 1 if at == 0 else -1 for at in order}
    changed = True
    while changed:
        changed = False
        for at in order[1:]:
            common = -1
            for each in leading[at]:
                common &= before[each]
            if (common | 1 << at) != before[at]:
                before[at], changed = common | 1 << at, True
    return before


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
