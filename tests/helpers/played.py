"""A story that is played in a process of its own, as users start it."""

from __future__ import annotations

import http.client
import os
import queue
import signal
import subprocess
import threading
from pathlib import Path

from conftest import helpers_environment

from edgereel.core.processes import python_command

from .served import LONG, Answer, children_of


class Played:
    """`edgereel story play` of a file. lines: what it said on stderr."""

    def __init__(self, story: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.story = story
        command = python_command("edgereel", "story", "play", str(story), "--port", "0", "--threads", "1", *options)
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **helpers_environment(), "OMP_NUM_THREADS": "1", **(environment or {})},
            encoding="utf-8",
            start_new_session=True,
        )
        self.lines: list[str] = []
        addresses: queue.Queue[str] = queue.Queue()
        for stream, keep in ((self.process.stdout, addresses.put), (self.process.stderr, self.lines.append)):
            threading.Thread(target=_read, args=(stream, keep, addresses), daemon=True).start()
        self.said = addresses.get(timeout=LONG)
        assert self.said, "".join(self.lines)
        self.port = int(self.said.rsplit(":", 1)[1])

    @property
    def player(self) -> int:
        """The number of the process that makes the pictures."""
        (number,) = children_of(self.process.pid, b"edgereel.story.play")
        return number

    def get(self, path: str, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        try:
            connection.request("GET", path, headers=headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(LONG)
        finally:
            self.process.kill()
            self.process.wait()


def _read(stream, keep, addresses) -> None:
    with stream:
        for line in stream:
            keep(line)
    addresses.put("")
