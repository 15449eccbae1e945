"""A file system with next to no room, for the time of one command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def small_disk(folder: Path, size: str) -> list[str]:
    """Return what to put before a command so that it finds an empty file system of this size in the folder's place.

    Skips the test where there is no right to mount one.
    """
    mount = f'mount -t tmpfs -o size={size} none "{folder}" && exec "$@"'
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "-"]
    try:
        possible = subprocess.run([*inside, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no right to mount a small file system")
    return inside
