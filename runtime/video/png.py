"""Writing frames to a folder of PNGs: 0001.png, 0002.png, …

Such a folder may be replaced by another clip's; any other folder with something in it is never touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
from av.video.codeccontext import VideoCodecContext

from ...core.errors import OutputError
from ...core.files import check_parent, output_errors, synchronise, temporary_beside
from ...provenance.xmp import xmp_packet
from .sink import Frame, Sink, require_encoder

_LEAST_DIGITS = 4
_HEADER_END = 33  # the signature and the chunk IHDR
_NAME = re.compile(r"[0-9]{4,}\.png")


def check_folder_target(path: Path, tried: set[Path] | None = None) -> Path:
    """Return the absolute path, links followed, of the folder to write, after making sure that it can be.

    tried: see check_file_target.
    Raises OutputError where it holds anything but a clip that was written here before, is in use as the current folder or a
    mount point, is a file, or where its parent is missing or takes no new files.
    """
    with output_errors(path):
        target = Path(os.path.realpath(path))
        if target.exists():
            if not target.is_dir():
                raise OutputError(f"cannot write {path}: a file is in the place of the folder for the PNGs")
            current = Path(os.path.realpath(os.curdir))
            if target == current or target in current.parents or os.path.ismount(target):
                raise OutputError(f"cannot write {path}: this folder is in use: name a new one inside it")
            if not _may_be_replaced(target):
                raise OutputError(_refusal(path))
        check_parent(path, target, tried)
    return target


class PngFolderSink(Sink):
    """A folder of PNGs without loss.

    metadata: text in each file, keys with a capital as PNG has them. count: how many frames to expect, for names of enough
    digits. The same frames give the same bytes.
    """

    largest_side = 2**16

    def __init__(self, metadata: Mapping[str, str], count: int | None = None) -> None:
        self._text = text_chunks(metadata)
        self._digits = max(_LEAST_DIGITS, len(str(count or 0)))
        self._encoder: VideoCodecContext
        self._count = 0

    def start(self, temporary: Path, width: int, height: int) -> None:
        """See Sink.start."""
        require_encoder("png", "PNG")
        self._encoder = av.CodecContext.create("png", "w")
        self._encoder.width, self._encoder.height, self._encoder.pix_fmt = width, height, "rgb24"
        self._encoder.time_base = Fraction(1, 1)
        self._encoder.options = {"pred": "mixed"}
        self._encoder.thread_count = 1  # with more, a frame comes out when later ones have gone in
        self._folder = temporary
        temporary.mkdir()

    def add(self, frame: Frame) -> None:
        """See Sink.add."""
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = self._count
        encoded = b"".join(bytes(packet) for packet in self._encoder.encode(picture))
        self._count += 1
        path = self._folder / f"{self._count:0{self._digits}}.png"
        path.write_bytes(encoded[:_HEADER_END] + self._text + encoded[_HEADER_END:])
        synchronise(path)

    def finish(self) -> None:
        """Every file is complete when it is written."""

    def close(self) -> None:
        """No file stays open."""

    def publish(self, temporary: Path, target: Path) -> None:
        """See Sink.publish. What has the name now is looked at once more: it is about to be removed."""
        _replace_folder(temporary, target)


def encode_png(picture: Frame, metadata: Mapping[str, str]) -> bytes:
    """Return one picture, uint8 [H, W, 3], as a PNG file with metadata; see PngFolderSink."""
    require_encoder("png", "PNG")
    encoder: VideoCodecContext = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1, 1)
    encoded = b"".join(bytes(packet) for packet in encoder.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    encoded += b"".join(bytes(packet) for packet in encoder.encode(None))
    return encoded[:_HEADER_END] + text_chunks(metadata) + encoded[_HEADER_END:]


def text_chunks(metadata: Mapping[str, str]) -> bytes:
    """Return the chunks that hold a clip's metadata, the first of which says that this program wrote the file."""
    pairs = [(key.capitalize().encode("latin-1"), value.encode(errors="replace")) for key, value in metadata.items()]
    pairs.append((b"XML:com.adobe.xmp", xmp_packet({k: v for k, v in metadata.items() if k != "comment"})))
    return _OURS + b"".join(_chunk(b"iTXt", key + bytes(5) + text) for key, text in pairs)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


_OURS = _chunk(b"tEXt", b"Software\0edgereel")


def _may_be_replaced(folder: Path) -> bool:
    """Return whether a folder is empty or holds nothing but the frames of one clip as written here."""
    names = sorted(os.listdir(folder), key=lambda name: (len(name), name))
    numbered = all(_NAME.fullmatch(name) and int(name[:-4]) == index for index, name in enumerate(names, start=1))
    return numbered and all(_is_ours(folder / name) for name in names)


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(_HEADER_END)
        start = file.read(8)
        if start[4:] == b"caBX":  # a signature, which has its place before all else, and its checksum
            file.seek(int.from_bytes(start[:4], "big") + 4, os.SEEK_CUR)
            start = file.read(8)
        return start + file.read(len(_OURS) - 8) == _OURS


def _refusal(path: Path) -> str:
    return (
        f"cannot write {path}: this folder holds something other than the frames of an earlier clip, "
        "which would be lost: name another folder, or remove it first"
    )


def _replace_folder(temporary: Path, target: Path) -> None:
    """Give a complete folder its name; what has it now is set aside, and removed only when that is done."""
    if not target.exists():
        os.rename(temporary, target)
        return
    aside = temporary_beside(target, ".earlier")
    try:
        os.rename(target, aside)
        if not _may_be_replaced(aside):
            raise OutputError(_refusal(target))
        os.rename(temporary, target)
    except BaseException:
        if aside.exists() and not target.exists():
            os.rename(aside, target)
        raise
    finally:
        if not temporary.exists():
            _remove_clip(aside)


def _remove_clip(folder: Path) -> None:
    # Only what was recognised: what came since into the old folder stays, under its hidden name.
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _NAME.fullmatch(name):
                (folder / name).unlink()
        folder.rmdir()
