"""Read colour, shape, motion and scene off a clip's frames by measurement alone.

No caption and no learned model goes in. The scene is the one whose average rows are nearest to the background's; the
colour is the palette entry that most foreground pixels are nearest to; the shape is the outline that fits the
foreground best; the motion is the ideal track nearest to the measured one. This is the project's gauge of whether a
video shows its prompt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clips import COLOURS, MOTIONS, SCENES, SHAPES, Subject, coverage

Array = NDArray[np.floating[Any]]

ATTRIBUTES = ("colour", "scene", "motion", "shape")
_NEAR_COLOUR = 0.38
_SMALLEST_AREA = 0.004
_ROWS = 16


@dataclass(frozen=True)
class Reading:
    """What a clip shows; None where nothing could be made out. track: [frames, 3], centre x, centre y, log radius."""

    colour: str | None
    scene: str
    motion: str | None
    shape: str | None
    track: Array

    def matches(self, subject: Subject) -> dict[str, bool]:
        """Tell for each attribute whether it is the subject's."""
        return {name: getattr(self, name) == getattr(subject, name) for name in ATTRIBUTES}


@cache
def _scene_rows() -> dict[str, Array]:
    """Return each scene's average colour by row, [_ROWS, 3], over all phases and times."""
    y, x = np.meshgrid(
        (np.arange(_ROWS, dtype=np.float32) + 0.5) / _ROWS, np.linspace(0, 1, 32, dtype=np.float32), indexing="ij"
    )
    u = np.linspace(0, 1, 9, dtype=np.float32)[:, None, None]
    phases = np.linspace(0, 1, 8, endpoint=False)
    return {
        name: np.mean([scene(x, y, u, float(phase)).mean(axis=(0, 2)) for phase in phases], axis=0)
        for name, scene in SCENES.items()
    }


@cache
def _outline_areas() -> dict[str, float]:
    """Return each shape's area for radius 1."""
    grid = np.linspace(-1.6, 1.6, 641, dtype=np.float32)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    cell = float(grid[1] - grid[0]) ** 2
    one = np.float32(1)
    return {name: float(coverage(name, x, y, one, 0.02).sum()) * cell for name in SHAPES}  # type: ignore[arg-type]


def read(frames: NDArray[np.uint8]) -> Reading:
    """Measure a clip: uint8 [frames, height, width, 3], RGB, any size and length of at least 5 frames."""
    pixels = frames.astype(np.float32) / 255
    palette = np.asarray(list(COLOURS.values()), np.float32)
    distances = _distances(pixels, palette)
    near = distances.min(axis=-1) < _NEAR_COLOUR
    scene, background = _read_scene(pixels, near)
    counts = np.bincount(distances.argmin(axis=-1)[near], minlength=len(palette))
    empty = np.zeros((len(frames), 3), np.float32)
    if counts.max() < _SMALLEST_AREA * near.size:
        return Reading(None, scene, None, None, empty)
    index = int(counts.argmax())
    alpha = _foreground(pixels, background, palette[index])
    track, areas = _track(alpha)
    if np.count_nonzero(areas > _SMALLEST_AREA) < len(frames) // 2:
        return Reading(list(COLOURS)[index], scene, None, None, empty)
    return Reading(list(COLOURS)[index], scene, _read_motion(track), _read_shape(alpha, track, areas), track)


def mean_colour(frames: NDArray[np.uint8]) -> Array | None:
    """Return the mean colour, RGB 0 to 1, of what is near the palette's foremost entry; None where nothing is."""
    pixels = frames.astype(np.float32) / 255
    distances = _distances(pixels, np.asarray(list(COLOURS.values()), np.float32))
    near = distances.min(axis=-1) < _NEAR_COLOUR
    entries = distances.argmin(axis=-1)
    counts = np.bincount(entries[near], minlength=len(COLOURS))
    if counts.max() < _SMALLEST_AREA * near.size:
        return None
    colour: Array = pixels[near & (entries == counts.argmax())].mean(axis=0)
    return colour


