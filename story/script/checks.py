"""What can be wrong in a story although each of its parts is well formed; told by line, before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

from ...core.errors import UsageError
from ...media.captions import check_caption
from ...media.cards import Card
from ...media.lettering import Lettering
from ...media.sound import wav_seconds
from .path import always_before, scene_numbers
from .source import Place, Source
from .story import Scene, StoryFile, filled


def check_story(file: StoryFile, lettering: Lettering | None) -> None:
    """Raise SourceError for the first thing that is wrong, without a model.

    lettering: what cards and captions in pictures are written with, None where nothing is to be drawn.
    """
    _check_names(file)
    _check_ways(file)
    _check_origins(file)
    for number, scene in enumerate(file.story.scenes):
        _check_texts(file, number, scene, lettering)
        if scene.prompt is not None:
            prompt_of(file, number)
        if scene.narration is not None and scene.narration.file is not None:
            sound_of(file, ("scenes", number, "narration"), scene.narration.file)
        if scene.origin.picture is not None:
            inside(file, ("scenes", number, "from"), scene.origin.picture)
    if file.story.music is not None:
        sound_of(file, ("music",), file.story.music.file)


def sound_of(file: StoryFile, place: Place, name: str) -> tuple[Path, float]:
    """Return a WAV file that a story names, and its length in seconds. Raises SourceError."""
    path = inside(file, place, name)
    try:
        return path, wav_seconds(path)
    except UsageError as error:
        raise file.source.error(place, str(error).replace(str(path), name)) from error


def narration_sound(file: StoryFile, number: int) -> tuple[Path, float] | None:
    """Return what is heard of a scene's narration, and its length in seconds; None where nothing is. Raises SourceError."""
    spoken = file.story.scenes[number].narration
    if spoken is None:
        return None
    if spoken.file is not None:
        return sound_of(file, ("scenes", number, "narration"), spoken.file)
    if number in file.spoken:
        return file.spoken[number], wav_seconds(file.spoken[number])
    return None


def inside(file: StoryFile, place: Place, name: str) -> Path:
    """Return the path of a file that a story names, which lies in the story's own folder. Raises SourceError."""
    return inside_folder(file.source, place, name)


def inside_folder(source: Source, place: Place, name: str) -> Path:
    """Return the path of a file that another names, which lies in that one's folder. Raises SourceError."""
    folder = Path(os.path.realpath(source.path.parent))
    try:
        path = Path(os.path.realpath(folder / name))
        exists = path.is_file()
    except (OSError, ValueError):
        raise source.error(place, f"{name[:60]!r} is no file's name") from None
    if Path(name).is_absolute() or not path.is_relative_to(folder):
        raise source.error(place, f"{name[:60]!r} is not in the folder of {source.path.name}: put it there")
    if not exists:
        raise source.error(place, f"there is no file {name[:60]!r} beside {source.path.name}")
    return path


def card_of(file: StoryFile, scene: Scene) -> Card:
    """Return the card of a scene that is one, its {names} filled in. Raises UsageError."""
    card = scene.card
    assert card is not None
    words = file.story.words
    return Card(
        filled(card.text, words),
        "" if card.subtitle is None else filled(card.subtitle, words),
        tuple(filled(choice.text, words) for choice in scene.choices),
        card.background,
        card.colour,
    )


def prompt_of(file: StoryFile, number: int) -> str:
    """Return the whole prompt of a scene: its {names} filled in, the story's look at its end. Raises SourceError."""
    story, scene = file.story, file.story.scenes[number]
    assert scene.prompt is not None
    prompt = _filled(file, ("scenes", number, "prompt"), scene.prompt)
    if story.look is None or not scene.look:
        return prompt
    return f"{prompt}, {_filled(file, ('look',), story.look)}"


