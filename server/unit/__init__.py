"""The unit that systemd runs a server by: hardened, with a user of its own, watched."""

from __future__ import annotations

import sys
from pathlib import Path

_UNIT = Path(__file__).parent / "edgereel.service"
_PLACE = "@EDGEREEL@"


def unit_text(command: Path | None = None) -> str:
    """Return the unit. command: the `edgereel` that it runs, None for that of this Python."""
    path = Path(sys.prefix) / "bin" / "edgereel" if command is None else command
    escaped = str(path).replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace(" ", "\\x20")
    return _UNIT.read_text(encoding="utf-8").replace(_PLACE, escaped)
