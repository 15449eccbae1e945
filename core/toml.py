"""Reading a small TOML file that a user wrote."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from .errors import UsageError, brief
from .files import read_plain


def read_toml(path: Path, largest: int) -> dict[str, Any]:
    """Return what a file of at most so many bytes says. Raises UsageError with the reason, without the file's name."""
    # Python 3.10 has none of its own; what both raise is a ValueError.
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        data: dict[str, Any] = toml.loads(read_plain(path, largest, follow_links=True).decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot be read: {error}") from error
    except ValueError as error:
        raise UsageError(f"is not TOML: {brief(error)}") from error
    return data
