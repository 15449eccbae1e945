"""Footage that looks like filmed one to encoders and watermarks: texture, edges, motion, film grain, cuts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def footage(seed: int, width: int, height: int, frames: int, *, still: bool = False) -> Iterator[NDArray[np.uint8]]:
    """Yield uint8 [H, W, 3] of a camera that moves over surfaces of many materials, with a cut in longer clips.

    Each seed has its own materials, light, grain (none to a deviation of 5) and speed. still: the camera does not move.
    """
    random = np.random.default_rng(seed)
    grain = random.uniform(0, 5) * random.standard_normal((height + 64, width + 64)).astype(np.float32)
    shots = 2 if frames > 12 and seed % 2 else 1
    for shot in range(shots):
        scene = _scene(random, width, height)
        spare = np.array(scene.shape[:2]) - (2 * height, 2 * width)
        speed = np.zeros(2) if still else random.uniform(-6, 6, 2)
        start = spare * (speed < 0)
        count = frames // shots + (frames % shots if shot == 0 else 0)
        for index in range(count):
            top, left = np.clip(start + np.rint(speed * index).astype(int), 0, spare)
            view = scene[top : top + 2 * height, left : left + 2 * width]
            view = view.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
            down, across = random.integers(0, 64, 2)
            view = view + grain[down : down + height, across : across + width, None]
            yield np.clip(np.rint(view), 0, 255).astype(np.uint8)


def _scene(random: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """Return a wide picture at twice the size, [2H+256, 2W+256, 3]: overlapping round things, each of some material."""
    rows, columns = 2 * height + 256, 2 * width + 256
    scene = np.empty((rows, columns, 3), np.float32)
    scene[:] = random.uniform(40, 200, 3)
    scene += _texture(random, rows, columns, random.uniform(0.8, 1.6), random.uniform(5, 30))[..., None]
    down, across = np.mgrid[:rows, :columns].astype(np.float32)
    for _ in range(40):
        radius = min(rows, columns) * 0.4 * random.power(0.5) + 12
        middle = random.uniform(0, rows), random.uniform(0, columns)
        top, bottom = (int(np.clip(middle[0] + side * radius, 0, rows)) for side in (-1, 1))
        left, right = (int(np.clip(middle[1] + side * radius, 0, columns)) for side in (-1, 1))
        part = slice(top, bottom), slice(left, right)
        inside = np.hypot(down[part] - middle[0], across[part] - middle[1]) < radius
        if not inside.any():
            continue
        material = (
            random.uniform(20, 230, 3)
            + _texture(random, bottom - top, right - left, random.uniform(0.5, 1.8), random.uniform(0, 25))[..., None]
        )
        scene[part][inside] = material[inside]
    return scene


def _texture(
    random: np.random.Generator, rows: int, columns: int, fall: float, deviation: float
) -> NDArray[np.float32]:
    """Return noise whose spectrum falls with frequency to the power of `fall`, as natural surfaces' does."""
    frequencies = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None]) + 1 / max(rows, columns)
    spectrum = np.fft.rfft2(random.standard_normal((rows, columns)).astype(np.float32)) / frequencies**fall
    texture = np.fft.irfft2(spectrum, (rows, columns))
    return np.asarray(deviation * texture / (texture.std() + 1e-9), np.float32)
