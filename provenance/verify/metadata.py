"""What a file says of itself, unsigned: anyone may have written or removed it."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_MOST = 8 * 2**20
"""Bytes that are looked at, at each end of a file: metadata lie at its ends."""
_PACKET = re.compile(rb"<x:xmpmeta.{1,65536}?</x:xmpmeta>", re.DOTALL)
_SOURCE = re.compile(r"DigitalSourceType(?:>|\s*=\s*[\"'])\s*(?:<[^>]{1,100}>\s*)*([^<\"']{1,200})", re.IGNORECASE)
_TOOL = re.compile(r"CreatorTool(?:>|\s*=\s*[\"'])([^<\"']{1,200})")
_OURS = re.compile(rb'\{"ai_generated": ?true,[^\0]{1,20000}?\}', re.DOTALL)
_GENERATED = ("trainedalgorithmicmedia", "compositewithtrainedalgorithmicmedia", "compositesynthetic")


@dataclass(frozen=True)
class Metadata:
    """source_type: the last part of the IPTC's DigitalSourceType, tool: what made the file, note: whether it has edgereel's."""

    source_type: str | None = None
    tool: str | None = None
    note: bool = False

    @property
    def generated(self) -> bool:
        """Whether it says that a generative model made it, or a part of it."""
        return self.note or says_generated(self.source_type)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"digital_source_type": self.source_type, "tool": self.tool, "edgereel_note": self.note}


def says_generated(source_type: str | None) -> bool:
    """Tell whether a term of the IPTC's vocabulary, or its address, names a generative model."""
    return source_type is not None and source_type.rstrip("/").rsplit("/", 1)[-1].lower() in _GENERATED


def read_metadata(path: Path) -> Metadata:
    """Return what a file says of itself. Raises OSError."""
    with path.open("rb") as file:
        content = _ends(file)
    sources, tools = [], []
    for packet in _PACKET.findall(content)[:100]:
        text = packet.decode("utf-8", "replace")
        sources += [html.unescape(found).strip() for found in _SOURCE.findall(text)]
        tools += [html.unescape(found).strip() for found in _TOOL.findall(text)]
    sources = [source.rstrip("/").rsplit("/", 1)[-1] for source in sources]
    # Where packets say different things, the one that says it was generated counts.
    said = next((source for source in sources if says_generated(source)), sources[0] if sources else None)
    return Metadata(said, tools[0] if tools else None, any(_is_ours(found) for found in _OURS.findall(content)[:100]))


def _ends(file: BinaryIO) -> bytes:
    start = file.read(_MOST)
    size = file.seek(0, 2)
    file.seek(max(_MOST, size - _MOST))
    return start + file.read(_MOST)


def _is_ours(found: bytes) -> bool:
    text = found.decode("utf-8", "replace")
    for end in [match.end() for match in re.finditer(r"\}", text)][:50]:
        try:
            note = json.loads(text[:end])
        except ValueError:
            continue
        return isinstance(note, dict) and "edgereel" in note
    return re.match(r'\{"ai_generated": ?true, ?"edgereel":', text) is not None
