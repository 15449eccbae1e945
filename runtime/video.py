"""Writing frames to an MP4 file that is either complete or not there.

Frames are encoded as they come, one in memory at a time, into a hidden file beside the output, which takes the output's
place when it is whole. Whatever stops it, an earlier output stays as it was.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.video.stream import VideoStream

from ..errors import GeometryError, OutputError

Frame = npt.NDArray[np.uint8]

# What the MP4 muxer keeps; it drops any other key without a word.
METADATA_KEYS = frozenset({"title", "comment", "description", "synopsis", "artist", "copyright", "genre", "date"})

_ENCODER: Final = "libx264"

# x264's output depends on the number of threads, which by default is that of the machine's cores.
_THREADS = 4

# x264's macroblock tree reads memory it never wrote where it runs on AVX-512: the same frames come out as different files.
_X264 = "mbtree=0"

# x264 holds back this many frames to weigh them together. Its default, 40, is 45 MB more for a clip of 832x480.
_LOOKAHEAD = "8"

# "1" means BT.709 in the H.264 tables of primaries, transfer and matrix, and limited (TV) in FFmpeg's of ranges.
_BT709 = 1
_LIMITED_RANGE = 1


def check_output_path(path: str | Path) -> Path:
    """Return the absolute path a video would be written to, links followed, after making sure that it can be.

    Meant to be called before any work is done. Raises OutputError where the suffix is not .mp4, the folder is missing
    or cannot be written to, or something other than a file is in the way.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise OutputError(f"cannot write {path}: only .mp4 files can be written, so the name must end in .mp4")
    with _as_output_error(path):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {path}: it is not a regular file")
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {target.parent} does not exist")
        # Permission bits do not tell of read-only and network file systems: only trying does.
        probe = _temporary_beside(target)
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    return target


def write_mp4(path: str | Path, frames: Iterable[Frame], fps: int, metadata: Mapping[str, str], crf: int = 18) -> int:
    """Write frames to an H.264 MP4 (yuv420p, BT.709, index in front) and return how many there were.

    frames: uint8 [H, W, 3], RGB, all of one even-sized shape, at least one; consumed as they are encoded.
    fps: frames per second, at least 1. metadata: keys of METADATA_KEYS. crf: 0 (lossless) to 51 (worst).
    The same frames give the same bytes. Raises OutputError where the file cannot be written, GeometryError for odd
    sizes, ValueError for frames, fps, crf or metadata of another kind; what `frames` raises passes through unchanged.
    """
    if fps < 1 or not 0 <= crf <= 51:
        raise ValueError(f"fps must be at least 1 and crf 0 to 51, not {fps} and {crf}")
    if unknown := sorted(set(metadata) - METADATA_KEYS):
        raise ValueError(f"an MP4 file does not keep {', '.join(unknown)}: use {', '.join(sorted(METADATA_KEYS))}")
    target = check_output_path(path)
    temporary = _temporary_beside(target)
    try:
        count = _encode(temporary, target, frames, fps, metadata, crf)
        with _as_output_error(target):
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())  # some file systems tell of a full disk only here
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return count


def _encode(
    temporary: Path, target: Path, frames: Iterable[Frame], fps: int, metadata: Mapping[str, str], crf: int
) -> int:
    container: OutputContainer | None = None
    shape: tuple[int, ...] = ()
    count = 0
    try:
        for frame in frames:
            _check_frame(frame, shape)
            with _as_output_error(target):
                if container is None:
                    shape = frame.shape
                    container, stream = _open(temporary, frame, fps, metadata, crf)
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
                    format="yuv420p", dst_colorspace="ITU709", src_color_range="JPEG", dst_color_range="MPEG"
                )
                picture.pts = count
                picture.time_base = Fraction(1, fps)
                container.mux(stream.encode(picture))
            count += 1
        if container is None:
            raise ValueError("there are no frames to write")
        with _as_output_error(target):
            container.mux(stream.encode())
            container.close()
    except BaseException:
        if container is not None:
            with contextlib.suppress(Exception):
                container.close()
        raise
    return count


def _open(
    temporary: Path, frame: Frame, fps: int, metadata: Mapping[str, str], crf: int
) -> tuple[OutputContainer, VideoStream]:
    try:
        av.codec.Codec(_ENCODER, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise OutputError(
            f"the installed PyAV {av.__version__} has no {_ENCODER}, the H.264 encoder: "
            "install the wheel from PyPI with pip install --force-reinstall --only-binary av av"
        ) from error
    # faststart puts the index before the pictures, so that a browser can play while it loads.
    container = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
    stream = container.add_stream(
        _ENCODER, rate=fps, options={"crf": str(crf), "rc-lookahead": _LOOKAHEAD, "x264-params": _X264}
    )
    stream.height, stream.width = frame.shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = _THREADS
    # Untagged colours are guessed by players, and differently by size and player.
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE
    container.metadata.update(metadata)
    return container, stream


def _check_frame(frame: Frame, shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frames must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    if shape and frame.shape != shape:
        raise ValueError(f"frames must be of one size: {list(frame.shape)} follows {list(shape)}")
    height, width = frame.shape[:2]
    if height % 2 or width % 2 or not height or not width:
        raise GeometryError(f"a video of {width}x{height} cannot be encoded: width and height must be even")


def _temporary_beside(target: Path) -> Path:
    # The output's own name is left out: with it, a name near the file system's limit would grow past it.
    return target.with_name(f".edgereel-{secrets.token_hex(8)}.part")


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    """Say in one line that the video cannot be written there, and why, where the block meets a system error."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
