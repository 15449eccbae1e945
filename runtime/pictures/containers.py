"""What a PNG, JPEG or WebP file says of itself, read byte by byte before any decoder sees it.

Each reader walks the whole file, so that one that was cut short is known as such, and gives back the file without what a
decoder does not need: no text, profile or thumbnail of unknown size is unpacked.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...core.errors import UsageError

_LARGEST_PROFILE = 2**22


@dataclass(frozen=True)
class Container:
    """A picture file. decoder: FFmpeg's. content: the file for it. orientation: EXIF's, 1 to 8. profile: ICC's, b"" for none."""

    decoder: str
    width: int
    height: int
    content: bytes
    orientation: int = 1
    profile: bytes = b""


class _CutShort(Exception):
    """The file ends too early."""


def read_container(content: bytes) -> Container:
    """Return what a picture file says. Raises UsageError, without the file's name, where it is none or cannot be used."""
    for beginning, reader in _READERS.items():
        if content.startswith(beginning):
            try:
                return reader(content)
            except (_CutShort, struct.error, IndexError) as error:
                raise UsageError("is cut short: copy it again") from error
    raise UsageError("is not a PNG, JPEG or WebP picture")


def _png(content: bytes) -> Container:
    kept, profile, orientation, ended = [content[:8]], b"", 1, False
    width = height = 0
    position = 8
    while not ended:
        if position + 12 > len(content):
            raise _CutShort
        length, name = struct.unpack_from(">I4s", content, position)
        data, end = content[position + 8 : position + 8 + length], position + 12 + length
        if end > len(content):
            raise _CutShort
        if width == 0 and name != b"IHDR":
            raise UsageError("is damaged: it does not begin with its header")
        if name[:1].isupper() and zlib.crc32(name + data) != int.from_bytes(content[end - 4 : end], "big"):
            raise UsageError("is damaged: a checksum differs; copy it again")
        if name == b"IHDR":
            width, height, depth = struct.unpack_from(">IIB", data)
            if depth == 16:
                raise UsageError("has 16 bits a colour: save it with 8")
            if not width or not height:
                raise UsageError("is damaged: its header says that it has no pixels")
        elif name == b"acTL":
            raise UsageError("is animated: save one picture of it")
        elif name == b"iCCP":
            profile = _inflate(data.split(b"\0", 1)[-1][1:])
        elif name == b"eXIf":
            orientation = _orientation(data)
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(content[position:end])
        position, ended = end, name == b"IEND"
    return Container("png", width, height, b"".join(kept), orientation, profile)


def _inflate(data: bytes) -> bytes:
    unpacked = zlib.decompressobj()
    try:
        found = unpacked.decompress(data, _LARGEST_PROFILE)
    except zlib.error as error:
        raise UsageError("is damaged: its colour profile cannot be unpacked") from error
    if unpacked.unconsumed_tail:
        raise UsageError(f"has a colour profile of more than {_LARGEST_PROFILE >> 20} MiB: save it as sRGB")
    return found


_FRAMES = {0xC0, 0xC1, 0xC2}
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_NEEDED = {*_FRAMES, 0xC4, 0xDB, 0xDD, 0xEE}
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _jpeg(content: bytes) -> Container:
    kept, profile, orientation = [content[:2]], {}, 1
    width = height = 0
    position = 2
    while True:
        while content[position + 1] == 0xFF:  # fill bytes
            position += 1
        if content[position] != 0xFF:
            raise UsageError("is damaged: a part of it is not where it should be")
        marker = content[position + 1]
        if marker == 0xD9:
            break
        (length,) = struct.unpack_from(">H", content, position + 2)
        end = position + 2 + length
        if end > len(content):
            raise _CutShort
        data = content[position + 4 : end]
        if marker in _OTHER_FRAMES:
            raise UsageError("is a kind of JPEG that cameras do not write: save it as an ordinary one")
        if marker in _FRAMES:
            if width:
                raise UsageError("is damaged: it has two headers")
            depth, height, width, colours = struct.unpack_from(">BHHB", data)
            if colours == 4:
                raise UsageError("has the colours of print (CMYK): save it as RGB")
            if depth != 8 or colours not in (1, 3):
                raise UsageError(f"has {depth} bits a colour and {colours} colours: save it as an ordinary JPEG")
            if not width or not height:
                raise UsageError("is damaged: its header says that it has no pixels")
        elif marker == 0xE1 and data.startswith(b"Exif\0\0"):
            orientation = _orientation(data[6:])
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0"):
            profile[data[12]] = data[14:]
        if marker in _NEEDED:
            kept.append(content[position:end])
        if marker == 0xDA:
            if not width:
                raise UsageError("is damaged: its pixels come before its header")
            following = _AFTER_SCAN.search(content, end)
            if following is None:
                raise _CutShort
            kept.append(content[position : following.start()])
            end = following.start()
        position = end
    if not width:
        raise UsageError("is damaged: it has no picture in it")
    whole = b"".join(profile[index] for index in sorted(profile))
    return Container("mjpeg", width, height, b"".join(kept) + b"\xff\xd9", orientation, whole[:_LARGEST_PROFILE])


def _webp(content: bytes) -> Container:
    (size,) = struct.unpack_from("<I", content, 4)
    if content[8:12] != b"WEBP":
        raise UsageError("is not a PNG, JPEG or WebP picture")
    if size + 8 > len(content):
        raise _CutShort
    kept, profile, orientation = [], b"", 1
    canvas: tuple[int, int] | None = None
    pixels: tuple[int, int] | None = None
    has_alpha = False
    for name, data, whole in _chunks(content, 12, size + 8):
        if name == b"VP8X":
            if data[0] & 0x02:
                raise UsageError("is animated: save one picture of it")
            canvas = 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
        elif name in (b"ANIM", b"ANMF"):
            raise UsageError("is animated: save one picture of it")
        elif name == b"VP8 ":
            if data[3:6] != b"\x9d\x01\x2a":
                raise UsageError("is damaged: its pixels have no header")
            across, down = struct.unpack_from("<HH", data, 6)
            pixels = across & 0x3FFF, down & 0x3FFF
        elif name == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 1)
            if data[0] != 0x2F:
                raise UsageError("is damaged: its pixels have no header")
            pixels = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif name == b"ICCP":
            profile = data[:_LARGEST_PROFILE]
        elif name == b"EXIF":
            orientation = _orientation(data.removeprefix(b"Exif\0\0"))
        if name in (b"VP8 ", b"VP8L", b"ALPH"):
            kept.append(whole)
            has_alpha = has_alpha or name == b"ALPH"
    if pixels is None or not all(pixels):
        raise UsageError("is damaged: it has no pixels in it")
    if canvas not in (None, pixels):
        raise UsageError("is damaged: its headers say different sizes")
    width, height = pixels
    if has_alpha:
        extents = b"".join((side - 1).to_bytes(3, "little") for side in pixels)
        kept.insert(0, b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + extents)
    body = b"WEBP" + b"".join(kept)
    return Container("webp", width, height, b"RIFF" + struct.pack("<I", len(body)) + body, orientation, profile)


def _chunks(content: bytes, position: int, end: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield name, data and all bytes of each chunk of a RIFF file."""
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", content, position)
        following = position + 8 + length + length % 2
        if position + 8 + length > end:
            raise _CutShort
        yield name, content[position + 8 : position + 8 + length], content[position:following]
        position = following


def _orientation(exif: bytes) -> int:
    """Return the orientation that EXIF data tells, 1 where it tells none or is damaged: then nothing is turned."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(min(count, 512)):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1


_READERS: dict[bytes, Callable[[bytes], Container]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"RIFF": _webp,
}
