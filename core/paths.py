"""The user folders that edgereel keeps things in."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

import platformdirs

from .errors import UsageError
from .units import format_bytes

NO_HOME: Final = "there is no home folder to keep a cache in: set EDGEREEL_CACHE=FOLDER to keep one"
NO_DATA: Final = "there is no home folder to keep models in: set EDGEREEL_HOME=FOLDER to keep some"
_NOWHERE: Final = Path(__file__).resolve() / "no home"  # below a file there is never a folder


def demo_bundle_path() -> Path:
    """Return where the built-in demo's bundle is, which comes with the package."""
    return Path(__file__).resolve().parent.parent / "demo" / "demo.reel"


def cache_folder() -> Path:
    """Return the folder for what can be made again: $EDGEREEL_CACHE, or the user's cache folder. It may not exist.

    Where there is no home, as for a container's user without a name, this says so once, and gives a folder that cannot be
    made: nothing is found there and nothing kept, as with a folder that cannot be written to.
    """
    if (folder := find_cache_folder()) is not None:
        return folder
    _tell_once()
    return _NOWHERE


def find_cache_folder() -> Path | None:
    """Return what cache_folder does, None where there is no home to have one in."""
    return _user_folder("EDGEREEL_CACHE", platformdirs.user_cache_dir)


def find_models_folder() -> Path | None:
    """Return the folder of the user's models: `models` in $EDGEREEL_HOME, or in the user's data folder. It may not exist.

    None where there is no home to have one in.
    """
    home = _find_home_folder()
    return None if home is None else home / "models"


def _find_home_folder() -> Path | None:
    return _user_folder("EDGEREEL_HOME", platformdirs.user_data_dir)


def _user_folder(variable: str, default: Callable[..., str]) -> Path | None:
    """Return the folder that an environment variable names, or the system's for such things; None without a home."""
    if chosen := os.environ.get(variable):
        # A service's settings are not read by a shell, which would have expanded this.
        expanded = os.path.expanduser(chosen)
        return None if expanded.startswith("~") and chosen.startswith("~/") else Path(expanded)
    try:
        folder = Path(default("edgereel", appauthor=False))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # older versions leave "~" where they find no home


def scratch_folder(needed: int = 0) -> Path:
    """Return a folder for large files that go with the run: the cache folder, or where it cannot be used the system's.

    The system's folder for temporary files is memory on many machines, so it comes second. needed: bytes that must be free.
    Raises OSError, which names both, where neither can be written to or has room.
    """
    refused = []
    for folder in (find_cache_folder(), Path(tempfile.gettempdir())):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        except OSError as error:
            refused.append(f"{folder}: {error.strerror or error}")
            continue
        if free >= needed:
            return folder
        refused.append(f"{folder}: {format_bytes(free)} are free")
    raise OSError(errno.ENOSPC, "; ".join(refused))


@lru_cache(maxsize=1)
def _tell_once() -> None:
    import logging

    logging.getLogger("edgereel").warning(
        "edgereel: %s", NO_HOME
    )  # stderr, where a program has not set up another place


def home_folder() -> Path:
    """Return the folder for what is kept for good, keys and logs: $EDGEREEL_HOME, or the user's data folder. It may not exist.

    Raises UsageError where there is no home folder to have it in.
    """
    folder = _find_home_folder()
    if folder is None or str(folder).startswith("~"):  # a user's name that the system does not know
        raise UsageError("there is no home folder to keep keys and logs in: set EDGEREEL_HOME=FOLDER")
    return folder.absolute()
