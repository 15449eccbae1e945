"""Decoding a clip tile by tile in space, where the whole picture's activations and state are too large for the device.

What attends to the whole picture, the decoder's front (see engines/graphs/parts.py), works at the latents' size and so takes
little: it decodes whole pictures, and what it hands on goes to a file. The rear then decodes each tile of that through all
of time, so that what is held is one tile's; its pictures go to a file, too. Last the tiles of each picture are read back and
blended. The price: the first picture comes when all tiles are decoded, the files take disk (a byte for each pixel and colour,
overlaps counted twice, and four for each value that is handed on), and overlaps are decoded more than once. Memory grows neither
with the length of the clip nor, but for one picture and the front, with its size.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.geometry import clip_size
from ...bundle.manifest import LatentGeometry
from ...core import paths
from ...core.errors import EngineError, OutputError, UsageError
from ...core.units import format_bytes
from ...engines import Session
from .decoder import decode_inputs, latent_frames, run_front

DEFAULT_OVERLAP = 5
"""Latents that neighbouring tiles share at least: the least with which pictures are within 45 dB of the untiled ones.

Measured with tiles from half the picture down to the smallest, which are the worst: the demo's clips (55 dB with 4 latents,
46 with 3), and a Wan 2.1 VAE with random weights on noise (54 dB with 6, 47 with 5, 39 with 4, 32 with 3).
"""


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
    rows, columns = spans(height, tile.height, tile.overlap), spans(width, tile.width, tile.overlap)
    return [Rectangle(top, left, bottom - top, right - left) for (top, bottom), (left, right) in product(rows, columns)]


def decode_tiled(
    front: tuple[Session, Session] | None,
    rear: tuple[Session, Session],
    latents: NDArray[np.float32],
    geometry: LatentGeometry,
    tile: Tile,
    scratch_folder: Path | None = None,
    on_tile: Callable[[int, int], object] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 [H, W, 3], of latents [1, C, F, H, W] (normalised units), decoded tile by tile.

    front, rear: of the opened `decoder_first` and `decoder_next` graphs; front is None where the rear is all of them.
    scratch_folder: where the tiles' pictures are kept meanwhile, by default what find_scratch_folder finds; nothing is left
    there, whatever ends the decoding. on_tile(done, total): called before the first tile and after each.
    Raises EngineError as decode_frames does, OutputError where the folder has not enough room.
    """
    _, _, count = clip_size(geometry, latents.shape)
    tiles, bytes_of_tiles = _tiles(latents.shape, geometry, tile)
    tell = on_tile or (lambda done, total: None)
    with _scratch(scratch_folder or find_scratch_folder(sum(bytes_of_tiles) * count)) as scratch:
        scratch.reserve(sum(bytes_of_tiles) * count)
        tell(0, len(tiles))
        maps = None if front is None else _Maps(run_front(*front, latents), latents.shape, scratch)
        file = scratch.new_file()
        for done, part in enumerate(tiles, start=1):
            inputs = latent_frames(_cut(latents, part, 1)) if maps is None else maps.frames(part)
            size = (part.height * geometry.spatial_scale, part.width * geometry.spatial_scale)
            for picture in decode_inputs(*rear, inputs, size, geometry):
                file.write(picture.tobytes())
            tell(done, len(tiles))
        starts = [sum(bytes_of_tiles[:at]) * count for at in range(len(tiles))]
        blend = _Blend(latents.shape[3], latents.shape[4], tile, geometry.spatial_scale)
        for index in range(count):
            for start, length in zip(starts, bytes_of_tiles, strict=True):
                file.seek(start + index * length)
                blend.add(file.read(length))
            yield blend.finish()


def check_scratch(latents: tuple[int, ...], geometry: LatentGeometry, tile: Tile) -> None:
    """Make sure, before any work, that there is a place for the tiles of a clip. latents: their shape [1, C, F, H, W].

    Raises OutputError.
    """
    find_scratch_folder(sum(_tiles(latents, geometry, tile)[1]) * clip_size(geometry, latents)[2])


def find_scratch_folder(needed: int) -> Path:
    """Return a folder that takes scratch files of so many bytes; see paths.scratch_folder. Raises OutputError."""
    try:
        return paths.scratch_folder(needed)
    except OSError as error:
        raise OutputError(
            f"tiled decoding needs {format_bytes(needed)} for scratch files and finds no place for them ({error.strerror}): "
            "make room, or choose a folder with EDGEREEL_CACHE or TMPDIR"
        ) from error