def scene_rows(frames: NDArray[np.uint8]) -> Array:
    """Return the background's mean colour by row of the picture, [height, 3], 0 to 1."""
    pixels = frames.astype(np.float32) / 255
    near = _distances(pixels, np.asarray(list(COLOURS.values()), np.float32)).min(axis=-1) < _NEAR_COLOUR
    return _read_scene(pixels, near)[1]


def _distances(pixels: Array, palette: Array) -> Array:
    """Return how far each pixel is from each palette entry, [frames, height, width, entries]."""
    squared = np.square(pixels).sum(axis=-1)[..., None] + np.square(palette).sum(axis=-1) - 2 * (pixels @ palette.T)
    distance: Array = np.sqrt(np.maximum(squared, 0))
    return distance


def _read_scene(pixels: Array, near: NDArray[np.bool_]) -> tuple[str, Array]:
    """Return the nearest scene and the background's colour by row of the picture, [height, 3]."""
    hidden = np.where(near[..., None], np.nan, pixels)
    height = pixels.shape[1]
    with np.errstate(all="ignore"):
        sums = np.nansum(hidden, axis=(0, 2))
        counts = np.maximum((~near).sum(axis=(0, 2))[:, None], 1)
    rows = (sums / counts).astype(np.float32)
    position = (np.arange(height) + 0.5) / height * _ROWS - 0.5
    names = list(SCENES)
    misfits = []
    for name in names:
        reference = _scene_rows()[name]
        at_rows = np.stack([np.interp(position, np.arange(_ROWS), reference[:, c]) for c in range(3)], axis=-1)
        misfits.append(float(np.square(rows - at_rows).mean()))
    return names[int(np.argmin(misfits))], rows


def _foreground(pixels: Array, background: Array, colour: Array) -> Array:
    """Return how far each pixel has gone from its row's background to the colour, 0 to 1; the largest piece alone.

    A pixel counts only where it is also near the line between the two, so that bright spots of a scene do not.
    """
    direction = colour - background
    squared = np.square(direction).sum(axis=-1)
    offset = pixels - background[None, :, None, :]
    along = np.einsum("thwc,hc->thw", offset, direction) / squared[None, :, None]
    aside = np.linalg.norm(offset - along[..., None] * direction[None, :, None, :], axis=-1)
    alpha: Array = np.where(aside < 0.35, np.clip((along - 0.25) / 0.5, 0, 1), 0).astype(np.float32)
    return alpha


def _track(alpha: Array) -> tuple[Array, Array]:
    """Return centre and log radius by frame, [frames, 3], and the covered fraction of the picture, [frames].

    The picture counts as a torus, as films draw it, and a centre that leaves it at an edge is followed beyond 1 or 0.
    """
    _, height, width = alpha.shape
    shortest = min(height, width)
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    around_x, around_y = np.exp(2j * np.pi * x), np.exp(2j * np.pi * y)
    weight, centre_x, centre_y = alpha, np.zeros(len(alpha)), np.zeros(len(alpha))
    for _ in range(3):
        total = weight.sum(axis=(1, 2)) + 1e-6
        centre_x = np.angle((weight * around_x).sum(axis=(1, 2))) / (2 * np.pi) % 1
        centre_y = np.angle((weight * around_y).sum(axis=(1, 2))) / (2 * np.pi) % 1
        reach = np.maximum(1.1 * np.sqrt(total), 0.1 * shortest)
        far_x = wrapped(x - centre_x[:, None, None]) * width
        far_y = wrapped(y - centre_y[:, None, None]) * height
        # On the torus a mean is the angle of a mean; about that centre the plain mean is the exact one.
        near = alpha * (np.hypot(far_x, far_y) < reach[:, None, None])
        count = near.sum(axis=(1, 2)) + 1e-6
        centre_x = centre_x + (near * far_x).sum(axis=(1, 2)) / count / width
        centre_y = centre_y + (near * far_y).sum(axis=(1, 2)) / count / height
        weight = near
    total = weight.sum(axis=(1, 2))
    log_radius = 0.5 * np.log(np.maximum(total, 1.0) / shortest**2)
    followed = [np.unwrap(centre, period=1.0) for centre in (centre_x, centre_y)]
    track = np.stack([*followed, log_radius], axis=-1).astype(np.float32)
    return track, (total / (height * width)).astype(np.float32)


