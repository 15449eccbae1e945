"""The story that one begins with."""

from __future__ import annotations

import os
from pathlib import Path

from ...core.errors import OutputError, UsageError, one_line
from ...core.files import write_text

_TEMPLATE = Path(__file__).with_name("film.yaml")


def write_beginning(
    path: Path, screenplay: Path | None = None, tale: Path | None = None, ink: Path | None = None
) -> Path:
    """Write a story to begin with. Nothing is replaced.

    screenplay, tale, ink: what it is made of, a Fountain script or a tale of Twine's or Ink's. Raises UsageError, OutputError.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path}: is there already: name another file")
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"{path}: a story is a .yaml file")
    if sum(each is not None for each in (screenplay, tale, ink)) > 1:
        raise UsageError("give one of --fountain, --twine and --ink")
    if tale is not None:
        from .twine import story_of_tale

        return write_text(path, _named(story_of_tale(tale), "FILE", path))
    if ink is not None:
        from .ink import story_of_ink

        return write_text(path, _named(story_of_ink(ink), "FILE", path))
    if screenplay is not None:
        from .fountain import story_of_screenplay

        return write_text(path, story_of_screenplay(screenplay))
    return write_text(path, _named(_TEMPLATE.read_text(encoding="utf-8"), "film", path))


def _named(text: str, stem: str, path: Path) -> str:
    """Return a story whose first line says how this file, in the place of `stem`.yaml, becomes a film."""
    first, newline, rest = text.partition("\n")
    first = first.replace(f"{stem}.yaml", one_line(path.name)).replace(f"{stem}.mp4", one_line(f"{path.stem}.mp4"))
    return first + newline + rest
