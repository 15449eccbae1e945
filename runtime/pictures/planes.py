"""From brightness and colour planes, as JPEG and WebP store them, to RGB.

FFmpeg's scaler repeats colours where they have fewer pixels than brightness; here they are interpolated, as other readers of
pictures do.
"""

from __future__ import annotations

import re

import av
import numpy as np
from numpy.typing import NDArray

_ROWS = 256
_FORMATS = re.compile(r"yuv(j?)(a?)4[0-9]{2}p")


def to_rgb(frame: av.VideoFrame) -> NDArray[np.uint8] | None:
    """Return the pixels [H, W, 3], or [H, W, 4] with transparency, of a frame in planes; None where it is in another form.

    Colours are those of ITU-R BT.601, which both formats have; WebP's are of limited range.
    """
    found = _FORMATS.fullmatch(frame.format.name)
    if found is None:
        return None
    full_range = bool(found[1])
    planes = [_array(plane) for plane in frame.planes]
    width, height = frame.width, frame.height
    result = np.empty((height, width, len(planes)), np.uint8)
    for start in range(0, height, _ROWS):
        rows = np.arange(start, min(start + _ROWS, height))
        y = planes[0][rows, :width].astype(np.float32)
        u, v = (_interpolated(plane, rows, width, height) - np.float32(128) for plane in planes[1:3])
        if not full_range:
            y = (y - np.float32(16)) * np.float32(255 / 219)
            u, v = u * np.float32(255 / 224), v * np.float32(255 / 224)
        colours = (y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u)
        for index, values in enumerate(colours):
            result[rows, :, index] = np.clip(np.round(values), 0, 255)
        if len(planes) == 4:
            result[rows, :, 3] = planes[3][rows, :width]
    return result


def _array(plane: av.video.plane.VideoPlane) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _interpolated(plane: NDArray[np.uint8], rows: NDArray[np.int64], width: int, height: int) -> NDArray[np.float32]:
    """Return rows of a plane at the size of the picture, between whose pixels its own lie evenly."""
    tall, wide = plane.shape
    low, high, share = _neighbours(rows, -(-height // tall), tall)
    lines = plane[low] * (1 - share)[:, None] + plane[high] * share[:, None]
    low, high, share = _neighbours(np.arange(width), -(-width // wide), wide)
    return (lines[:, low] * (1 - share) + lines[:, high] * share).astype(np.float32, copy=False)


def _neighbours(
    places: NDArray[np.int64], factor: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the two pixels of a smaller plane that each place lies between, and the second one's share."""
    exact = (places + 0.5) / factor - 0.5
    low = np.floor(exact).astype(np.int64)
    share = (exact - low).astype(np.float32)
    return np.clip(low, 0, length - 1), np.clip(low + 1, 0, length - 1), share
