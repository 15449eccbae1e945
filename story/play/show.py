"""A story that is ready to be played, and the ways that lead through it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UsageError
from ...media.lettering import Lettering
from ...runtime.reel import Reel
from ...runtime.video.output import Output
from ..film.film import FilmOptions, load_story, screen_prompts
from ..film.plan import FilmPlan, FilmPlanner
from ..film.speech import spoken
from ..script.checks import inside, narration_sound, prompt_of
from ..script.path import LONGEST, chosen_scene, stretch
from ..script.story import Scene, StoryFile, filled


@dataclass(frozen=True)
class Way:
    """A way through a story as far as somebody has chosen it.

    choices: what was chosen, from 1. plan: all scenes up to the next choice, or the end. begin: the first of them that comes
    after the last choice. planner: has added those scenes.
    """

    choices: tuple[int, ...]
    plan: FilmPlan
    begin: int
    planner: FilmPlanner

    @property
    def last(self) -> Scene:
        """The scene that it ends with, and what may be chosen there."""
        return self.plan.file.story.scenes[self.plan.scenes[-1].number]

    def after(self, choice: int) -> Way:
        """Return the way that goes on with a choice. Raises SourceError for what is none, or cannot be made there."""
        file = self.plan.file
        return _way(file, self.planner, self.plan.scenes[-1].number, (*self.choices, choice))


@dataclass(frozen=True)
class Show:
    """A story as it was read. number: rises with every time. sounds: the files that are heard in it; music: the first of them.

    saved: when the file was written, to see a change.
    """

    number: int
    file: StoryFile
    lettering: Lettering | None
    opening: Way
    sounds: tuple[Path, ...]
    saved: tuple[int, int] | None

    def way(self, choices: Sequence[int]) -> Way:
        """Return the way of those choices. Raises SourceError."""
        way = self.opening
        for choice in choices:
            way = way.after(choice)
        return way

    def sound(self, scene: int) -> int | None:
        """Return which of the sounds is the narration of a scene, by its number in the file; None where it is silent."""
        found = narration_sound(self.file, scene)
        return None if found is None else self.sounds.index(found[0])

    def facts(self) -> dict[str, Any]:
        """Return what a page is to know before anything is shown."""
        story, plan = self.file.story, self.opening.plan
        music = story.music
        return {
            "show": self.number,
            "title": story.title,
            "language": story.language,
            "width": plan.size.shown[0],
            "height": plan.size.shown[1],
            "fps": float(plan.fps),
            "has_sound": bool(self.sounds),
            "music": None if music is None else {"sound": 0, "volume": music.volume, "ducked": music.ducked},
        }


def read_show(path: Path, options: FilmOptions, reel: Reel, number: int) -> Show:
    """Read a story, check every way through it, and plan how it begins. Nothing is made.

    Raises SourceError for whatever is wrong in it, by line; UsageError, also for marks and a label that its films cannot bear;
    MissingExtraError.
    """
    saved = when_saved(path)
    file, lettering = load_story(path, options.font)
    if options.speaker is not None:
        file = spoken(file, options.speaker)
    if options.screen is not None:
        scenes = enumerate(file.story.scenes)
        asked = ((number, prompt_of(file, number)) for number, scene in scenes if scene.prompt is not None)
        screen_prompts(file, asked, options.screen)
    planner = FilmPlanner(file, reel, options.format, lettering)
    planner.check_prompts()
    opening = _way(file, planner, None, ())
    Output.in_new_folder(Path("film.mp4")).marked(options.marks, options.label, *opening.plan.size.shown)
    opening.planner.check_others()
    return Show(number, file, lettering, opening, tuple(_sounds(file)), saved)


def when_saved(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is saved, None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _way(file: StoryFile, planner: FilmPlanner, at: int | None, choices: tuple[int, ...]) -> Way:
    """Return a planned way with what comes after its last choice, at the scene `at`; None for the story's beginning."""
    planner = planner.fork()
    begin = 0 if at is None else len(planner.so_far().scenes)
    for number in stretch(file, 0 if at is None else chosen_scene(file, at, choices[-1])):
        planner.add(number)
    plan = planner.so_far()
    if len(plan.scenes) > LONGEST:
        raise UsageError(f"the way leads to more than {LONGEST} scenes: begin again")
    return Way(choices, plan, begin, planner)


def _sounds(file: StoryFile) -> list[Path]:
    found: dict[Path, None] = {}
    if file.story.music is not None:
        found[inside(file, ("music",), file.story.music.file)] = None
    for number in range(len(file.story.scenes)):
        if (sound := narration_sound(file, number)) is not None:
            found[sound[0]] = None
    return list(found)


def offered(way: Way) -> list[str]:
    """Return the texts of what may be chosen where a way ends, in order."""
    words = way.plan.file.story.words
    return [filled(choice.text, words) for choice in way.last.choices]
