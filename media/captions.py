"""Captions: as files beside a film (SubRip, WebVTT), and drawn into its pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from ..core.files import write_text
from .lettering import LEAST_LETTERS, Lettering


@dataclass(frozen=True)
class Caption:
    """Text that is shown from `start` to `end`, in milliseconds of the film."""

    start: int
    end: int
    text: str


def write_captions(path: Path, captions: Sequence[Caption]) -> Path:
    """Write captions to a .srt or .vtt file, whole or not at all. Raises UsageError for another suffix, OutputError."""
    if path.suffix.lower() == ".srt":
        cues = [
            f"{number}\n{_clock(each.start, ',')} --> {_clock(each.end, ',')}\n{each.text}\n"
            for number, each in enumerate(captions, start=1)
        ]
        return write_text(path, "\n".join(cues))
    if path.suffix.lower() == ".vtt":
        cues = [f"{_clock(each.start, '.')} --> {_clock(each.end, '.')}\n{_escaped(each.text)}\n" for each in captions]
        return write_text(path, "\n".join(["WEBVTT\n", *cues]))
    raise UsageError(f"{path}: captions are written as .srt or .vtt")


def check_caption(text: str) -> str:
    """Return a caption's text without empty lines, which would end it in a file. Raises UsageError for what is none."""
    lines = [line.strip() for line in text.splitlines()]
    kept = "\n".join(line for line in lines if line)
    if not kept or any(not character.isprintable() for line in kept.split("\n") for character in line):
        raise UsageError("a caption is printable text")
    if "-->" in kept:
        raise UsageError("a caption cannot hold -->, which means a time in files of captions")
    return kept


def shown_on(captions: Sequence[Caption], fps: Fraction, first: int, count: int) -> list[tuple[int, int, str]]:
    """Return which captions `count` pictures of a film show, from its picture `first` on: (first one, one after the last, text).

    captions: in order, one at a time. Pictures are counted from `first`.
    """
    shown = []
    for caption in captions:
        begin = max(0, math.ceil(caption.start * fps / 1000) - first)
        end = min(count, math.ceil(caption.end * fps / 1000) - first)
        if begin < end:
            shown.append((begin, end, caption.text))
    return shown


def burned(
    frames: Iterable[NDArray[np.uint8]], shown: Sequence[tuple[int, int, str]], lettering: Lettering
) -> Iterator[NDArray[np.uint8]]:
    """Yield frames, uint8 [H, W, 3], with captions drawn into their lower third, white with a dark edge.

    shown: see shown_on. Raises GeometryError where one does not fit.
    """
    waiting = list(reversed(shown))
    drawn: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    for index, frame in enumerate(frames):
        while waiting and waiting[-1][1] <= index:
            waiting.pop()
            drawn = None
        if not waiting or waiting[-1][0] > index:
            yield frame
            continue
        if drawn is None:
            drawn = caption_cover(waiting[-1][2], frame.shape[1], frame.shape[0], lettering)
        ink, shade = drawn
        result = frame.astype(np.float32)
        part = result[-ink.shape[0] :]
        part *= (1 - 0.8 * shade * (1 - ink))[..., None]
        part[:] = part * (1 - ink[..., None]) + 255 * ink[..., None]
        yield np.rint(result).astype(np.uint8)


def caption_cover(
    text: str, width: int, height: int, lettering: Lettering
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how much a caption's letters cover the lower third of a picture, and what lies around them; [rows, width].

    Raises GeometryError where it does not fit.
    """
    rows, letters = max(1, height // 3), max(LEAST_LETTERS, height / 16)
    ink = np.zeros((rows, width), np.float32)
    inner = max(1, int(width * 0.94))
    left = (width - inner) // 2
    ink[:, left : left + inner] = lettering.draw(text, inner, rows, letters)
    reach = max(1, round(letters / 10))
    shade = ink.copy()
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            shade = np.maximum(shade, np.roll(ink, (down, across), (0, 1)))
    return ink, shade


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
