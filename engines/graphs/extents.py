"""Extents that vary, as graphs and manifests write them: `height`, or `height*4`."""

from __future__ import annotations

import re

_EXTENT = re.compile(r"([A-Za-z_]\w*)(?:\*(\d{1,9}))?")


def parse_extent(text: str) -> tuple[str, int] | None:
    """Return the name and the factor of an extent, None where it is written in another way."""
    match = _EXTENT.fullmatch(text)
    return None if match is None else (match[1], int(match[2] or 1))
