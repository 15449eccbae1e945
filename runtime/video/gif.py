"""Writing frames to an animated GIF.

FFmpeg chooses the colours and compresses; the file around them is written here, since FFmpeg's own writer keeps no
comments and lets each frame build on the one before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from fractions import Fraction

import av
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext

from ...provenance.xmp import xmp_packet
from .frame_rate import FrameRate, frame_ticks
from .sink import FileSink, Frame, require_encoder

TICKS = 100

_TABLE_FOLLOWS = 0x80
_KEEP_WHAT_IS_SHOWN = 1 << 2
_BITS_PER_CHANNEL = 7 << 4
# XMP is not in sub-blocks: who reads it as such finds his way to the end through this, from whatever byte.
_XMP_END = b"\x01" + bytes(range(255, -1, -1)) + b"\0"


class GifSink(FileSink):
    """A GIF that repeats for ever.

    Each frame is a whole picture with the 256 colours that suit it best, dithered (Floyd-Steinberg). Times are in 1/100 s
    and rounded so that the clip's length is right. fps: 1 to 50, else ValueError. metadata: each value becomes a comment,
    what is not ASCII escaped as \\uXXXX. The same frames give the same bytes. 65535 pixels a side at most.
    """

    fastest = 50
    """Browsers show a frame that asks for 1/100 s or less for 1/10 s."""
    largest_side = 65535

    def __init__(self, fps: FrameRate, metadata: Mapping[str, str]) -> None:
        if not 1 <= fps <= self.fastest:
            raise ValueError(f"fps must be 1 to {self.fastest}, not {fps}")
        self._fps, self._metadata = fps, metadata
        self._palette: Graph
        self._encoder: VideoCodecContext
        self._count = 0

    def begin(self, width: int, height: int) -> None:
        """See FileSink.begin."""
        require_encoder("gif", "GIF")
        self._palette = _palette_graph(width, height)
        self._encoder = av.CodecContext.create("gif", "w")
        self._encoder.width, self._encoder.height, self._encoder.pix_fmt = width, height, "pal8"
        self._encoder.time_base = Fraction(1, TICKS)
        # Without flags a frame is the whole picture, not what differs from the one before.
        self._encoder.options = {"gifflags": "0", "global_palette": "0"}
        self.file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, _BITS_PER_CHANNEL, 0, 0))
        self.file.write(b"\x21\xff\x0bNETSCAPE2.0" + sub_blocks(struct.pack("<BH", 1, 0)))
        self.file.write(b"\x21\xff\x0bXMP DataXMP" + xmp_packet({}) + _XMP_END)
        for value in self._metadata.values():
            self.file.write(b"\x21\xfe" + sub_blocks(_ascii(value)))

    def add(self, frame: Frame) -> None:
        """See Sink.add."""
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = self._count
        picture.time_base = Fraction(1, TICKS)
        self._palette.push(picture)
        coloured = self._palette.pull()
        assert isinstance(coloured, av.VideoFrame)
        image = image_of(b"".join(bytes(packet) for packet in self._encoder.encode(coloured)))
        delay = frame_ticks(self._count, self._fps, TICKS)
        self.file.write(b"\x21\xf9" + sub_blocks(struct.pack("<BHB", _KEEP_WHAT_IS_SHOWN, delay, 0)) + image)
        self._count += 1

    def end(self) -> None:
        """See FileSink.end."""
        self.file.write(b"\x3b")


def _palette_graph(width: int, height: int) -> Graph:
    """Return a graph that turns each rgb24 picture pushed in into a pal8 picture with a palette of its own."""
    graph = Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24", width, height), time_base=Fraction(1, TICKS)
    )
    split = graph.add("split")
    generate = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "dither=floyd_steinberg:new=1")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(generate, 0, 0)
    split.link_to(use, 1, 0)
    generate.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def image_of(encoded: bytes) -> bytes:
    """Return the image (descriptor, colours, pixels) of what FFmpeg's encoder gives for one frame, without what is around it."""
    position = 0
    if encoded.startswith(b"GIF89a"):
        position = 13 + _table_size(encoded[10])
    while encoded[position] == 0x21:
        position = _skip_sub_blocks(encoded, position + 2)
    pixels = position + 10 + _table_size(encoded[position + 9]) + 1
    return encoded[position : _skip_sub_blocks(encoded, pixels)]


def _table_size(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & _TABLE_FOLLOWS else 0


def _skip_sub_blocks(data: bytes, position: int) -> int:
    while data[position]:
        position += 1 + data[position]
    return position + 1


def sub_blocks(data: bytes) -> bytes:
    """Return data the way GIF stores it: in pieces of up to 255 bytes, each after its length, and a zero at the end."""
    pieces = (data[start : start + 255] for start in range(0, len(data), 255))
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def _ascii(text: str) -> bytes:
    """Return text as the 7-bit ASCII that GIF comments are; \\uXXXX keeps JSON the same JSON."""
    units = text.encode("utf-16-be", "surrogatepass")
    codes = (units[index] << 8 | units[index + 1] for index in range(0, len(units), 2))
    return "".join(chr(code) if code < 0x80 else f"\\u{code:04x}" for code in codes).encode("ascii")
