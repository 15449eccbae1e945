"""What every way of writing a clip shares: under its name the result is complete, or what was there before still is.

Frames are written as they come, a few in memory at a time, under a hidden name beside the output, and take the output's
place when they are whole. Whatever stops that, an earlier output stays as it was.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import av
import numpy as np
import numpy.typing as npt

from ...core.errors import GeometryError, OutputError
from ...core.files import output_errors, remove, replace_file, temporary_beside
from .behind import Behind

Frame = npt.NDArray[np.uint8]
_WAITING = 8
"""Frames that wait to be written: those of two calls of a decoder, of which the second runs meanwhile."""


class Sink(ABC):
    """Where the frames of one clip go. `write_frames` calls start, add for each frame, finish; close in any case."""

    largest_side: int

    def check_size(self, width: int, height: int) -> None:
        """Raise GeometryError where the format has no pictures of this size in pixels."""
        if not (1 <= width <= self.largest_side and 1 <= height <= self.largest_side):
            raise GeometryError(
                f"a video of {width}x{height} cannot be written: width and height must be 1 to {self.largest_side}"
            )

    @abstractmethod
    def start(self, temporary: Path, width: int, height: int) -> None:
        """Begin at the temporary path, which does not exist yet. May raise OSError, like all that follow."""

    @abstractmethod
    def add(self, frame: Frame) -> None:
        """Write one frame, contiguous uint8 [H, W, 3]."""

    @abstractmethod
    def finish(self) -> None:
        """Write what comes after the last frame, so that nothing is missing from the result."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything, finished or not. Called whenever start was."""

    def publish(self, temporary: Path, target: Path) -> None:
        """Give the complete result its name, in the place of what has it now."""
        replace_file(temporary, target)


class FileSink(Sink):
    """A sink that writes the bytes of one file itself."""

    file: IO[bytes]

    def start(self, temporary: Path, width: int, height: int) -> None:
        """Create the file and write its beginning."""
        self.file = temporary.open("xb")
        self.begin(width, height)

    @abstractmethod
    def begin(self, width: int, height: int) -> None:
        """Write what comes before the first frame."""

    def finish(self) -> None:
        """Write the end of the file."""
        self.end()
        self.file.flush()

    @abstractmethod
    def end(self) -> None:
        """Write what comes after the last frame."""

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "file"):
            self.file.close()


def write_frames(target: Path, frames: Iterable[Frame], sink: Sink, seal: Callable[[Path], None] | None = None) -> int:
    """Write frames to a sink, then give the result its name; return how many there were.

    frames: uint8 [H, W, 3], all of one shape, at least one; consumed as they are written, while those before are: a decoder
    and an encoder work at the same time. seal: called with the complete result before it has its name; it may change it.
    Raises OutputError where writing fails, GeometryError and ValueError for frames that the sink does not take; what
    `frames` raises passes through unchanged.
    """
    temporary = temporary_beside(target)
    shape: tuple[int, ...] = ()
    count = 0
    try:
        try:
            with Behind(sink.add, _WAITING) as behind:
                for frame in frames:
                    _check_frame(frame, shape)
                    height, width = frame.shape[:2]
                    if not shape:
                        sink.check_size(width, height)
                    with writing_errors(target):
                        if not shape:
                            shape = frame.shape
                            sink.start(temporary, width, height)
                        # A copy: whoever makes frames may use the memory again.
                        behind.add(np.array(frame, order="C"))
                    count += 1
                if not count:
                    raise ValueError("there are no frames to write")
                with writing_errors(target):
                    behind.finish()
            with writing_errors(target):
                sink.finish()
        finally:
            # What closing could still complain of is of no interest after a failure, and after finish there is nothing.
            with contextlib.suppress(Exception):
                sink.close()
        if seal is not None:
            seal(temporary)
        with writing_errors(target):
            sink.publish(temporary, target)
    except BaseException:
        remove(temporary)
        raise
    return count


@contextlib.contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Say in one line that a clip cannot be written, and why, where the block meets an error of the system or of FFmpeg."""
    try:
        with output_errors(path):
            yield
    except av.FFmpegError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def require_encoder(name: str, what: str) -> None:
    """Raise OutputError where the installed PyAV lacks an encoder."""
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise OutputError(
            f"the installed PyAV {av.__version__} has no {name}, the {what} encoder: "
            "install the wheel from PyPI with pip install --force-reinstall --only-binary av av"
        ) from error


def _check_frame(frame: Frame, shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frames must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    if shape and frame.shape != shape:
        raise ValueError(f"frames must be of one size: {list(frame.shape)} follows {list(shape)}")
