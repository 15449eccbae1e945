"""Decoding a clip tile by tile in space, where the whole picture's activations and state are too large for the device.

Each tile is decoded through all of time, so that what is held is one tile's; its pictures go to a file. Then the tiles
of each picture are read back and blended. The price: the first picture comes when all tiles are decoded, the file takes
disk (a byte for each pixel and colour, overlaps counted twice), and overlaps are decoded more than once. Memory grows neither
with the length of the clip nor, but for one picture, with its size.

A decoder with attention over the whole picture, as Wan's has, attends to the tile alone: tiles are an approximation, whose
error an overlap beyond what the convolutions reach does not lower any more.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from .. import paths
from ..engines import Session
from ..errors import OutputError, UsageError
from .decoding import decode_frames
from .geometry import clip_size
from .manifest import LatentGeometry

DEFAULT_OVERLAP = 6
"""Latents that neighbouring tiles share at least: with 6 the demo's pictures are within 39 to 60 dB of the untiled ones."""


@dataclass(frozen=True)
class Tile:
    """Size of a tile and the least that neighbours overlap by, in latents. Raises UsageError where that is impossible."""

    height: int
    width: int
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < min(self.height, self.width):
            raise UsageError(
                f"tiles of {self.height}x{self.width} latents cannot overlap by {self.overlap}: "
                "choose an overlap from 0 to less than height and width"
            )


@dataclass(frozen=True)
class Rectangle:
    """A part of a picture, in latents."""

    top: int
    left: int
    height: int
    width: int


def plan_tiles(height: int, width: int, tile: Tile) -> list[Rectangle]:
    """Return the tiles of a picture of height x width latents, row by row.

    The fewest that cover it, all of the tile's size (a picture that is smaller than that has one of its own), spread evenly:
    neighbours overlap by at least `tile.overlap`.
    """
    rows, columns = _spans(height, tile.height, tile.overlap), _spans(width, tile.width, tile.overlap)
    return [Rectangle(top, left, bottom - top, right - left) for (top, bottom), (left, right) in product(rows, columns)]


def decode_tiled(
    first: Session,
    following: Session,
    latents: NDArray[np.float32],
    geometry: LatentGeometry,
    tile: Tile,
    scratch_folder: Path | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 [H, W, 3], of latents [1, C, F, H, W] (normalised units), decoded tile by tile.

    first, following: as for decode_frames. scratch_folder: where the tiles' pictures are kept meanwhile, by default the
    user's cache folder (the system's folder for temporary files is memory on many machines); nothing is left there, whatever
    ends the decoding. Raises EngineError as decode_frames does, OutputError where the folder has not enough room.
    """
    _, _, count = clip_size(geometry, latents.shape)
    tiles = plan_tiles(latents.shape[3], latents.shape[4], tile)
    bytes_of_tiles = [3 * part.height * part.width * geometry.spatial_scale**2 for part in tiles]
    with _scratch_file(scratch_folder or paths.cache_folder(), sum(bytes_of_tiles) * count) as scratch:
        for part in tiles:
            cut = latents[..., part.top : part.top + part.height, part.left : part.left + part.width]
            for picture in decode_frames(first, following, cut, geometry):
                scratch.write(picture.tobytes())
        starts = [sum(bytes_of_tiles[:at]) * count for at in range(len(tiles))]
        blend = _Blend(latents.shape[3], latents.shape[4], tile, geometry.spatial_scale)
        for index in range(count):
            for start, length in zip(starts, bytes_of_tiles, strict=True):
                scratch.seek(start + index * length)
                blend.add(scratch.read(length))
            yield blend.finish()


class _Blend:
    """One picture after the other, put together of its tiles in the order of plan_tiles."""

    def __init__(self, height: int, width: int, tile: Tile, scale: int) -> None:
        self._tiles = plan_tiles(height, width, tile)
        rows = _weights(_spans(height, tile.height, tile.overlap), tile.overlap, scale)
        columns = _weights(_spans(width, tile.width, tile.overlap), tile.overlap, scale)
        self._weights = list(product(rows, columns))
        self._scale = scale
        self._sum = np.zeros((height * scale, width * scale, 3), np.float32)
        self._added = 0

    def add(self, content: bytes) -> None:
        """Add the next tile's part of the picture."""
        part, (rows, columns) = self._tiles[self._added], self._weights[self._added]
        top, left = part.top * self._scale, part.left * self._scale
        picture = np.frombuffer(content, np.uint8).reshape(len(rows), len(columns), 3)
        weights = (rows[:, None] * columns[None, :])[..., None]
        self._sum[top : top + len(rows), left : left + len(columns)] += picture * weights
        self._added += 1

    def finish(self) -> NDArray[np.uint8]:
        """Return the picture whose tiles were all added, and begin the next."""
        picture: NDArray[np.uint8] = np.round(self._sum).astype(np.uint8)
        self._sum[:] = 0
        self._added = 0
        return picture


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return (start, end) of the tiles along one axis."""
    if length <= tile:
        return [(0, length)]
    steps = -(-(length - tile) // (tile - overlap))
    starts = [at * (length - tile) // steps for at in range(steps + 1)]
    return [(start, start + tile) for start in starts]


def _weights(spans: list[tuple[int, int]], overlap: int, scale: int) -> list[NDArray[np.float32]]:
    """Return for each tile along one axis the weight of each of its pixels.

    A ramp of one latent in the middle of each overlap leads from a tile to the next. What lies nearer to a tile's edge
    inside the picture does not count: the decoder saw zeros there in the place of what is beyond. Longer ramps measured
    worse, since they count more of that.
    """
    ramp = scale if overlap else 0
    pixels = np.arange(spans[-1][1] * scale) + 0.5
    reached: list[NDArray[np.float64]] = [np.ones(len(pixels))]  # by the tile and those after it
    for (_, end), (start, _) in pairwise(spans):
        middle = (start + end) * scale / 2
        reached.append(np.clip((pixels - middle) / ramp + 0.5, 0, 1) if ramp else np.heaviside(pixels - middle, 1))
    reached.append(np.zeros(len(pixels)))
    return [
        (own - after)[start * scale : end * scale].astype(np.float32)
        for (start, end), (own, after) in zip(spans, pairwise(reached), strict=True)
    ]


@contextmanager
def _scratch_file(folder: Path, size: int) -> Iterator[IO[bytes]]:
    """Give a file without a name, which is gone when it is closed or the process ends. size: bytes it will grow to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OutputError(
                f"tiled decoding needs {size / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free: "
                "make room or choose another folder"
            )
        with tempfile.TemporaryFile(dir=folder) as file:
            yield file
    except OSError as error:
        raise OutputError(f"tiled decoding cannot use {folder}: {error.strerror or error}") from error
