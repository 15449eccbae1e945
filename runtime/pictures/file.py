"""Reading a picture that nobody vouches for: PNG, JPEG or WebP, as the pixels that a viewer would show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from ...core.errors import UsageError, one_line
from ...core.files import read_plain
from ...core.units import format_bytes
from .colour import to_srgb
from .containers import Container, read_container
from .fit import Picture
from .planes import to_rgb

LARGEST_FILE = 2**28
MOST_PIXELS = 2**26
"""67 million, more than cameras of telephones take. Decoded they are 300 MB."""
_DECODING = {"err_detect": "explode", "threads": "1"}


def read_picture(source: Any) -> Picture:
    """Return the pixels [H, W, 3], uint8, sRGB, of a PNG, JPEG or WebP file, or of an array that holds such.

    EXIF's orientation and the colour profile are applied; what is transparent is white. The file's type, size and integrity
    are checked before it is decoded. Raises UsageError with the reason in one line where it cannot be used.
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source)
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"a picture is a {type(source).__name__}: give a file's path or an array uint8 [H, W, 3]")
    path = Path(source)
    try:
        content = _read(path)
        container = read_container(content)
        if container.width * container.height > MOST_PIXELS:
            raise UsageError(
                f"has {container.width}x{container.height} pixels, more than {MOST_PIXELS / 1e6:.0f} million: scale it down"
            )
        return _turned(to_srgb(_decode(container), container.profile), container.orientation)
    except UsageError as error:
        raise UsageError(f"{one_line(path)}: {error}") from error


def _checked_array(array: NDArray[Any]) -> Picture:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UsageError(f"a picture is {array.dtype} {list(array.shape)}: it must be uint8 [H, W, 3]")
    if array.shape[0] * array.shape[1] > MOST_PIXELS:
        raise UsageError(
            f"a picture has {array.shape[1]}x{array.shape[0]} pixels, more than {MOST_PIXELS / 1e6:.0f} million"
        )
    return np.ascontiguousarray(array)


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UsageError("is not a file")
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(
                f"is {format_bytes(path.stat().st_size)}, more than {format_bytes(LARGEST_FILE)}: scale it down"
            )
        return read_plain(path, LARGEST_FILE, follow_links=True)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}") from error


def _decode(container: Container) -> Picture:
    """Return the pixels as they are stored, on white where they are transparent."""
    try:
        context = av.CodecContext.create(container.decoder, "r")
        assert isinstance(context, VideoCodecContext)
        context.options = _DECODING
        frames = [*context.decode(av.Packet(container.content)), *context.decode(None)]
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise UsageError("is damaged: its pixels cannot be decoded") from error
    if len(frames) != 1 or not isinstance(frames[0], av.VideoFrame) or frames[0].is_corrupt:
        raise UsageError("is damaged: its pixels cannot be decoded")
    frame = frames[0]
    if (frame.width, frame.height) != (container.width, container.height):
        raise UsageError("is damaged: it is not of the size that its header says")
    pixels = to_rgb(frame)
    if pixels is not None:
        return pixels if pixels.shape[2] == 3 else _on_white(pixels)
    if "a" in frame.format.name.replace("gray", "") or frame.format.name == "pal8":
        return _on_white(_bytes(frame, "rgba"))
    return _bytes(frame, "rgb24")


def _bytes(frame: av.VideoFrame, format: str) -> NDArray[np.uint8]:
    return np.ascontiguousarray(frame.to_ndarray(format=format), np.uint8)


def _on_white(pixels: NDArray[np.uint8]) -> Picture:
    if (pixels[..., 3] == 255).all():
        return np.ascontiguousarray(pixels[..., :3])
    result = np.empty((*pixels.shape[:2], 3), np.uint8)
    for row, made in zip(pixels, result, strict=True):
        share = row[:, 3:].astype(np.float32) / np.float32(255)
        made[:] = np.round(row[:, :3] * share + 255 * (1 - share))
    return result


def _turned(picture: Picture, orientation: int) -> Picture:
    """Return a picture the right way up. orientation: EXIF's: 2 mirrored, 3 upside down, 6 to be turned right, 8 left."""
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
