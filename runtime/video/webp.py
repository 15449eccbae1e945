"""Writing frames to an animated WebP, without loss.

libwebp compresses each frame; the file around them is written here, since FFmpeg's own way of writing animations keeps
all frames in memory until the last and has no place for metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from fractions import Fraction

import av
from av.video.codeccontext import VideoCodecContext

from ...core.errors import OutputError
from ...provenance.xmp import xmp_packet
from .frame_rate import FrameRate, frame_ticks
from .sink import FileSink, Frame, require_encoder

TICKS = 1000

_ANIMATED = 0x02
_HAS_XMP = 0x04
_DO_NOT_BLEND = 0x02
_LARGEST_FILE = 2**32 - 2


class WebPSink(FileSink):
    """A lossless WebP that repeats for ever.

    Times are in ms and rounded so that the clip's length is right. fps: 1 to 90, else ValueError. metadata: see xmp_packet.
    The same frames give the same bytes. 16383 pixels a side at most.
    """

    fastest = 90
    """Browsers show a frame that asks for 10 ms or less for 100 ms."""
    largest_side = 16383

    def __init__(self, fps: FrameRate, metadata: Mapping[str, str]) -> None:
        if not 1 <= fps <= self.fastest:
            raise ValueError(f"fps must be 1 to {self.fastest}, not {fps}")
        self._fps, self._metadata = fps, metadata
        self._encoder: VideoCodecContext
        self._count = 0

    def begin(self, width: int, height: int) -> None:
        """See FileSink.begin."""
        require_encoder("libwebp", "WebP")
        self._encoder = av.CodecContext.create("libwebp", "w")
        self._encoder.width, self._encoder.height, self._encoder.pix_fmt = width, height, "bgra"
        self._encoder.time_base = Fraction(1, TICKS)
        self._encoder.options = {"lossless": "1"}
        self._canvas = _u24(width - 1) + _u24(height - 1)
        self.file.write(b"RIFF\0\0\0\0WEBP")
        self.file.write(chunk(b"VP8X", bytes([_ANIMATED | _HAS_XMP, 0, 0, 0]) + self._canvas))
        self.file.write(chunk(b"ANIM", struct.pack("<IH", 0, 0)))

    def add(self, frame: Frame) -> None:
        """See Sink.add."""
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgra")
        picture.pts = self._count
        encoded = b"".join(bytes(packet) for packet in self._encoder.encode(picture))
        place = bytes(6) + self._canvas
        duration = frame_ticks(self._count, self._fps, TICKS)
        self._write(chunk(b"ANMF", place + _u24(duration) + bytes([_DO_NOT_BLEND]) + image_of(encoded)))
        self._count += 1

    def end(self) -> None:
        """See FileSink.end."""
        self._write(chunk(b"XMP ", xmp_packet(self._metadata)))
        size = self.file.tell()
        self.file.seek(4)
        self.file.write(struct.pack("<I", size - 8))

    def _write(self, data: bytes) -> None:
        if self.file.tell() + len(data) > _LARGEST_FILE:
            raise OutputError("a WebP file cannot be larger than 4 GiB: make it an MP4, smaller or shorter")
        self.file.write(data)


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a RIFF chunk: name, length, data, and a zero where the length is odd."""
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def image_of(encoded: bytes) -> bytes:
    """Return the image chunk of a WebP file that holds one opaque picture without loss. Raises OutputError."""
    if encoded[:4] + encoded[8:16] != b"RIFFWEBPVP8L":
        raise OutputError("the WebP encoder of the installed PyAV did not give a lossless picture")
    return encoded[12:]


def _u24(number: int) -> bytes:
    return struct.pack("<I", number)[:3]
