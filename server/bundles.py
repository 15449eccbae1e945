"""Which bundles a server offers, and under which names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UsageError
from ..core.paths import demo_bundle_path, find_models_folder

_DEMO = "edgereel-demo"
_SUFFIX = ".reel"


def name_bundles(given: Sequence[str]) -> dict[str, str | None]:
    """Return the paths of bundles by the names that clients ask for; None is the built-in demo.

    given: folders, or names of models in the user's models folder; none for the demo. Raises UsageError where two would have
    the same name, or there is no such folder.
    """
    if not given:
        return {_DEMO: None}
    named: dict[str, str | None] = {}
    for each in given:
        path = _path(each)
        name = _DEMO if path is None else re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.removesuffix(_SUFFIX)).strip("-")
        if not name or name in named:
            raise UsageError(f"two bundles would be called {name!r}: rename one of their folders")
        named[name] = None if path is None else str(path)
    return named


def _path(given: str) -> Path | None:
    """Return a bundle's folder, None for the demo. Raises UsageError."""
    path = Path(given)
    if not (path / "reel.json").is_file():
        models = find_models_folder()
        if given == "demo":
            return None
        if (
            models is None
            or os.sep in given
            or not (models / f"{given.removesuffix(_SUFFIX)}{_SUFFIX}" / "reel.json").is_file()
        ):
            raise UsageError(
                f"{given}: no such bundle folder, and no model of that name: edgereel models ls lists them"
            )
        path = models / f"{given.removesuffix(_SUFFIX)}{_SUFFIX}"
    return None if path.resolve() == demo_bundle_path() else path.absolute()
