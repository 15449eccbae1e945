"""What goes into a film's file beside its pictures: sound, captions, chapters."""

from __future__ import annotations

from dataclasses import dataclass, field

from .captions import Caption
from .sound import Mix


@dataclass(frozen=True)
class Chapter:
    """A part of a film, in milliseconds, and its title."""

    start: int
    end: int
    title: str


@dataclass(frozen=True)
class Tracks:
    """Sound, captions and chapters, each in the order of time. language: of the captions, ISO 639-2, as MP4 has it."""

    sound: Mix = field(default_factory=Mix)
    captions: tuple[Caption, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    language: str = "und"
