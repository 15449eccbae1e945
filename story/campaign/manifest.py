"""What became of each row of a campaign: a log that is written as rows end, and the manifest made of it.

A line is added to `manifest.jsonl`, and is on the disk, before the next row begins: of what is killed, nothing is lost but the
row under way. The last line of a row counts. `manifest.json` is the same as one object, for people and programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import OutputError
from ...core.files import output_errors, read_plain, write_text

_LARGEST = 2**28


class Manifest:
    """The manifest of a folder. lines: the newest of each row, by the row's name."""

    def __init__(self, folder: Path) -> None:
        """Read what is there. Raises OutputError."""
        self._log = folder / "manifest.jsonl"
        self._path = folder / "manifest.json"
        self.lines: dict[str, dict[str, Any]] = {}
        with output_errors(self._log):
            if not os.path.lexists(self._log):
                return
            if self._log.is_symlink() or not self._log.is_file():  # lines are added to it, so it must be ours
                raise OutputError(
                    f"{self._log}: is not a regular file: name another folder, or remove it to begin anew"
                )
            if self._log.stat().st_size > _LARGEST:
                raise OutputError(f"{self._log}: is too large: remove it to begin anew")
            content = read_plain(self._log, _LARGEST)
        whole, newline, rest = content.rpartition(b"\n")
        for line in whole.split(b"\n"):
            try:
                entry = json.loads(line)
                self.lines[str(entry["name"])] = entry
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # a line that another program changed says nothing
        if rest:  # of a process that was killed as it wrote
            with output_errors(self._log), self._log.open("r+b") as file:
                file.truncate(len(whole) + len(newline))

    def add(self, entry: dict[str, Any]) -> None:
        """Note what became of a row: it is on the disk when this returns. Raises OutputError."""
        with output_errors(self._log), self._log.open("ab") as file:
            file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[entry["name"]] = entry

    def write(self, facts: dict[str, Any], names: Sequence[str]) -> Path:
        """Write manifest.json: facts of the campaign, and the rows of these names in order. Raises OutputError."""
        rows = [self.lines.get(name, {"name": name, "state": "waiting"}) for name in names]
        return write_text(self._path, json.dumps({**facts, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
