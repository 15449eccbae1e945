"""When in a film something is heard or read: captions, chapters, words, and the text for who speaks them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from ...media.captions import Caption, check_caption
from ...media.sound import Mix, Music, Speech
from ...media.tracks import Chapter, Tracks
from ..script.checks import inside, narration_sound
from ..script.story import Scene, filled
from .plan import FilmPlan, PlannedScene

_LANGUAGES = {"de": "deu", "en": "eng", "es": "spa", "fr": "fra", "it": "ita", "ja": "jpn", "nl": "nld", "pl": "pol"} | {
    "pt": "por", "ru": "rus", "uk": "ukr", "zh": "zho", "tr": "tur", "sv": "swe", "da": "dan", "fi": "fin", "ko": "kor"
}  # fmt: skip
"""ISO 639-2 of those that have two letters in ISO 639-1; MP4 has three."""


def film_tracks(plan: FilmPlan) -> Tracks:
    """Return what goes beside a film's pictures. Captions drawn into them are a track too, for who cannot see them."""
    language = plan.file.story.language
    return Tracks(
        _sound(plan),
        tuple(film_captions(plan)),
        tuple(_chapters(plan)),
        language if len(language) == 3 else _LANGUAGES.get(language, "und"),
    )


def film_captions(plan: FilmPlan) -> list[Caption]:
    """Return the captions of a film in order, one at a time."""
    captions: list[Caption] = []
    for scene, start, end in _spans(plan):
        written = plan.file.story.scenes[scene.number]
        captions += sorted(_captions_of(plan, written, start, end, scene.number), key=lambda each: each.start)
    for index, following in enumerate(captions[1:]):
        if captions[index].end > following.start:
            captions[index] = replace(captions[index], end=following.start)
    return [each for each in captions if each.end > each.start]


def spoken_text(plan: FilmPlan) -> str:
    """Return what is said and when, a line for each: the script for who reads it, or for a program that does."""
    lines = []
    for scene, start, _ in _spans(plan):
        spoken = plan.file.story.scenes[scene.number].narration
        if spoken is not None and spoken.text is not None:
            at = start + round(spoken.at * 1000)
            said = " ".join(filled(spoken.text, plan.file.story.words).split())
            lines.append(f"{at // 60000:02}:{at // 1000 % 60:02}.{at % 1000:03}\t{scene.name}\t{said}\n")
    return "".join(lines)


def _spans(plan: FilmPlan) -> list[tuple[PlannedScene, int, int]]:
    """Return each scene with its beginning and end in milliseconds; it ends where the next one begins to be seen."""
    starts = [_milliseconds(plan, scene.start) for scene in plan.scenes] + [_milliseconds(plan, plan.pictures)]
    return [(scene, starts[index], starts[index + 1]) for index, scene in enumerate(plan.scenes)]


def _captions_of(plan: FilmPlan, scene: Scene, start: int, end: int, number: int) -> list[Caption]:
    words = plan.file.story.words

    def made(text: str, at: float, seconds: float | None) -> Caption:
        until = end if seconds is None else min(end, start + round((at + seconds) * 1000))
        return Caption(start + round(at * 1000), until, check_caption(filled(text, words)))

    captions = [made(each.text, each.at, each.seconds) for each in scene.captions]
    if scene.caption is not None:
        captions.append(made(scene.caption, 0, None))
    spoken = scene.narration
    if spoken is not None and spoken.caption and spoken.text is not None:
        sound = narration_sound(plan.file, number)
        captions.append(made(spoken.text, spoken.at, None if sound is None else sound[1]))
    return captions


def _chapters(plan: FilmPlan) -> list[Chapter]:
    marks: list[tuple[int, str]] = []
    for scene, start, _ in _spans(plan):
        title = plan.file.story.scenes[scene.number].chapter
        if title is not None:
            marks.append((start, filled(title, plan.file.story.words)))
    ends = [*(start for start, _ in marks[1:]), _milliseconds(plan, plan.pictures)][: len(marks)]
    return [Chapter(start, end, title) for (start, title), end in zip(marks, ends, strict=True)]


def _sound(plan: FilmPlan) -> Mix:
    speeches = []
    for scene in plan.scenes:
        spoken = plan.file.story.scenes[scene.number].narration
        sound = narration_sound(plan.file, scene.number)
        if spoken is not None and sound is not None:
            path, seconds = sound
            start = float(Fraction(scene.start) / Fraction(plan.fps)) + spoken.at
            speeches.append(Speech(path, start, seconds, spoken.volume))
    music, written = None, plan.file.story.music
    if written is not None:
        music = Music(inside(plan.file, ("music",), written.file), written.volume, written.ducked)
    return Mix(plan.seconds, tuple(speeches), music)


def _milliseconds(plan: FilmPlan, picture: int) -> int:
    return round(Fraction(picture * 1000) / Fraction(plan.fps))
