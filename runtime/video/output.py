"""Which format an output is written in, by its name, and the writer of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ...core.errors import UsageError, one_line
from ...core.files import check_file_target
from . import gif, webp
from .gif import write_gif
from .mp4 import write_mp4
from .png import check_folder_target, write_pngs
from .sink import Frame
from .webp import write_webp

# Suffix by format; that of a folder of PNGs is none.
SUFFIXES = {"mp4": ".mp4", "gif": ".gif", "webp": ".webp", "png": ""}
_FASTEST = {"gif": gif.FASTEST, "webp": webp.FASTEST}
_KNOWN = "end it in .mp4, .gif or .webp, or leave the suffix out for a folder of PNGs"


def format_of(path: str | Path) -> str:
    """Return the format that a name asks for, a key of SUFFIXES. Raises UsageError where there is none of that suffix."""
    path = Path(path)
    for name, suffix in SUFFIXES.items():
        if suffix and path.suffix.lower() == suffix:
            return name
        if suffix and path.name.lower() == suffix:
            raise UsageError(f"cannot write {one_line(path)}: the name before {suffix} is missing")
    # Python before 3.14 sees no suffix in a name that ends with a dot.
    suffix = path.suffix or ("." if path.name.endswith(".") and path.name != ".." else "")
    if suffix:
        raise UsageError(f"cannot write {one_line(path)}: {one_line(suffix)} is no known suffix: {_KNOWN}")
    return "png"


def check_format(name: str) -> str:
    """Return the name of a format in small letters. Raises UsageError for one that is not known."""
    if name.lower() not in SUFFIXES:
        raise UsageError(f"unknown format {name!r}: choose from {', '.join(SUFFIXES)}")
    return name.lower()


def check_output(path: str | Path) -> Path:
    """Return the absolute path, links followed, that an output would be written to, after making sure that it can be.

    Raises UsageError for a name of no known format, OutputError where it cannot be written; see check_folder_target for
    what a folder of PNGs may replace.
    """
    return check_folder_target(path) if format_of(path) == "png" else check_file_target(Path(path))


def check_fps(path: str | Path, fps: int) -> None:
    """Raise UsageError where players show the output's format at a lower speed than this."""
    name = format_of(path)
    if fps > _FASTEST.get(name, fps):
        raise UsageError(
            f"{fps} frames per second are too fast for {name}: browsers play at most {_FASTEST[name]}; "
            "choose a lower --fps or .mp4"
        )


def write_output(
    path: str | Path, frames: Iterable[Frame], fps: int, metadata: Mapping[str, str], count: int | None = None
) -> int:
    """Write frames in the format that the path's name asks for, and return how many there were.

    See write_mp4, write_gif, write_webp and write_pngs. count: how many frames to expect.
    Raises UsageError for a name or speed that no format has, OutputError, GeometryError.
    """
    check_fps(path, fps)
    name = format_of(path)
    if name == "mp4":
        return write_mp4(path, frames, fps, metadata)
    if name == "png":
        return write_pngs(path, frames, metadata, count)
    return (write_gif if name == "gif" else write_webp)(path, frames, fps, metadata)
