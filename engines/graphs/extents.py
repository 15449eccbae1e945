"""Extents that vary, as graphs and manifests write them: `height`, `height*4`, or `frames*8-7`.

The last is how many pictures a number of latent frames stands for where the first of them is one picture alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_EXTENT = re.compile(r"([A-Za-z_]\w*)(?:\*(\d{1,9})(?:-(\d{1,9}))?)?")


class Extent(NamedTuple):
    """`factor` times what is called `name`, less `less`."""

    name: str
    factor: int = 1
    less: int = 0

    def of(self, value: int) -> int:
        """Return the extent where what it is named after has this value."""
        return self.factor * value - self.less

    def __str__(self) -> str:
        return self.name + (f"*{self.factor}" if self.factor != 1 else "") + (f"-{self.less}" if self.less else "")


def parse_extent(text: str) -> Extent | None:
    """Return the parts of an extent, None where it is written in another way."""
    match = _EXTENT.fullmatch(text)
    return None if match is None else Extent(match[1], int(match[2] or 1), int(match[3] or 0))
