"""The story that one begins with."""

from __future__ import annotations

import os
from pathlib import Path

from ...core.errors import OutputError, UsageError
from ...core.files import write_text

_TEMPLATE = Path(__file__).with_name("film.yaml")


def write_beginning(path: Path, screenplay: Path | None = None, tale: Path | None = None) -> Path:
    """Write a story to begin with; screenplay: a Fountain script that it is made of; tale: one of Twine's. Nothing is replaced.

    Raises UsageError, OutputError.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path}: is there already: name another file")
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"{path}: a story is a .yaml file")
    if screenplay is not None and tale is not None:
        raise UsageError("give --fountain or --twine, not both")
    if tale is not None:
        from .twine import story_of_tale

        return write_text(path, story_of_tale(tale))
    if screenplay is None:
        return write_text(path, _TEMPLATE.read_text(encoding="utf-8"))
    from .fountain import story_of_screenplay

    return write_text(path, story_of_screenplay(screenplay))
