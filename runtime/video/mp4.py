"""Writing frames to an MP4 file (H.264); `writing.py` sees to it that the file is either complete or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from ...core.errors import GeometryError, OutputError
from ...core.files import check_file_target
from .sink import Frame, Sink, require_encoder, write_frames

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
    return check_file_target(path)


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
    return write_frames(check_output_path(path), frames, _Mp4(fps, metadata, crf))


class _Mp4(Sink):
    def __init__(self, fps: int, metadata: Mapping[str, str], crf: int) -> None:
        self._fps, self._metadata, self._crf = fps, metadata, crf
        self._container: OutputContainer | None = None
        self._stream: VideoStream
        self._count = 0

    def check_size(self, width: int, height: int) -> None:
        if height % 2 or width % 2 or not height or not width:
            raise GeometryError(f"a video of {width}x{height} cannot be encoded: width and height must be even")

    def start(self, temporary: Path, width: int, height: int) -> None:
        require_encoder(_ENCODER, "H.264")
        # faststart puts the index before the pictures, so that a browser can play while it loads.
        self._container = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream(
            _ENCODER, rate=self._fps, options={"crf": str(self._crf), "rc-lookahead": _LOOKAHEAD, "x264-params": _X264}
        )
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.thread_count = _THREADS
        # Untagged colours are guessed by players, and differently by size and player.
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        self._container.metadata.update(self._metadata)

    def add(self, frame: Frame) -> None:
        assert self._container is not None
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", src_color_range="JPEG", dst_color_range="MPEG"
        )
        picture.pts = self._count
        picture.time_base = Fraction(1, self._fps)
        self._container.mux(self._stream.encode(picture))
        self._count += 1

    def finish(self) -> None:
        assert self._container is not None
        self._container.mux(self._stream.encode())
        self._container.close()

    def close(self) -> None:
        if self._container is not None:
            with contextlib.suppress(Exception):
                self._container.close()