def _tiles(latents: tuple[int, ...], geometry: LatentGeometry, tile: Tile) -> tuple[list[Rectangle], list[int]]:
    """Return the tiles of a clip's pictures and the bytes that each takes of one picture."""
    tiles = plan_tiles(latents[3], latents[4], tile)
    return tiles, [3 * part.height * part.width * geometry.spatial_scale**2 for part in tiles]


class _Maps:
    """What a decoder's front made of each latent frame, in a file, to be read back tile by tile."""

    def __init__(
        self, frames: Iterator[Mapping[str, NDArray[Any]]], latents: tuple[int, ...], scratch: _Scratch
    ) -> None:
        """frames: arrays by name, [..., H, W] of whole pictures, of one shape for all frames. latents: the latents' shape."""
        self._file = scratch.new_file()
        self._empty: dict[str, NDArray[Any]] = {}
        self._count = latents[2]
        for frame in frames:
            arrays = {name: np.empty_like(array) for name, array in frame.items()}
            if not self._empty:
                self._empty = arrays
                self._scales = {name: _scale(array.shape, latents) for name, array in frame.items()}
                scratch.reserve(sum(array.nbytes for array in frame.values()) * self._count)
            same = [(name, array.shape, array.dtype) for name, array in arrays.items()]
            if same != [(name, array.shape, array.dtype) for name, array in self._empty.items()]:
                raise EngineError(
                    "the front of the decoder hands on other shapes for later frames: the bundle is at fault"
                )
            for array in frame.values():
                self._file.write(np.ascontiguousarray(array).data)

    def frames(self, part: Rectangle) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield a part of what was made of each frame, by name."""
        self._file.seek(0)
        for _ in range(self._count):
            yield {name: _cut(self._read(array), part, self._scales[name]) for name, array in self._empty.items()}

    def _read(self, like: NDArray[Any]) -> NDArray[Any]:
        return np.frombuffer(self._file.read(like.nbytes), like.dtype).reshape(like.shape)


def _cut(array: NDArray[Any], part: Rectangle, scale: int) -> NDArray[Any]:
    """Return a part of whole pictures [..., H, W]. scale: the pixels to a latent."""
    rows = slice(part.top * scale, (part.top + part.height) * scale)
    columns = slice(part.left * scale, (part.left + part.width) * scale)
    return array[..., rows, columns]


def _scale(shape: tuple[int, ...], latents: tuple[int, ...]) -> int:
    """Return how many pixels to a latent, along each side, what the front hands on has."""
    scale = shape[-1] // latents[-1] if len(shape) > 1 else 0
    if scale < 1 or shape[-2:] != (latents[-2] * scale, latents[-1] * scale):
        raise EngineError(
            f"the front of the decoder hands on {list(shape)} for latents {list(latents)}: that cannot be cut into tiles"
        )
    return scale


class _Blend:
    """One picture after the other, put together of its tiles in the order of plan_tiles."""

    def __init__(self, height: int, width: int, tile: Tile, scale: int) -> None:
        self._tiles = plan_tiles(height, width, tile)
        rows = _weights(spans(height, tile.height, tile.overlap), tile.overlap, scale)
        columns = _weights(spans(width, tile.width, tile.overlap), tile.overlap, scale)
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


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
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


class _Scratch:
    """Files without names in one folder."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self._folder, self._files = folder, files
        self._wanted = 0

    def reserve(self, size: int) -> None:
        """Make sure that there is room for so many bytes more, none of what was asked for before being written yet."""
        self._wanted += size
        free = shutil.disk_usage(self._folder).free
        if free < self._wanted:
            raise OutputError(
                f"tiled decoding needs {format_bytes(self._wanted)} in {self._folder}, where {format_bytes(free)} are free: "
                "make room or choose another folder"
            )

    def new_file(self) -> IO[bytes]:
        """Return a file that is gone when the block of _scratch or the process ends."""
        return self._files.enter_context(tempfile.TemporaryFile(dir=self._folder))


@contextmanager
def _scratch(folder: Path) -> Iterator[_Scratch]:
    """Give a place for scratch files for the time of the block. Raises OutputError where the folder cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            yield _Scratch(folder, files)
    except OSError as error:
        raise OutputError(f"tiled decoding cannot use {folder}: {error.strerror or error}") from error
