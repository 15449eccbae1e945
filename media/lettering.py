"""Letters on pictures: DejaVu Sans, which comes with the package, or a font of the user's; wrapped and sized to fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import GeometryError, UsageError, one_line, require_packages

if TYPE_CHECKING:
    from PIL import ImageFont

FONT = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
LEAST_LETTERS = 7
"""Pixels of height below which letters cannot be read."""
_LARGEST_FONT = 2**26
_ABSENT = "\U0010fffd"


@dataclass(frozen=True)
class Lettering:
    """A font's file. Raises MissingExtraError without Pillow, UsageError for a file that is no font."""

    font: Path = FONT

    def __post_init__(self) -> None:
        require_packages(["PIL"], "media", "text on pictures")
        _face(self.font, 20)

    def check(self, text: str) -> None:
        """Raise UsageError for characters that the font does not have: they would be drawn as empty boxes."""
        face = _face(self.font, 20)
        empty = bytes(face.getmask(_ABSENT))
        missing = sorted({each for each in text if not each.isspace() and bytes(face.getmask(each)) == empty})
        if missing:
            shown = one_line("".join(missing[:10]))
            raise UsageError(f"the font {self.font.stem} has no {shown!r}: name one that does")

    def draw(self, text: str, width: int, height: int, letters: float) -> NDArray[np.float32]:
        """Return how much text covers each pixel of a box, 0 to 1, [height, width]: centred, in lines that fit.

        letters: the height of its letters in pixels at most; smaller where it would not fit. Raises GeometryError where it
        does not fit with the smallest that can be read.
        """
        from PIL import Image, ImageDraw

        for size in range(max(LEAST_LETTERS, round(letters)), LEAST_LETTERS - 1, -1):
            face = _face(self.font, size)
            lines = _wrapped(text, face, width)
            if lines is None:
                continue
            advance = round(size * 1.25)
            if advance * len(lines) > height:
                continue
            box = Image.new("L", (width, height), 0)
            pen = ImageDraw.Draw(box)
            top = (height - advance * len(lines)) / 2
            for index, line in enumerate(lines):
                pen.text(
                    (width / 2, top + advance * (index + 0.5)), line, fill=255, font=face, anchor="mm", align="center"
                )
            return np.asarray(box, np.float32) / np.float32(255)
        raise GeometryError(f"the text {text[:40]!r} does not fit into {width}x{height} pixels: shorten it")


@lru_cache(maxsize=64)
def _face(font: Path, size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    try:
        if not font.is_file() or font.stat().st_size > _LARGEST_FONT:
            raise OSError("there is no such file" if not font.exists() else "it is no file of a font's size")
        return ImageFont.truetype(str(font), size)
    except (OSError, ValueError) as error:
        raise UsageError(f"{font}: cannot be used as a font: {one_line(error)}") from error


def _wrapped(text: str, face: Any, width: int) -> list[str] | None:
    """Return text in lines of at most `width` pixels, its own line ends kept; None where a word is wider."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            if face.getlength(word) > width:
                return None
            longer = f"{line} {word}".strip()
            if face.getlength(longer) <= width:
                line = longer
            else:
                lines.append(line)
                line = word
        lines.append(line)
    return lines
