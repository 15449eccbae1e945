"""The release, which is part of what everything kept in a cache depends on."""

from __future__ import annotations

__version__ = "0.2.0"
