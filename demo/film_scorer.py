"""Read films shot by shot, and measure what happens where one chunk hands over to the next, and after many of them.

A seam is looked at from both sides: does the object jump, do its colour or the scene change at once? Drift compares a
film's last chunk with its first: colour, scene and sharpness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clips import MOTIONS
from .films import FADE, FIRST, LARGEST, NEXT, PICTURE, SMALLEST, Shot, along
from .scorer import Reading, mean_colour, read, scene_rows, wrapped

Array = NDArray[np.floating[Any]]

# Of a full picture: less is what the measurement itself is unsure of.
_UNSURE_STEP = 0.012
_SIZE_WEIGHT = 0.4


def cut(film: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return a film's chunks: FIRST pictures, then NEXT each."""
    starts = [0, *range(FIRST, len(film), NEXT), len(film)]
    return [film[start:end] for start, end in pairwise(starts)]


def read_shot(frames: NDArray[np.uint8], *, first: bool) -> Reading:
    """Read a shot that may begin anywhere; what fades at its start is left out of what is read but the track.

    first: whether it is a film's first shot, before which nothing was.
    """
    reading = read(frames if first else frames[FADE:])
    return replace(reading, motion=None if reading.shape is None else read_motion(reading.track))


def shows(reading: Reading, shot: Shot, frames: NDArray[np.uint8]) -> dict[str, bool]:
    """Tell for each attribute whether a shot shows it; of two motions, each half must show its own.

    What has grown or shrunk to the end stands still, and counts as shown.
    """
    matches = reading.matches(shot.subjects()[0])
    if len(shot.motions) == 2:
        half = len(frames) // 2
        halves = [read_motion(part) for part in (reading.track[: len(reading.track) - half], reading.track[-half:])]
        matches["motion"] = all(_is_shown(motion, part) for motion, part in zip(shot.motions, halves, strict=True))
    else:
        matches["motion"] = reading.shape is not None and _is_shown(shot.motions[0], reading.motion)
    return matches


def _is_shown(motion: str, seen: str | None) -> bool:
    return seen == motion or (seen is None and motion in ("grows", "shrinks"))


@cache
def _ideal_tracks(count: int) -> list[tuple[str, Array]]:
    """Return each motion's track over so many pictures from several phases and sizes, centred, size in logarithms."""
    tracks = []
    u = np.arange(count) * PICTURE
    for motion in MOTIONS:
        for phase in np.linspace(0, 1, 16, endpoint=False) if motion in ("bounces", "circles") else (0.0,):
            for size in np.linspace(SMALLEST, LARGEST, 6) if motion in ("grows", "shrinks") else (1.0,):
                track = along(motion, np.array([0.5, 0.5, size]), u + phase)
                track[:, 2] = _SIZE_WEIGHT * np.log(track[:, 2])
                if np.ptp(track, axis=0).max() > 0.1:
                    tracks.append((motion, track - track.mean(axis=0)))
    return tracks


def read_motion(track: Array) -> str | None:
    """Return the motion whose track, from any phase, is nearest; None where standing still is nearer than any."""
    measured = track - track.mean(axis=0)
    measured[:, 2] *= _SIZE_WEIGHT
    best: str | None = None
    smallest = float(np.square(measured).sum())
    for motion, ideal in _ideal_tracks(len(track)):
        misfit = float(np.square(measured - ideal).sum())
        if misfit < smallest:
            best, smallest = motion, misfit
    return best


@dataclass(frozen=True)
class Seam:
    """A hand-over. jump: step of the object across it over a normal step of the chunks beside it.

    colour, scene: how far the object's mean colour and the scene's mean rows move across it, 0 to 1, less what they
    move between the pictures before it.
    """

    jump: float
    colour: float
    scene: float


def seams(film: NDArray[np.uint8]) -> list[Seam]:
    """Measure every hand-over of a film."""
    chunks = cut(film)
    tracks = [read(chunk).track * (1, 1, _SIZE_WEIGHT) for chunk in chunks]
    found = []
    for index, (before, after) in enumerate(pairwise(tracks)):
        at = FIRST + NEXT * index
        # What fades at the start of a chunk is measured badly there.
        usual = np.concatenate([np.diff(before[FADE * (index > 0) :], axis=0), np.diff(after[FADE:], axis=0)])
        normal = max(float(np.percentile(np.linalg.norm(usual, axis=-1), 90)), _UNSURE_STEP)
        across = after[0] - before[-1]
        across[:2] = wrapped(across[:2])
        (colour, scene), (usual_colour, usual_scene) = _change(film, at), _change(film, at - 1)
        jump = float(np.linalg.norm(across)) / normal
        found.append(Seam(jump, colour - usual_colour, scene - usual_scene))
    return found


def _change(film: NDArray[np.uint8], at: int) -> tuple[float, float]:
    """Return how far the object's colour and the scene's rows move from picture `at` - 1 to picture `at`."""
    one, two = film[at - 1 : at], film[at : at + 1]
    colours = [mean_colour(pictures) for pictures in (one, two)]
    rows = [scene_rows(pictures) for pictures in (one, two)]
    known = all(colour is not None for colour in colours)
    moved = float(np.linalg.norm(colours[1] - colours[0])) if known else 0.0  # type: ignore[operator]
    return moved, float(np.abs(rows[1] - rows[0]).mean())


@dataclass(frozen=True)
class Drift:
    """A film's last chunk against its first: distance of the object's colour and of the scene, ratio of sharpness."""

    colour: float
    scene: float
    sharpness: float


def drift(film: NDArray[np.uint8]) -> Drift:
    """Measure how far a film has gone from how it began."""
    chunks = cut(film)
    colours = [mean_colour(chunk) for chunk in (chunks[0], chunks[-1])]
    rows = [scene_rows(chunk) for chunk in (chunks[0], chunks[-1])]
    known = all(colour is not None for colour in colours)
    moved = float(np.linalg.norm(colours[1] - colours[0])) if known else 1.0  # type: ignore[operator]
    sharpness = [_sharpness(chunk) for chunk in (chunks[0], chunks[-1])]
    return Drift(moved, float(np.abs(rows[1] - rows[0]).mean()), sharpness[1] / max(sharpness[0], 1e-6))


def _sharpness(frames: NDArray[np.uint8]) -> float:
    """Return the steepest hundredth of the differences of neighbouring pixels, 0 to 1."""
    pixels = frames.astype(np.float32).mean(axis=-1) / 255
    return float(np.percentile(np.abs(np.diff(pixels, axis=2)), 99))
