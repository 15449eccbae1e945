"""Scaling pictures to a size, with antialiasing, in numpy: cropped to its shape, or padded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""Pixels [H, W, 3], sRGB."""
Fit = Literal["crop", "pad"]
FITS: tuple[Fit, ...] = ("crop", "pad")
_ROWS = 256
"""Rows that are scaled at once, so that a large picture is never in memory as floats."""


def fit_picture(picture: Picture, width: int, height: int, fit: Fit = "crop") -> Picture:
    """Return a picture of that size, its shape kept: what is too much is cut off evenly, or black bars are added.

    Scaled with Lanczos' kernel of 3 lobes, which is widened where it becomes smaller, as Pillow does.
    """
    rows, columns = picture.shape[:2]
    if (columns, rows) == (width, height):
        return picture
    if fit == "crop":
        scale = min(columns / width, rows / height)
        left, top = (columns - width * scale) / 2, (rows - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
        return _to_bytes(_scale(picture, width, height, box, _lanczos, 3))
    scale = max(columns / width, rows / height)
    inner = min(width, max(1, round(columns / scale))), min(height, max(1, round(rows / scale)))
    scaled = _to_bytes(_scale(picture, *inner, (0, 0, columns, rows), _lanczos, 3))
    result = np.zeros((height, width, 3), np.uint8)
    at = (height - inner[1]) // 2, (width - inner[0]) // 2
    result[at[0] : at[0] + inner[1], at[1] : at[1] + inner[0]] = scaled
    return result


def fit_for_encoder(picture: Picture, side: int, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return a picture as an image encoder takes it: [1, 3, side, side], the middle, as (x / 255 - mean) / std.

    Scaled with a cubic kernel (a = -1/2), widened where it becomes smaller, and rounded to bytes, as CLIP's processor does.
    """
    rows, columns = picture.shape[:2]
    short = min(rows, columns)
    # The shorter side is scaled to `side` first, and the middle of that cut out at whole pixels.
    width, height = (side if length == short else int(side * length / short) for length in (columns, rows))
    scaled = _to_bytes(_scale(picture, width, height, (0, 0, columns, rows), _cubic, 2))
    top, left = (height - side) // 2, (width - side) // 2
    square = scaled[top : top + side, left : left + side].astype(np.float32) / np.float32(255)
    normalised = (square - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])


def _scale(
    picture: Picture,
    width: int,
    height: int,
    box: tuple[float, float, float, float],
    kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    reach: int,
) -> NDArray[np.float32]:
    """Return a box (left, top, right, bottom; pixels, fractions too) of a picture, scaled to [height, width, 3]."""
    rows, columns = picture.shape[:2]
    across, shares_across = _taps(columns, width, box[0], box[2], kernel, reach)
    down, shares_down = _taps(rows, height, box[1], box[3], kernel, reach)
    first, end = int(down.min()), int(down.max()) + 1
    narrow = np.empty((end - first, width, 3), np.uint8)
    for start in range(0, len(narrow), _ROWS):
        block = picture[first + start : min(first + start + _ROWS, end)]
        made = np.zeros((len(block), width, 3), np.float32)
        for pixels, shares in zip(across, shares_across, strict=True):
            made += block[:, pixels] * shares[None, :, None]
        narrow[start : start + _ROWS] = _to_bytes(made)  # Pillow rounds between the two directions, and so do we
    scaled = np.zeros((height, width, 3), np.float32)
    for pixels, shares in zip(down - first, shares_down, strict=True):
        scaled += narrow[pixels] * shares[:, None, None]
    return scaled


def _taps(
    length: int,
    count: int,
    start: float,
    end: float,
    kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    reach: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which pixels along one axis each pixel is made of, [taps, count], and the share that each of them has."""
    scale = (end - start) / count
    widened = max(scale, 1.0)
    centres = start + (np.arange(count) + 0.5) * scale
    lowest = np.floor(centres - reach * widened).astype(np.int64)
    pixels = lowest[None] + np.arange(math.ceil(2 * reach * widened) + 2)[:, None]
    shares = kernel((pixels + 0.5 - centres) / widened) * ((pixels >= 0) & (pixels < length))
    return np.clip(pixels, 0, length - 1), (shares / shares.sum(axis=0)).astype(np.float32)


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _to_bytes(values: NDArray[np.float32]) -> Picture:
    rounded: Picture = np.clip(np.floor(values + np.float32(0.5)), 0, 255).astype(np.uint8)
    return rounded
