"""A server of our own, started for a measurement as users start it, and ended after it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....core.errors import EngineError, one_line
from ....core.processes import python_command

_ADDRESS = re.compile(r"serves on (http://\S+)")
_WORDS = 20


class ServerProcess:
    """`edgereel serve` on a free port of this machine.

    start_seconds: from starting the process until it said where it answers; `started`: time.perf_counter when it was started.
    """

    def __init__(self, data: Path, options: Sequence[str] = (), environment: dict[str, str] | None = None) -> None:
        """data: where it keeps its jobs. Raises EngineError where it does not come up."""
        self._data, self._options, self._environment = data, list(options), environment or {}
        self.lines: deque[str] = deque(maxlen=_WORDS)
        self.url, self.start_seconds = "", 0.0
        self.start()

    def start(self, port: int = 0) -> None:
        """Start it, again after it was ended. Raises EngineError."""
        self.started = time.perf_counter()
        command = python_command("edgereel", "serve", "--port", str(port), "--data", str(self._data), *self._options)
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **self._environment},
            encoding="utf-8",
            errors="replace",
            start_new_session=os.name != "nt",
        )
        self._address: str | None = None
        self._told = threading.Event()
        threading.Thread(target=self._read, args=(self.process.stderr,), name="server's log", daemon=True).start()
        self._told.wait()
        if self._address is None:
            self.end()
            said = one_line(self.lines[-1].strip()) if self.lines else "it said nothing"
            raise EngineError(f"the server did not come up: {said}")
        self.url = str(self._address)
        self.start_seconds = time.perf_counter() - self.started

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """Return the numbers of its worker processes; none where the system does not tell."""
        found: list[int] = []
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self.process.pid}/task").iterdir():
                found += [int(text) for text in (task / "children").read_text().split()]
        return [number for number in found if "edgereel.jobs.worker" in _command_line(number)]

    def kill(self) -> None:
        """End it at once, as a power cut would; its workers see that, and go by themselves."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()

    def end(self, seconds: float = 60.0) -> int:
        """Ask it to end as systemd does, and return its exit code; after so many seconds it is killed."""
        if self.is_running:
            with contextlib.suppress(OSError):
                self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def _read(self, stderr: Any) -> None:
        with contextlib.suppress(OSError, ValueError), stderr:
            for line in stderr:
                self.lines.append(line)
                if (match := _ADDRESS.search(line)) is not None:
                    self._address = match[1]
                    self._told.set()
        self._told.set()


def _command_line(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
