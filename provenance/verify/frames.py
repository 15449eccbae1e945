"""The frames of a file from anywhere, as many as the watermark's search has use for, and no more than can be afforded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import OutputError, brief

MOST_FRAMES = 48
_EVERY = 3
_LONGEST_SIDE = 1280
_MOST_PIXELS = 2**26
# What a file's first bytes say it is, not what FFmpeg makes of it: among its formats are lists that name other files.
_DEMUXERS = {
    "image/png": "png_pipe",
    "image/jpeg": "jpeg_pipe",
    "image/gif": "gif",
    "image/tiff": "tiff_pipe",
    "image/webp": "webp_pipe",
    "image/avif": "mov",
    "image/heic": "mov",
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/x-matroska": "matroska",
    "video/avi": "avi",
    "audio/mp4": "mov",
}


class Unwatchable(OutputError):
    """A file has no frames that can be looked at."""


def lumas(path: Path, kind: str) -> Iterator[NDArray[np.uint8]]:
    """Yield brightness, uint8 [H, W], of up to MOST_FRAMES frames from a file's beginning; large ones are made smaller.

    Every third frame of a video is taken, since neighbours are much alike; of short ones, all. Raises Unwatchable.
    """
    pictures = _with_pillow(path, kind) if kind == "image/webp" else _with_ffmpeg(path, kind)
    for index, picture in enumerate(pictures):
        if index < MOST_FRAMES // 2 or index % _EVERY == 0:
            yield picture
        if index >= MOST_FRAMES // 2 + _EVERY * MOST_FRAMES // 2:
            return


def colours(path: Path, kind: str) -> Iterator[NDArray[np.uint8]]:
    """Yield frames as `lumas` does, in RGB, uint8 [H, W, 3]. Raises Unwatchable."""
    pictures = _with_pillow(path, kind, "RGB") if kind == "image/webp" else _with_ffmpeg(path, kind, "rgb24")
    yield from islice(pictures, 0, None, _EVERY)


def _with_ffmpeg(path: Path, kind: str, format: str = "gray") -> Iterator[NDArray[np.uint8]]:
    import av

    if kind not in _DEMUXERS:
        raise Unwatchable(f"{kind} holds no pictures that are looked at")
    only = {"protocol_whitelist": "file"}
    try:
        with av.open(str(path), format=_DEMUXERS[kind], options=only, metadata_errors="replace") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise Unwatchable("it holds no pictures")
            if stream.codec_context is None:
                raise Unwatchable("nothing here decodes its pictures")
            _check(stream.width, stream.height)
            for frame in container.decode(stream):
                if isinstance(frame, av.VideoFrame):
                    _check(frame.width, frame.height)
                    width, height = _affordable(frame.width, frame.height)
                    gray = frame.reformat(width=width, height=height, format=format, interpolation="AREA")
                    yield np.asarray(gray.to_ndarray(), np.uint8)
    except (av.FFmpegError, ValueError, RuntimeError, TypeError) as error:
        raise Unwatchable(f"its pictures cannot be read: {brief(error)}") from error


def _with_pillow(path: Path, kind: str, format: str = "L") -> Iterator[NDArray[np.uint8]]:
    """FFmpeg reads no animated WebP."""
    try:
        from PIL import Image, ImageSequence
    except ImportError:
        yield from _with_ffmpeg(path, kind, "gray" if format == "L" else "rgb24")
        return
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            _check(*image.size)
            for frame in ImageSequence.Iterator(image):
                yield np.asarray(frame.convert(format).resize(_affordable(*image.size)))
    except Unwatchable:
        raise
    except Exception as error:  # Pillow raises whatever its parsers meet
        raise Unwatchable(f"its pictures cannot be read: {brief(error)}") from error


def _check(width: int, height: int) -> None:
    if width * height > _MOST_PIXELS or min(width, height) < 1:
        raise Unwatchable(f"pictures of {width}x{height} are not looked at")


def _affordable(width: int, height: int) -> tuple[int, int]:
    part = min(1.0, _LONGEST_SIDE / max(width, height))
    return max(1, round(width * part)), max(1, round(height * part))
