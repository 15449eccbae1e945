"""A screenplay in Fountain becomes a story: its scenes, what is seen in them and what is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...core.errors import UsageError, one_line, require_packages
from ...core.files import read_plain
from .source import LARGEST, written_yaml
from .tale import between_brackets

_LONGEST = 1000


def story_of_screenplay(path: Path) -> str:
    """Return the text of a story file. Raises UsageError, MissingExtraError.

    Each scene heading is a scene. Its prompt is its synopsis (`= a red ball rises`) where it has one, else its action; what is
    said becomes its narration, shown as a caption. Text in the middle of a page alone is a card. Sections are chapters;
    DISSOLVE TO and FADE are transitions.
    """
    require_packages(["fountain_parser", "yaml"], "story", "a screenplay")
    import fountain_parser

    try:
        text = read_plain(path, LARGEST, follow_links=True).decode("utf-8-sig")
        play = fountain_parser.parse(text)
    except (OSError, ValueError, RecursionError, IndexError) as error:
        raise UsageError(f"{path}: cannot be read as a screenplay: {one_line(error)[:200]}") from error
    found = [_scene(scene) for scene in _with_transitions(play.scenes)]
    scenes = [scene for scene in found if scene is not None]
    if not scenes:
        raise UsageError(
            f"{path}: has no scene that shows something: write INT. or EXT. headings with action below them"
        )
    page = {key.lower(): value for key, value in (play.title_page or {}).items()}
    title = _plain(
        " ".join(page["title"]) if isinstance(page.get("title"), list) else str(page.get("title", path.stem))
    )
    return _written(path, title[:200] or path.stem, scenes)


def _with_transitions(scenes: Any) -> list[tuple[Any, str, str]]:
    """Return each scene with the transition that leads to it, and the section that it begins."""
    import fountain_parser

    result, transition, chapter = [], "cut", ""
    for scene in scenes:
        following, next_chapter = "cut", ""
        for element in scene.elements:
            if isinstance(element, fountain_parser.Transition):
                said = element.text.upper()
                following = "dissolve" if "DISSOLVE" in said else "fade" if "FADE" in said else "cut"
            elif isinstance(element, fountain_parser.SectionHeading):
                next_chapter = _plain(element.text)
        # A section stands before the heading of its first scene, so at the end of the scene before.
        result.append((scene, transition, chapter))
        transition, chapter = following, next_chapter
    return result


def _scene(found: tuple[Any, str, str]) -> dict[str, Any] | None:
    import fountain_parser

    scene, transition, chapter = found
    seen = [_plain(each.text) for each in scene.elements if isinstance(each, fountain_parser.Synopsis)]
    seen = seen or [_plain(each.text) for each in scene.elements if isinstance(each, fountain_parser.Action)]
    said = [_plain(each.text) for each in scene.elements if isinstance(each, fountain_parser.Dialogue)]
    shown = " ".join(part for part in seen if part)[:_LONGEST]
    if scene.heading is None or not shown:
        return None
    centred = [each.is_centered for each in scene.elements if isinstance(each, fountain_parser.Action)]
    kind = "card" if centred and all(centred) else "prompt"
    written: dict[str, Any] = {"heading": _plain(scene.heading.text), kind: shown}
    if transition != "cut":
        written["transition"] = transition
    if words := " ".join(part for part in said if part)[:_LONGEST]:
        written["narration"] = {"text": words, "caption": True}
    if chapter:
        written["chapter"] = chapter
    return written


def _plain(text: str) -> str:
    """Return text without Fountain's marks, in one line; braces would be names of the story's."""
    text = " ".join(between_brackets(text)[0])
    text = re.sub(r"[*_]{1,3}", "", text).replace("{", "(").replace("}", ")").replace("-->", "->")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _written(path: Path, title: str, scenes: list[dict[str, Any]]) -> str:
    lines = [f"# From {one_line(path.name)}. Prompts are its action: say in each what the model is to show.\n"]
    lines.append(written_yaml({"title": title}))
    lines.append("scenes:\n")
    for scene in scenes:
        heading = scene.pop("heading")
        lines.append(f"  # {one_line(heading)}\n")
        first, *rest = written_yaml(scene).split("\n")[:-1]
        lines += [f"  - {first}\n", *(f"    {line}\n" for line in rest)]
    return "".join(lines)
