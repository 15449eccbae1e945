"""Laying a watermark over frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ...core.errors import GeometryError
from .pattern import PUBLIC_KEY, TILE, pattern_of
from .payload import Payload, encode

SMALLEST = TILE
"""Pixels a side below which no mark can be relied on."""
_BLOCK = 8
_MOST = 1.95
"""The largest deviation that a mark adds anywhere, of 255: with what rounding adds and parts of a tile, 42 dB."""


def check_markable(width: int, height: int) -> None:
    """Raise GeometryError where pictures are too small for a watermark."""
    if min(width, height) < SMALLEST:
        raise GeometryError(
            f"{width}x{height} is too small for a watermark that can be relied on: it needs {SMALLEST} pixels a side; "
            "use --mark none, which leaves the note in the metadata, or a larger --size"
        )


class Watermark:
    """The mark of one clip, laid over its frames as they come.

    The same pattern is added to every frame, more of it where the picture is busy (Voloshynovskiy, Herrigel, Baumgaertner,
    Pun: A stochastic approach to content adaptive digital image watermarking, Information Hiding 1999). The noise it adds
    never exceeds 2 of 255 in the root mean square, which is 42 dB.
    """

    def __init__(self, payload: Payload, key: str = PUBLIC_KEY, strength: float | None = None) -> None:
        self.payload = payload
        self._tile = pattern_of(key).tile(encode(payload))
        self._strength = strength
        self._spread: NDArray[np.float32] | None = None

    def over(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames, uint8 [H, W, 3], RGB, with the mark in them. Raises GeometryError below SMALLEST pixels."""
        for frame in frames:
            yield self.apply(frame)

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return one frame with the mark in it."""
        height, width = frame.shape[:2]
        if self._spread is None or self._spread.shape != (height, width):
            check_markable(width, height)
            repeats = -(-height // TILE), -(-width // TILE)
            self._spread = np.ascontiguousarray(np.tile(self._tile, repeats)[:height, :width])
        strength = self._strength if self._strength is not None else strength_for(width, height)
        added = _amplitude(frame[..., 1], strength) * self._spread
        np.rint(added, out=added)
        result: NDArray[np.int16] = frame + added.astype(np.int16)[..., None]
        return np.clip(result, 0, 255, out=result).astype(np.uint8)


def strength_for(width: int, height: int) -> float:
    """Return how strong a mark is: small pictures hold few tiles, so theirs is stronger."""
    return 1.5 if width * height >= 200_000 else 2.2


def _amplitude(luma: NDArray[np.uint8], strength: float) -> NDArray[np.float32]:
    """Return how much of the pattern each pixel takes, [H, W], from how busy the picture is around it."""
    height, width = luma.shape
    rows, columns = height // _BLOCK, width // _BLOCK
    blocks = luma[: rows * _BLOCK : 2, : columns * _BLOCK : 2].reshape(rows, _BLOCK // 2, columns, _BLOCK // 2)
    blocks = blocks.astype(np.float32)
    deviation = blocks.std(axis=(1, 3))
    padded = np.pad(deviation, 1, mode="edge")
    busy = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] + 2 * padded[1:-1, 1:-1]) / 6
    amount = np.minimum(strength * (0.9 + busy / 20), _MOST).astype(np.float32)
    whole: NDArray[np.float32] = amount.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
    if whole.shape == luma.shape:
        return whole
    return np.pad(whole, ((0, height - whole.shape[0]), (0, width - whole.shape[1])), mode="edge")
