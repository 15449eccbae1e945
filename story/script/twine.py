"""A tale written in Twine becomes a story that branches: the JSON that its Twison format exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...core.errors import UsageError, one_line, require_packages
from ...core.files import read_plain
from .source import LARGEST
from .tale import Passage, between_brackets, plain, written_tale


def story_of_tale(path: Path) -> str:
    """Return the text of a story file. Raises UsageError, MissingExtraError.

    Each passage is a scene. A line `= a red ball rises` in it is its prompt, and the rest its caption; without one it is a card.
    Its links are choices; one link alone leads on, and where there is none the tale ends.
    """
    require_packages(["yaml"], "story", "a tale")
    try:
        tale = json.loads(read_plain(path, LARGEST, follow_links=True))
        passages = [(str(each.get("pid", "")), _passage(each)) for each in tale["passages"]]
        start = str(tale.get("startnode", ""))
        first = next((passage for number, passage in passages if number == start), passages[0][1])
        title = str(tale.get("name") or path.stem)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, AttributeError) as error:
        raise UsageError(
            f"{path}: cannot be read as a tale that Twine's Twison format exports: {one_line(error)[:100]}"
        ) from error
    return written_tale(path, title, [first, *(each for _, each in passages if each is not first)])


def _passage(data: dict[str, Any]) -> Passage:
    """Return a passage's name, lines of text and links."""
    text = str(data["text"])
    outside, written_links = between_brackets(text)
    links = []
    for written in written_links:
        shown, target = written, written
        if "->" in written:
            shown, _, target = written.rpartition("->")
        elif "<-" in written:
            target, _, shown = written.partition("<-")
        elif "|" in written:
            shown, _, target = written.rpartition("|")
        links.append((plain(shown), target.strip()))
    lines = tuple(line for line in map(plain, "".join(outside).splitlines()) if line)
    if len(links) == 1:
        return Passage(str(data["name"]), lines, goto=links[0][1])
    return Passage(str(data["name"]), lines, tuple(links))
