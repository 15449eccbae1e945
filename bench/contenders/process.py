"""A contender's process and the lines of JSON that go to it and come back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ...core.errors import EngineError, one_line
from ...core.interrupts import interrupts_wait, temporary_folder

_LAST_WORDS = 2000
_LONGEST_ANSWER = 2**26
_SECONDS_TO_END = 10.0


class WorkerProcess:
    """Runs a command that answers requests; see bench/contenders/protocol.py for the language.

    What it writes to stderr is kept for the message of its failure. Ctrl-C does not reach it: whoever started it ends it.
    Its temporary files lie in a folder that goes with it, however it ends.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """environment: added to this process's own. Raises EngineError where it cannot be started."""
        self._held = ExitStack()
        try:
            self._start(command, environment or {})
        except OSError as error:
            self._held.close()
            raise EngineError(f"{command[0]} cannot be started: {error.strerror}") from error
        except BaseException:
            self._held.close()
            raise

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._errors = self._held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  the stack closes it
        folder = self._held.enter_context(temporary_folder("edgereel-bench-"))
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
        apart: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            apart = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        with interrupts_wait():  # between starting it and knowing what to end
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **temporary, **environment},
                encoding="utf-8",
                errors="replace",
                **apart,
            )
            self._held.callback(self._end)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def request(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request. Raises EngineError where the process refuses it, dies or talks nonsense."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline(_LONGEST_ANSWER)
        except OSError:
            line = ""
        if not line.endswith("\n"):
            raise EngineError(self._death())
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"a contender's process answered what is not JSON: {one_line(line[:100])}") from error
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            reason = answer.get("error") if isinstance(answer, dict) else None
            raise EngineError(one_line(reason or "a contender's process gave an answer that is none"))
        return answer

    def close(self) -> None:
        """End the process: by closing its stdin, and where it does not go, by force."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)
        self.kill()

    def kill(self) -> None:
        """End the process at once, in the middle of whatever it does."""
        self._held.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    def _death(self) -> str:
        """Return in one line how the process ended and its last words."""
        try:
            code: int | None = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            code = None
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _LAST_WORDS))
        words = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        how = "stopped answering" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by signal {-code}"
        return one_line(f"a contender's process {how}" + (f": {words[-1]}" if words else ""))