def _check_names(file: StoryFile) -> None:
    seen: dict[str, int] = {}
    for number, name in enumerate(file.story.names()):
        if name in seen:
            place = ("scenes", number, "name")
            raise file.source.error(place, f"scene {seen[name] + 1} is called {name} too: names are given once")
        seen[name] = number


def _check_ways(file: StoryFile) -> None:
    """Raise SourceError where a way leads nowhere, or in a circle that no choice ends."""
    numbers, scenes = scene_numbers(file), file.story.scenes
    for number, scene in enumerate(scenes):
        targets: list[tuple[Place, str]] = [
            (("choices", index, "goto"), choice.goto) for index, choice in enumerate(scene.choices)
        ]
        if scene.goto is not None:
            targets.append((("goto",), scene.goto))
        for place, target in targets:
            if target not in numbers:
                raise file.source.error(("scenes", number, *place), f"there is no scene {target!r}")
    ends = {number for number, scene in enumerate(scenes) if scene.choices or scene.ends}
    known: set[int] = set()
    for start in range(len(scenes)):
        on_way: dict[int, None] = {}
        at = start
        while at < len(scenes) and at not in known:
            if at in on_way:
                raise file.source.error(
                    ("scenes", at), "from here the story comes back to here, without a choice: it would never end"
                )
            on_way[at] = None
            if at in ends:
                break
            goto = scenes[at].goto
            at = numbers[goto] if goto is not None else at + 1
        known |= set(on_way)


def _check_origins(file: StoryFile) -> None:
    """Raise SourceError for scenes that go on from what is not there, from a card, or from what some way does not show before."""
    numbers, scenes = scene_numbers(file), file.story.scenes
    if scenes[0].origin.kind == "previous":
        raise file.source.error(("scenes", 0, "from"), "nothing comes before the first scene")
    before: dict[int, int] | None = None
    for number, scene in enumerate(scenes):
        if (name := scene.origin.scene) is None:
            continue
        place = ("scenes", number, "from")
        if name not in numbers:
            raise file.source.error(place, f"there is no scene {name!r}")
        if numbers[name] == number:
            raise file.source.error(place, "goes on from itself")
        if scenes[numbers[name]].card is not None:
            raise file.source.error(place, f"{name} is a card, and no scene goes on from one")
        before = always_before(file) if before is None else before
        if number in before and not before[number] >> numbers[name] & 1:
            raise file.source.error(place, f"{name} does not come before it on every way that leads here")


def _check_texts(file: StoryFile, number: int, scene: Scene, lettering: Lettering | None) -> None:
    place: Place = ("scenes", number)
    drawn: list[tuple[Place, str]] = []
    captions: list[tuple[Place, str]] = []
    if scene.caption is not None:
        captions.append((("caption",), scene.caption))
    for index, each in enumerate(scene.captions):
        captions.append((("captions", index), each.text))
    if scene.narration is not None and scene.narration.text is not None:
        captions.append((("narration",), scene.narration.text))
    for inner, text in captions:
        at = (*place, *inner)
        try:
            shown = check_caption(filled(text, file.story.words))
        except UsageError as error:
            raise file.source.error(at, str(error)) from error
        if file.story.burn and inner != ("narration",):
            drawn.append((at, shown))
    if scene.chapter is not None:
        _filled(file, (*place, "chapter"), scene.chapter)
    for index, choice in enumerate(scene.choices):
        _filled(file, (*place, "choices", index, "text"), choice.text)
    if scene.card is not None:
        try:
            drawn.append(((*place, "card"), card_of(file, scene).written))
        except UsageError as error:
            raise file.source.error((*place, "card"), str(error)) from error
    for at, text in drawn if lettering is not None else ():
        assert lettering is not None
        try:
            lettering.check(text)
        except UsageError as error:
            raise file.source.error(at, str(error)) from error


def _filled(file: StoryFile, place: Place, text: str) -> str:
    try:
        return filled(text, file.story.words)
    except UsageError as error:
        raise file.source.error(place, str(error)) from error
