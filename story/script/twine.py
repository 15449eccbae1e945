"""A tale written in Twine becomes a story that branches: the JSON that its Twison format exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...core.errors import UsageError, one_line, require_packages
from ...core.files import read_plain
from .source import LARGEST

_LINK = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_MOST = 1000
_LONGEST = 1000


def story_of_tale(path: Path) -> str:
    """Return the text of a story file. Raises UsageError, MissingExtraError.

    Each passage is a scene. A line `= a red ball rises` in it is its prompt, and the rest its caption; without one it is a card.
    Its links are choices; one link alone leads on, and where there is none the tale ends.
    """
    require_packages(["yaml"], "story", "a tale")
    import yaml

    try:
        tale = json.loads(read_plain(path, LARGEST, follow_links=True))
        passages = [_passage(each) for each in tale["passages"]]
        first = next((each for each in passages if each["pid"] == str(tale.get("startnode", ""))), passages[0])
        title = " ".join(str(tale.get("name") or path.stem).split())[:200]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, AttributeError) as error:
        raise UsageError(
            f"{path}: cannot be read as a tale that Twine's Twison format exports: {one_line(error)[:100]}"
        ) from error
    if len(passages) > _MOST:
        raise UsageError(f"{path}: has {len(passages)} passages: {_MOST} at most")
    ordered = [first, *(each for each in passages if each is not first)]
    names = _names(path, [each["name"] for each in ordered])
    scenes = []
    for passage in ordered:
        for _, target in passage["links"]:
            if target not in names:
                raise UsageError(
                    f"{path}: {one_line(passage['name'])[:60]} leads to {one_line(target)[:60]!r}, which is no passage"
                )
        scenes.append(_scene(passage, names))
    written = yaml.safe_dump({"title": title, "scenes": scenes}, allow_unicode=True, sort_keys=False, width=110)
    return f"# From {one_line(path.name)}: edgereel story make FILE.yaml --choose 1,2\n{written}"


def _passage(data: dict[str, Any]) -> dict[str, Any]:
    """Return a passage's name, number, lines of text and links."""
    text = str(data["text"])
    links = []
    for written in _LINK.findall(text):
        shown, target = written, written
        if "->" in written:
            shown, _, target = written.rpartition("->")
        elif "<-" in written:
            target, _, shown = written.partition("<-")
        elif "|" in written:
            shown, _, target = written.rpartition("|")
        links.append((_plain(shown), target.strip()))
    lines = [_plain(line) for line in _LINK.sub("", text).splitlines()]
    return {
        "name": str(data["name"]),
        "pid": str(data.get("pid", "")),
        "lines": [line for line in lines if line],
        "links": links,
    }


def _scene(passage: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    prompts = [line[1:].strip() for line in passage["lines"] if line.startswith("=")]
    words = " ".join(line for line in passage["lines"] if not line.startswith("="))[:_LONGEST]
    scene: dict[str, Any] = {"name": names[passage["name"]]}
    if prompts:
        scene["prompt"] = " ".join(prompts)[:_LONGEST]
        if words:
            scene["caption"] = words
    else:
        scene["card"] = words or _plain(passage["name"]) or "…"
    links = passage["links"]
    if not links:
        scene["ends"] = True
    elif len(links) == 1:
        scene["goto"] = names[links[0][1]]
    else:
        scene["choices"] = [{"text": shown or target, "goto": names[target]} for shown, target in links[:9]]
    return scene


def _names(path: Path, passages: list[str]) -> dict[str, str]:
    """Return a name that stories take for each passage."""
    names: dict[str, str] = {}
    for passage in passages:
        if passage in names:
            raise UsageError(f"{path}: two passages are called {one_line(passage)[:60]!r}")
        name = re.sub(r"\W+", "-", passage).strip("-_")[:50] or "passage"
        number, unique = 1, name
        while unique in names.values():
            number += 1
            unique = f"{name}-{number}"
        names[passage] = unique
    return names


def _plain(text: str) -> str:
    text = text.replace("{", "(").replace("}", ")").replace("-->", "->")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
