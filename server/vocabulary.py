"""Words that a model is known to take, for who has no keyboard; and prompts to begin with."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).with_name("vocabularies")


def vocabulary_of(model: dict[str, Any]) -> dict[str, Any] | None:
    """Return the words of a model: its own where its bundle tells them, else those known here by its title."""
    own = model.get("vocabulary")
    if isinstance(own, dict):
        return own
    found = _known().get(str(model.get("title")))
    return None if found is None else {key: found[key] for key in ("groups", "templates")}


def examples_of(model: dict[str, Any]) -> list[str]:
    """Return prompts that a model takes."""
    found = _known().get(str(model.get("title")))
    return [] if found is None else list(found["examples"])


@lru_cache(maxsize=1)
def _known() -> dict[str, Any]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_FOLDER.glob("*.json"))]
    return {each["title"]: each for each in found}
