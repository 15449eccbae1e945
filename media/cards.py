"""Title cards: a picture of text alone, or text and choices."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from .lettering import LEAST_LETTERS, Lettering


@dataclass(frozen=True)
class Card:
    """What stands on a card. subtitle: smaller, below. choices: a line each. colours: #rrggbb."""

    text: str
    subtitle: str = ""
    choices: tuple[str, ...] = ()
    background: str = "#101014"
    colour: str = "#f4f4f4"

    @property
    def written(self) -> str:
        """All its text."""
        return "\n".join(part for part in (self.text, self.subtitle, *self.choices) if part)


def draw_card(card: Card, width: int, height: int, lettering: Lettering) -> NDArray[np.uint8]:
    """Return the card as a picture, uint8 [height, width, 3]. Raises GeometryError where its text does not fit."""
    ground = np.array(parse_colour(card.background), np.float32)
    ink = np.array(parse_colour(card.colour), np.float32)
    picture = np.broadcast_to(ground, (height, width, 3)).copy()
    below = [(card.subtitle, 0.6)] if card.subtitle else []
    below += [(f"{number}. {choice}", 0.6) for number, choice in enumerate(card.choices, start=1)]
    shares = [1.0] + [0.5] * len(below)
    heights = [int(height * 0.88 * share / sum(shares)) for share in shares]
    inner = max(1, int(width * 0.9))
    left, top = (width - inner) // 2, (height - sum(heights)) // 2
    letters = max(LEAST_LETTERS, min(width, height) / 8)
    for (text, scale), rows in zip([(card.text, 1.0), *below], heights, strict=True):
        cover = lettering.draw(text, inner, rows, letters * scale)[..., None]
        part = picture[top : top + rows, left : left + inner]
        part[:] = part * (1 - cover) + ink * cover
        top += rows
    return np.rint(picture).astype(np.uint8)


def parse_colour(text: str) -> tuple[int, int, int]:
    """Return (red, green, blue) of "#rrggbb". Raises UsageError."""
    if re.fullmatch("#[0-9A-Fa-f]{6}", text) is None:
        raise UsageError(f"{text[:30]!r} is no colour: write it as #rrggbb, for example #102030")
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
