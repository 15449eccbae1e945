"""The user folders that edgereel keeps things in."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def demo_bundle_path() -> Path:
    """Return where the built-in demo's bundle is, which comes with the package."""
    return Path(__file__).resolve().parent.parent / "demo" / "demo.reel"


def cache_folder() -> Path:
    """Return the folder for what can be made again: $EDGEREEL_CACHE, or the user's cache folder. It may not exist."""
    if chosen := os.environ.get("EDGEREEL_CACHE"):
        return Path(chosen)
    return Path(platformdirs.user_cache_dir("edgereel", appauthor=False))
