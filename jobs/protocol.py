"""The language between a process and the workers that it starts: lines of JSON on the worker's pipes.

A command is `{"do": NAME, "n": NUMBER, …}` on stdin; it is answered by `{"ok": true, "n": NUMBER, …}` or `{"ok": false, "n":
NUMBER, "error": MESSAGE, "kind": CLASS}`. Between answers come `{"event": NAME, …}`: `ready`, `beat`, `progress`, `preview`,
`picture`. The end of stdin is the end of the worker.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

LONGEST_LINE = 2**26


class Answers:
    """Writes lines on this process's stdout, from any thread; what libraries print goes to stderr from then on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def event(self, name: str, **facts: Any) -> None:
        """Tell of something."""
        self._write({"event": name, **facts})

    def answer(self, number: Any, **facts: Any) -> None:
        """Answer a command."""
        self._write({"ok": True, "n": number, **facts})

    def refuse(self, number: Any, error: str, kind: str) -> None:
        """Say that a command was not done, and why."""
        self._write({"ok": False, "n": number, "error": error, "kind": kind})

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        try:
            with self._lock:
                self._file.write(text)
                self._file.flush()
        except OSError:  # nobody listens any more
            os._exit(1)


def commands() -> Iterator[dict[str, Any]]:
    """Yield the commands on this process's stdin until it ends. Lines that are none are left out."""
    while line := sys.stdin.readline(LONGEST_LINE):
        try:
            command = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(command, dict) and isinstance(command.get("do"), str):
            yield command
