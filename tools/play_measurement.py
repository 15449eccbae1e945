"""What a choice in a story that is played takes, as a client on the same machine sees it; see story_measurements."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request, TextMessage

_UNTIL_READY = 8.0
"""Seconds in which a busy machine has made all that may be chosen next."""


def measure_play(story: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Return milliseconds from a choice to the first picture of what follows: unprepared, and with it lying ready.

    In each round nothing is kept from before. At the first branch the choice comes at once, before what it leads to was made; at
    the second one when all is made. The client takes pictures as fast as they come.
    """
    taken: dict[str, list[float]] = {"not_prepared": [], "prepared": []}
    for _ in range(rounds):
        for name in ("home", "cache"):
            shutil.rmtree(folder / name, ignore_errors=True)
        command = [sys.executable, "-m", "edgereel", "story", "play", str(story), "--port", "0", "--threads", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                client = _Client(int(process.stdout.readline().rsplit(":", 1)[1]))
                client.say(type="start")
                client.until("waits")
                taken["not_prepared"].append(client.choose(2))
                client.until("waits")
                time.sleep(_UNTIL_READY)
                taken["prepared"].append(client.choose(2))
                client.until("ends")
                client.close()
            finally:
                process.send_signal(signal.SIGINT)
    return {
        name: {"median_ms": round(statistics.median(times), 1), "all_ms": [round(each, 1) for each in times]}
        for name, times in taken.items()
    }


class _Client:
    """A WebSocket that plays."""

    def __init__(self, port: int) -> None:
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._socket = socket.create_connection(("127.0.0.1", port), 120)
        self._waiting: list[Any] = []
        self._socket.sendall(self._connection.send(Request(host=f"127.0.0.1:{port}", target="/v1/play")))
        assert isinstance(self._next(), AcceptConnection)

    def say(self, **message: Any) -> None:
        self._socket.sendall(self._connection.send(TextMessage(json.dumps(message))))

    def choose(self, choice: int) -> float:
        """Choose, and return the milliseconds until the first picture of what follows has come."""
        started = time.perf_counter()
        self.say(type="choose", choice=choice)
        self.until("way")
        self.until("picture")
        return (time.perf_counter() - started) * 1000

    def until(self, kind: str) -> None:
        """Take messages and pictures until one of a kind has come."""
        while True:
            message = self._hear()
            if isinstance(message, bytes):
                self.say(type="credit", pictures=1)
            if (kind == "picture") if isinstance(message, bytes) else message["type"] == kind:
                return

    def close(self) -> None:
        self._socket.close()

    def _hear(self) -> Any:
        whole: Any = None
        while True:
            event = self._next()
            assert isinstance(event, TextMessage | BytesMessage), event
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return json.loads(whole) if isinstance(whole, str) else bytes(whole)

    def _next(self) -> Any:
        while not self._waiting:
            self._connection.receive_data(self._socket.recv(2**16) or None)
            self._waiting += self._connection.events()
        return self._waiting.pop(0)
