"""Names of models: what is one, and which folder it stands for."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from ...core.errors import OutputError, UsageError
from ...core.paths import NO_DATA, demo_bundle_path, find_models_folder

SUFFIX: Final = ".reel"
BUILT_IN: Final = "demo"
"""The name of the model that comes with the package."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.+\-]{0,98}[A-Za-z0-9_+\-])?")
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: whatever stands behind the first dot.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_MANIFEST: Final = "reel.json"


def find_bundle(given: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundle that is given by its path or by its name; a path that is none is returned as it is.

    What is there under the path goes before a model of that name.
    """
    path = Path(given)
    name = os.fspath(given).removesuffix(SUFFIX)
    if os.path.lexists(path / _MANIFEST) or not is_model_name(name):
        return path
    if name == BUILT_IN:
        return demo_bundle_path() if os.fspath(given) == BUILT_IN else path
    folder = find_models_folder()
    if folder is not None and os.path.lexists(folder / f"{name}{SUFFIX}"):
        return folder / f"{name}{SUFFIX}"
    return path


def no_such_bundle(path: Path) -> str:
    """Return what to tell of a path where there is no bundle's folder."""
    if path.is_file():
        return f"{path}: is a file, not a bundle's folder; edgereel models add FILE makes a model of an archive"
    if path.suffix != SUFFIX and is_model_name(str(path)):
        return f"{path}: no such bundle folder, and no model of that name: edgereel models ls lists them"
    return f"{path}: no such bundle folder"


def is_model_name(name: str) -> bool:
    """Tell whether a text can be the name of a model, on any system."""
    return _NAME.fullmatch(name) is not None and not is_device_name(name)


def is_device_name(name: str) -> bool:
    """Tell whether Windows has a device of that name, so that no file can bear it."""
    return _DEVICE.fullmatch(name) is not None


def check_model_name(name: str) -> str:
    """Return a name without `.reel`. Raises UsageError where it cannot be one."""
    bare = name.removesuffix(SUFFIX)
    if not is_model_name(bare):
        raise UsageError(
            f"{name!r} cannot be a model's name: use letters, digits and _ . + -, 100 at most, beginning with a letter, a "
            "digit or _, and no name that Windows keeps for a device"
        )
    return bare


def models_folder() -> Path:
    """Return the folder of the user's models, which may not exist. Raises OutputError where there is no home for one."""
    folder = find_models_folder()
    if folder is None:
        raise OutputError(NO_DATA)
    return folder
