"""Writing frames to an MP4 file (H.264); `sink.py` sees to it that the file is either complete or not there."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from ...core.errors import GeometryError
from ...media.spatial import Spatial, mark_spatial
from ...media.tracks import Tracks
from ...provenance.xmp import xmp_packet
from .frame_rate import FrameRate
from .sink import Frame, Sink, require_encoder
from .tracks import TracksWriter

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

# The name of the box that holds XMP in files of the ISO's base format: ISO 16684-1, XMP part 3.
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


class Mp4Sink(Sink):
    """An H.264 MP4 (yuv420p, BT.709, index in front); pictures of even width and height.

    fps: frames per second, at least 1. metadata: keys of METADATA_KEYS. crf: 0 (lossless) to 51 (worst). ValueError for
    others. tracks: what goes beside the frames; sound ends with the last of them. spatial: what the frames
    are, which a box says. The same frames give the same bytes.
    """

    def __init__(
        self,
        fps: FrameRate,
        metadata: Mapping[str, str],
        crf: int = 18,
        tracks: Tracks | None = None,
        spatial: Spatial | None = None,
    ) -> None:
        if fps < 1 or not 0 <= crf <= 51:
            raise ValueError(f"fps must be at least 1 and crf 0 to 51, not {fps} and {crf}")
        if unknown := sorted(set(metadata) - METADATA_KEYS):
            raise ValueError(f"an MP4 file does not keep {', '.join(unknown)}: use {', '.join(sorted(METADATA_KEYS))}")
        self._fps, self._metadata, self._crf = Fraction(fps), metadata, crf
        self._container: OutputContainer | None = None
        self._stream: VideoStream
        self._path: Path
        self._count = 0
        self._tracks, self._spatial = tracks, spatial
        self._beside: TracksWriter | None = None

    def check_size(self, width: int, height: int) -> None:
        """See Sink.check_size."""
        if height % 2 or width % 2 or not height or not width:
            raise GeometryError(f"a video of {width}x{height} cannot be encoded: width and height must be even")

    def start(self, temporary: Path, width: int, height: int) -> None:
        """See Sink.start."""
        require_encoder(_ENCODER, "H.264")
        self._path = temporary
        self._container = open_mp4(temporary, self._metadata)
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
        if self._tracks is not None:
            self._beside = TracksWriter(self._container, self._tracks)

    def add(self, frame: Frame) -> None:
        """See Sink.add."""
        assert self._container is not None
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", src_color_range="JPEG", dst_color_range="MPEG"
        )
        picture.pts = self._count
        picture.time_base = 1 / self._fps
        self._container.mux(self._stream.encode(picture))
        self._count += 1
        if self._beside is not None:
            self._beside.write(self._count / self._fps)

    def finish(self) -> None:
        """See Sink.finish."""
        assert self._container is not None
        self._container.mux(self._stream.encode())
        if self._beside is not None:
            self._beside.finish()
        end_mp4(self._container, self._path, self._spatial)

    def close(self) -> None:
        """See Sink.close."""
        if self._container is not None:
            with contextlib.suppress(Exception):
                self._container.close()


def open_mp4(path: Path, metadata: Mapping[str, str]) -> OutputContainer:
    """Begin an MP4 that says of itself what metadata has."""
    # faststart puts the index before the pictures, so that a browser can play while it loads.
    container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
    container.metadata.update(metadata)
    return container


def end_mp4(container: OutputContainer, path: Path, spatial: Spatial | None) -> None:
    """Close an MP4 that has all its packets, and write what FFmpeg does not: the boxes of spatial pictures, and XMP."""
    container.close()
    if spatial is not None:
        mark_spatial(path, spatial)
    packet = xmp_packet({})
    with path.open("ab") as file:
        file.write(struct.pack(">I", 24 + len(packet)) + b"uuid" + _XMP_BOX + packet)
