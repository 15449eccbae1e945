"""The visible label: a word in a corner of every frame that says the clip is generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import GeometryError, UsageError, require_packages

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
ICON = "icon"
"""The label that is the two letters AI in a box: what the EU's code of practice has until there is an icon of its own."""
_LONGEST = 80
_LEAST_LETTERS = 7
"""Pixels of height below which letters cannot be read."""


@dataclass(frozen=True)
class Label:
    """A label's text, corner and size. size: height of its letters, in percent of the picture's shorter side, 2 to 25."""

    text: str = "AI-generated"
    corner: str = "bottom-right"
    size: float = 5.0

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be drawn, MissingExtraError without Pillow."""
        if not self.text.strip() or len(self.text) > _LONGEST or not self.text.isprintable():
            raise UsageError(f"a label is one line of 1 to {_LONGEST} characters: {self.text[:90]!r} is none")
        if self.corner not in CORNERS:
            raise UsageError(f"unknown corner {self.corner!r}: choose from {', '.join(CORNERS)}")
        if not 2 <= self.size <= 25:
            raise UsageError(f"a label of {self.size:g}% of the picture is not possible: choose from 2 to 25")
        require_packages(["PIL"], "media", "a label")
        if missing := sorted({character for character in self._shown if not _drawable(character)}):
            raise UsageError(f"the label's font has no {''.join(missing)[:20]!r}: use plain Latin letters")

    @property
    def _shown(self) -> str:
        return "AI" if self.text == ICON else self.text

    def over(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames, uint8 [H, W, 3], with the label in them. Raises GeometryError where it does not fit."""
        drawn: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        for frame in frames:
            if drawn is None:
                drawn = self._draw(frame.shape[1], frame.shape[0])
            ink, cover = drawn
            top, left = self._place(frame.shape[:2], ink.shape)
            result = frame.copy()
            part = result[top : top + ink.shape[0], left : left + ink.shape[1]]
            part[:] = np.rint(part * (1 - cover[..., None]) + (ink * cover)[..., None])
            yield result

    def check(self, width: int, height: int) -> None:
        """Raise GeometryError where the label does not fit into pictures of that size."""
        self._draw(width, height)

    def _place(self, picture: tuple[int, ...], label: tuple[int, ...]) -> tuple[int, int]:
        margin = max(2, min(picture) // 40)
        top = margin if self.corner.startswith("top") else picture[0] - margin - label[0]
        left = margin if self.corner.endswith("left") else picture[1] - margin - label[1]
        return top, left

    def _draw(self, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the label's brightness, 0 to 255, and how much it covers, 0 to 1, both [h, w]."""
        from PIL import Image, ImageDraw, ImageFont

        letters = max(_LEAST_LETTERS, round(min(width, height) * self.size / 100))
        font = ImageFont.load_default(letters)
        left, top, right, bottom = font.getbbox(self._shown)
        padding = max(2, letters // 3)
        size = int(right - left) + 2 * padding, int(bottom - top) + 2 * padding
        margin = max(2, min(width, height) // 40)
        if size[0] + 2 * margin > width or size[1] + 2 * margin > height:
            raise GeometryError(
                f"the label {self.text!r} needs {size[0]}x{size[1]} pixels and does not fit into {width}x{height}: "
                f'use a shorter one, such as "AI", or a larger --size'
            )
        cover = Image.new("L", size, 0)
        ImageDraw.Draw(cover).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), padding, fill=166)
        ink = Image.new("L", size, 0)
        ImageDraw.Draw(ink).text((padding - left, padding - top), self._shown, fill=255, font=font)
        letters_cover = np.asarray(ink, np.float32) / 255
        return np.asarray(ink, np.float32), np.maximum(np.asarray(cover, np.float32) / 255, letters_cover)


def _drawable(character: str) -> bool:
    """Tell whether Pillow's own font has a character: one that is missing is drawn as an empty box."""
    from PIL import ImageFont

    font = ImageFont.load_default(20)
    return character == " " or bytes(font.getmask(character)) != bytes(font.getmask("\U0010fffd"))
