"""One worker process as whoever started it sees it: commands go in, answers and events come out, and it may end at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..core.errors import EdgereelError, EngineError, one_line
from ..core.processes import python_command
from .protocol import LONGEST_LINE

MODULE = "edgereel.jobs.worker"
_LOG = logging.getLogger("edgereel.worker")
_LONGEST_WORDS = 500


class WorkerDied(EngineError):
    """The process ended before it answered. The message says how."""


class CommandRefused(EdgereelError):
    """A worker did not do what it was told. kind: the name of the error's class there."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class WorkerProcess:
    """A process that is running. Its pipes are read and written by threads, so that nothing here ever waits for it.

    reason: why it was ended, where somebody here did that. last_beat: when it last said anything, time.monotonic.
    """

    def __init__(
        self, environment: dict[str, str] | None = None, keep_open: Sequence[int] = (), module: str = MODULE
    ) -> None:
        """environment: added to this process's own. keep_open: descriptors that it inherits. module: of ours that it runs.

        Raises EngineError.
        """
        apart: dict[str, Any] = {"start_new_session": True, "pass_fds": tuple(keep_open)}
        if os.name == "nt":
            apart = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        try:
            self._process = subprocess.Popen(
                python_command(module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                encoding="utf-8",
                errors="replace",
                **apart,
            )
        except OSError as error:
            raise EngineError(f"a worker cannot be started: {error.strerror}") from error
        self.reason: str | None = None
        self.started = self.last_beat = time.monotonic()
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._outgoing: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._words: deque[str] = deque(maxlen=5)
        self._ended = False
        self._loop: asyncio.AbstractEventLoop
        self._on_event: Callable[[dict[str, Any]], object]
        self._on_end: Callable[[], object]
        threading.Thread(target=self._write, name="worker stdin", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its end has not been noticed."""
        return not self._ended

    def attach(self, on_event: Callable[[dict[str, Any]], object], on_end: Callable[[], object]) -> None:
        """From now on call these, in this event loop, with what the process tells, and once when it ends."""
        self._loop = asyncio.get_running_loop()
        self._on_event, self._on_end = on_event, on_end
        self.last_beat = time.monotonic()
        for work in (self._read, self._read_words):
            threading.Thread(target=work, name="worker output", daemon=True).start()

    def tell(self, do: str, **facts: Any) -> None:
        """Send a command whose answer nobody waits for."""
        self._send({"do": do, **facts})

    async def request(self, do: str, **facts: Any) -> dict[str, Any]:
        """Send a command and return its answer. Raises CommandRefused, WorkerDied."""
        if self._ended:
            raise WorkerDied(self.how_it_ended())
        self._numbers += 1
        number = self._numbers
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send({"do": do, "n": number, **facts})
        try:
            answer: dict[str, Any] = await future
            return answer
        finally:
            self._waiting.pop(number, None)

    def kill(self, reason: str) -> None:
        """End the process at once, in the middle of whatever it does."""
        if self.reason is None and not self._ended:
            self.reason = reason
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """End the process by closing its stdin: it goes at once, and leaves nothing under a name that is read."""
        self._outgoing.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait until the process is gone, so long at most; return whether it is. Blocks."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def how_it_ended(self) -> str:
        """Return in one line why the process is gone."""
        if self.reason is not None:
            return f"the worker was ended: {self.reason}"
        code = self._process.poll()
        how = "ended" if code is None or code >= 0 else f"was ended by signal {-code}"
        how = f"ended with exit code {code}" if code is not None and code >= 0 else how
        return one_line(f"the worker {how}" + (f": {self._words[-1]}" if self._words else ""))

    def _send(self, command: dict[str, Any]) -> None:
        self._outgoing.put(json.dumps(command) + "\n")

    def _write(self) -> None:
        assert self._process.stdin is not None
        while (line := self._outgoing.get()) is not None:
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (OSError, ValueError):
                break
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self._process.stdout:
            while (line := self._process.stdout.readline(LONGEST_LINE)).endswith("\n"):
                try:
                    said = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(said, dict):
                    self._call(self._hear, said)
        with contextlib.suppress(OSError):
            self._process.kill()  # who says nothing any more does nothing that anybody will know of
        self._process.wait()
        self._process.stdout.close()
        self._outgoing.put(None)
        self._call(self._end)

    def _read_words(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(OSError, ValueError), self._process.stderr:
            while line := self._process.stderr.readline(_LONGEST_WORDS):
                if words := line.strip():
                    self._words.append(one_line(words))
                    _LOG.debug("worker %d: %s", self.pid, one_line(words))
        self._process.stderr.close()

    def _call(self, work: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever wanted to know
            self._loop.call_soon_threadsafe(work, *arguments)

    def _hear(self, said: dict[str, Any]) -> None:
        self.last_beat = time.monotonic()
        if "event" in said:
            self._on_event(said)
            return
        future = self._waiting.get(said.get("n", -1))
        if future is None or future.done():
            return
        if said.get("ok") is True:
            future.set_result(said)
        else:
            future.set_exception(CommandRefused(str(said.get("error")), str(said.get("kind"))))

    def _end(self) -> None:
        self._ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(WorkerDied(self.how_it_ended()))
        self._on_end()
