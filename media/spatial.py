"""Boxes in an MP4 that say its pictures are stereo, or a whole sphere: st3d and sv3d, Spatial Media RFC, version 2.

They say what pictures are and change none of them: they are for models that make such pictures.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..core.errors import OutputError, UsageError

STEREO = {"top-bottom": 1, "left-right": 2}
PROJECTIONS = ("equirectangular",)
_LARGEST_INDEX = 2**30
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_ENTRIES = {b"avc1", b"hvc1", b"hev1", b"av01"}


@dataclass(frozen=True)
class Spatial:
    """stereo: a key of STEREO, None for one eye. projection: one of PROJECTIONS, None for flat pictures."""

    stereo: str | None = None
    projection: str | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for words that are none."""
        if self.stereo is not None and self.stereo not in STEREO:
            raise UsageError(f"stereo is {self.stereo[:30]!r}: choose from {', '.join(STEREO)}")
        if self.projection is not None and self.projection not in PROJECTIONS:
            raise UsageError(f"projection is {self.projection[:30]!r}: choose from {', '.join(PROJECTIONS)}")

    def boxes(self) -> bytes:
        """Return the boxes, nothing where the pictures are as others."""
        boxes = b""
        if self.stereo is not None:
            boxes += _full(b"st3d", bytes([STEREO[self.stereo]]))
        if self.projection is not None:
            sphere = _full(b"prhd", struct.pack(">iii", 0, 0, 0)) + _full(b"equi", struct.pack(">IIII", 0, 0, 0, 0))
            boxes += _box(b"sv3d", _full(b"svhd", b"edgereel\0") + _box(b"proj", sphere))
        return boxes


def mark_spatial(path: Path, spatial: Spatial) -> None:
    """Put the boxes into the video track of an MP4, in place of the file. Raises OutputError where it is no such file, OSError."""
    boxes = spatial.boxes()
    if not boxes:
        return
    other = path.with_name(f"{path.name}.spatial")
    try:
        with path.open("rb") as source, other.open("xb") as target:
            start, size = _index(source)
            source.seek(start)
            index = bytearray(source.read(size))
            data_follows = _data_start(source) > start
            index = _with_boxes(index, boxes, len(boxes) if data_follows else 0)
            source.seek(0)
            _copy(source, target, start)
            target.write(index)
            source.seek(start + size)
            shutil.copyfileobj(source, target, 2**20)
        os.replace(other, path)
    finally:
        other.unlink(missing_ok=True)


def _with_boxes(index: bytearray, boxes: bytes, shift: int) -> bytearray:
    """Return a moov box with boxes at the end of the video's sample entry. shift: how far the data moves with that."""
    place = next(((path, at, size) for path, at, size in _walk(index, 0, len(index), ()) if path[-1] in _ENTRIES), None)
    if place is None:
        raise OutputError("the file has no video track that boxes could be put into")
    _, at, size = place
    for path, start, _ in list(_walk(index, 0, len(index), ())):
        if path[-1] in (b"stco", b"co64") and shift:
            wide = path[-1] == b"co64"
            count = struct.unpack_from(">I", index, start + 12)[0]
            layout = f">{count}{'Q' if wide else 'I'}"
            offsets = struct.unpack_from(layout, index, start + 16)
            if not wide and offsets and max(offsets) + shift >= 2**32:
                raise OutputError("the file is too near to 4 GiB for boxes to be put into it")
            struct.pack_into(layout, index, start + 16, *(offset + shift for offset in offsets))
    # Every box around the sample entry grows by the boxes, and so does the entry.
    for _, start, length in list(_walk(index, 0, len(index), ())):
        if start <= at < start + length:
            struct.pack_into(">I", index, start, length + len(boxes))
    return index[: at + size] + boxes + index[at + size :]


def _walk(
    data: bytes | bytearray, start: int, end: int, inside: tuple[bytes, ...]
) -> Iterator[tuple[tuple[bytes, ...], int, int]]:
    """Yield (names from the top, offset, size) of the boxes that lead to sample entries and chunk offsets. Raises OutputError."""
    at = start
    while at + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > end:
            raise OutputError("the file's index cannot be read")
        path = (*inside, name)
        yield path, at, size
        if name in _CONTAINERS:
            yield from _walk(data, at + 8, at + size, path)
        elif name == b"stsd":
            yield from _walk(data, at + 16, at + size, path)
        at += size


def _top(source: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset, size) of the boxes of a file."""
    end = source.seek(0, os.SEEK_END)
    at = 0
    while at + 8 <= end:
        source.seek(at)
        size, name = struct.unpack(">I4s", source.read(8))
        if size == 1:
            size = struct.unpack(">Q", source.read(8))[0]
        elif size == 0:
            size = end - at
        if size < 8:
            return
        yield name, at, size
        at += size


def _index(source: BinaryIO) -> tuple[int, int]:
    for name, start, size in _top(source):
        if name == b"moov" and size <= _LARGEST_INDEX:
            return start, size
    raise OutputError("the file has no index")


def _data_start(source: BinaryIO) -> int:
    return next((start for name, start, _ in _top(source) if name == b"mdat"), 0)


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        part = source.read(min(count, 2**20))
        if not part:
            raise OutputError("the file is shorter than its boxes say")
        target.write(part)
        count -= len(part)


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def _full(name: bytes, content: bytes) -> bytes:
    return _box(name, bytes(4) + content)