def wrapped(difference: Array) -> Array:
    """Return the shortest way on the torus, -0.5 to 0.5, of a difference of positions."""
    shortest: Array = (difference + 0.5) % 1 - 0.5
    return shortest


def _read_motion(track: Array) -> str | None:
    """Return the motion whose ideal track is nearest; None where standing still is nearer than any."""
    u = np.linspace(0, 1, len(track), dtype=np.float32)
    measured = track - track.mean(axis=0)
    measured[:, 2] *= 0.4
    best: str | None = None
    smallest = float(np.square(measured).sum())
    for name, motion in MOTIONS.items():
        centre_x, centre_y, scale = motion(u)
        ideal = np.stack([centre_x, centre_y, 0.4 * np.log(scale)], axis=-1)
        misfit = float(np.square(measured - (ideal - ideal.mean(axis=0))).sum())
        if misfit < smallest:
            best, smallest = name, misfit
    return best


def _read_shape(alpha: Array, track: Array, areas: Array) -> str:
    """Return the shape whose outline, laid on the centre at equal area, differs least from the foreground."""
    _, height, width = alpha.shape
    shortest = min(height, width)
    chosen = np.argsort(areas)[len(areas) // 4 :]
    chosen = chosen[areas[chosen] > _SMALLEST_AREA]  # `read` has made sure that half of the frames show something
    y, x = np.meshgrid((np.arange(height) + 0.5) / shortest, (np.arange(width) + 0.5) / shortest, indexing="ij")
    centre_x = track[chosen, 0, None, None] * (width / shortest)
    centre_y = track[chosen, 1, None, None] * (height / shortest)
    around_x, around_y = width / shortest, height / shortest
    offset_x = (wrapped((x - centre_x) / around_x) * around_x).astype(np.float32)
    offset_y = (wrapped((y - centre_y) / around_y) * around_y).astype(np.float32)
    area = areas[chosen] * (height * width / shortest**2)
    misfits = {}
    for name, unit_area in _outline_areas().items():
        radius = np.sqrt(area / unit_area)[:, None, None].astype(np.float32)
        outline = coverage(name, offset_x, offset_y, radius, softness=2.0 / shortest)
        misfits[name] = float((np.abs(outline - alpha[chosen]).sum(axis=(1, 2)) / area).mean())
    return min(misfits, key=lambda name: misfits[name])


def displacement(reading: Reading) -> float:
    """Return how far things move: the mean step of centre (picture units) and log radius between frames."""
    return float(np.linalg.norm(np.diff(reading.track, axis=0), axis=-1).mean())


def travel(reading: Reading) -> float:
    """Return how far the centre moves between frames, in the mean: displacement without the size, which a blur makes flicker."""
    return float(np.linalg.norm(np.diff(reading.track[:, :2], axis=0), axis=-1).mean())


def score(pairs: Iterable[tuple[NDArray[np.uint8], Subject]]) -> dict[str, float]:
    """Return the fraction of clips, per attribute, whose frames show what their subject says."""
    return score_readings((read(frames), subject) for frames, subject in pairs)


def score_readings(pairs: Iterable[tuple[Reading, Subject]]) -> dict[str, float]:
    """Return the same of clips that have been read already."""
    matches = [reading.matches(subject) for reading, subject in pairs]
    return {name: float(np.mean([match[name] for match in matches])) for name in ATTRIBUTES}
