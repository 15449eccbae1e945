"""What tales of other programs have in common, and the story that is written of them: passages become scenes, links choices."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UsageError, one_line
from .source import written_yaml

MOST = 1000
"""Passages of a tale."""
_LONGEST = 1000
_MOST_CHOICES = 9
_IN_NAMES = ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Pc")


@dataclass(frozen=True)
class Passage:
    """A passage. lines: what it says, plain. links: (what is chosen, the passage that it leads to); goto: where it leads alone."""

    name: str
    lines: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    goto: str | None = None


def written_tale(path: Path, title: str, passages: Sequence[Passage]) -> str:
    """Return the text of a story file of a tale that was read from `path`, its first passage first. Raises UsageError."""
    if len(passages) > MOST:
        raise UsageError(f"{path}: has {len(passages)} passages: {MOST} at most")
    names = _names(path, [each.name for each in passages])
    for passage in passages:
        for target in [target for _, target in passage.links] + [passage.goto] * (passage.goto is not None):
            if target not in names:
                raise UsageError(
                    f"{path}: {one_line(passage.name)[:60]} leads to {one_line(target)[:60]!r}, which is no passage"
                )
        if len(passage.links) > _MOST_CHOICES:
            raise UsageError(
                f"{path}: {one_line(passage.name)[:60]} has {len(passage.links)} choices: {_MOST_CHOICES} at most"
            )
    scenes = [_scene(passage, names) for passage in passages]
    written = written_yaml({"title": plain(title)[:200] or "Tale", "scenes": scenes})
    return f"# From {one_line(path.name)}: edgereel story make FILE.yaml --choose 1,2\n{written}"


def plain(text: str) -> str:
    """Return text in one line; braces would be names of the story's."""
    text = text.replace("{", "(").replace("}", ")").replace("-->", "->")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def between_brackets(text: str) -> tuple[list[str], list[str]]:
    """Return what of a text is outside of [[double brackets]], and what in each. One look at each letter, unlike `.*?`."""
    outside, inside, at = [], [], 0
    while (begin := text.find("[[", at)) >= 0 and (end := text.find("]]", begin + 2)) >= 0:
        outside.append(text[at:begin])
        inside.append(text[begin + 2 : end])
        at = end + 2
    return [*outside, text[at:]], inside


def _scene(passage: Passage, names: dict[str, str]) -> dict[str, Any]:
    prompts = [line[1:].strip() for line in passage.lines if line.startswith("=")]
    words = " ".join(line for line in passage.lines if not line.startswith("="))[:_LONGEST]
    scene: dict[str, Any] = {"name": names[passage.name]}
    if any(prompts):
        scene["prompt"] = " ".join(prompts)[:_LONGEST]
        if words:
            scene["caption"] = words
    else:
        scene["card"] = words or plain(passage.name) or "…"
    if passage.links:
        scene["choices"] = [{"text": shown or plain(target), "goto": names[target]} for shown, target in passage.links]
    elif passage.goto is not None:
        scene["goto"] = names[passage.goto]
    else:
        scene["ends"] = True
    return scene


def _names(path: Path, passages: Sequence[str]) -> dict[str, str]:
    """Return a name that stories take for each passage."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for passage in passages:
        if passage in names:
            raise UsageError(f"{path}: two passages are called {one_line(passage)[:60]!r}")
        # Letters of which a name is made differ: Python's \w has fractions and raised numbers too, that of stories has not.
        usual = "".join(each if unicodedata.category(each) in _IN_NAMES else "-" for each in passage)
        name = re.sub("-+", "-", usual).strip("-_")[:50] or "passage"
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        names[passage] = unique
        taken.add(unique)
    return names
