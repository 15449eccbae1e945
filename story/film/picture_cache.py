"""Decoded pictures of scenes in the user's cache folder, without loss, so that a film after a change need not decode all again.

Each scene's are an FFV1 file, a tenth of the pixels' size. They are kept under the scene's key, its decoder, and the number of
threads, which decoded values depend on in their last bit. The folder has a limit; files not used for longest go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError, OutputError
from ...core.files import keep_within, remove, replace_file, sweep, temporary_beside
from ...core.paths import find_cache_folder

Picture = NDArray[np.uint8]
LIMIT = 8 * 2**30
_WITHOUT_LOSS = "bgr0"  # as pixels are, but for their order
_SUFFIX = ".mkv"


class PictureCache:
    """See above. folder: None for the user's; where there is no home folder, or it cannot be written, nothing is kept."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        user = find_cache_folder()
        self._folder = folder if folder is not None or user is None else user / "pictures"
        self._limit = limit

    def read(self, key: str, count: int, first: int = 0) -> Iterator[Picture] | None:
        """Return a scene's pictures, uint8 [H, W, 3], from one of them on; None where they are not all there.

        key: see picture_key.
        """
        if self._folder is None:
            return None
        path = self._folder / (key + _SUFFIX)
        try:
            with av.open(str(path), format="matroska") as container:
                kept = container.streams.video[0]
                if kept.codec_context.name != "ffv1" or container.metadata.get("COUNT") != _note(key, count):
                    return None
            os.utime(path)
        except (OSError, av.FFmpegError, IndexError):
            return None
        return _read(path, count, first)

    def keeping(self, key: str, pictures: Iterator[Picture], count: int) -> Iterator[Picture]:
        """Yield the pictures of a scene as they are, and keep them when they are all there."""
        temporary: Path | None = None
        writer: _Writer | None = None
        try:
            with contextlib.suppress(OSError, av.FFmpegError):
                if self._folder is not None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    temporary = temporary_beside(self._folder / (key + _SUFFIX))
            for number, picture in enumerate(pictures, start=1):
                if temporary is not None:
                    try:
                        writer = writer or _Writer(temporary, picture.shape[1], picture.shape[0], _note(key, count))
                        writer.add(picture)
                    except (OSError, av.FFmpegError):
                        remove(temporary)
                        temporary = None
                # Before the last one is handed out: who counts them does not ask for another.
                if number == count and temporary is not None and writer is not None:
                    with contextlib.suppress(OSError, av.FFmpegError, OutputError):
                        writer.close()
                        replace_file(temporary, temporary.with_name(key + _SUFFIX))
                        sweep(temporary.parent)
                        keep_within(temporary.parent, _SUFFIX, self._limit)
                yield picture
                if number == count:
                    return
        finally:
            if writer is not None:
                with contextlib.suppress(Exception):
                    writer.close()
            if temporary is not None:
                remove(temporary)


def picture_key(key: str, decoder: str | None, threads: int | None) -> str:
    """Return what a scene's pictures are kept under. key: the scene's."""
    return hashlib.sha256(f"{key} {decoder} {threads} {av.__version__} 1".encode()).hexdigest()


def _note(key: str, count: int) -> str:
    """Return what a file says of itself: how many pictures it has, and whose, so that another's in its place is not shown."""
    return f"{count} of {key}"


class _Writer:
    def __init__(self, path: Path, width: int, height: int, note: str) -> None:
        self._container = av.open(str(path), "w", format="matroska")
        self._stream = self._container.add_stream("ffv1", rate=1, options={"level": "3", "slicecrc": "1"})
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, _WITHOUT_LOSS
        self._container.metadata["COUNT"] = note
        self._number = 0

    def add(self, picture: Picture) -> None:
        """Write the next picture."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=_WITHOUT_LOSS)
        frame.pts, frame.time_base = self._number, Fraction(1, 1)
        self._container.mux(self._stream.encode(frame))
        self._number += 1

    def close(self) -> None:
        """Write the end."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._stream = None  # type: ignore[assignment]


def _read(path: Path, count: int, first: int) -> Iterator[Picture]:
    number = 0
    with contextlib.suppress(OSError, av.FFmpegError), av.open(str(path), format="matroska") as container:
        for frame in container.decode(video=0):
            if number >= first:
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            number += 1
    if number != count:
        remove(path)
        raise EngineError(f"{path}: the kept pictures of a scene were damaged, and are removed: make the film again")
