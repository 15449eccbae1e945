"""What tales of other programs have in common, and the story that is written of them: passages become scenes, links choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UsageError, one_line

MOST = 1000
"""Passages of a tale."""
_LONGEST = 1000
_MOST_CHOICES = 9


@dataclass(frozen=True)
class Passage:
    """A passage. lines: what it says, plain. links: (what is chosen, the passage that it leads to); goto: where it leads alone."""

    name: str
    lines: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    goto: str | None = None


def written_tale(path: Path, title: str, passages: Sequence[Passage]) -> str:
    """Return the text of a story file of a tale that was read from `path`, its first passage first. Raises UsageError."""
    import yaml

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
    story = {"title": " ".join(title.split())[:200] or path.stem, "scenes": scenes}
    written = yaml.safe_dump(story, allow_unicode=True, sort_keys=False, width=110)
    return f"# From {one_line(path.name)}: edgereel story make FILE.yaml --choose 1,2\n{written}"


def plain(text: str) -> str:
    """Return text in one line; braces would be names of the story's."""
    text = text.replace("{", "(").replace("}", ")").replace("-->", "->")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


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
        name = re.sub(r"\W+", "-", passage).strip("-_")[:50] or "passage"
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        names[passage] = unique
        taken.add(unique)
    return names
