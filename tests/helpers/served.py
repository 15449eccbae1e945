"""A server in a process of its own, as users start it, and a client that says what it means."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conftest import helpers_environment

from edgereel.core.processes import python_command

PROMPT = "a red ball bounces over the ocean"
LONG = 120.0


class Answer:
    """Status, headers in small letters, body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> Any:
        return self.json()["error"]["code"]


class Served:
    """`edgereel serve` with a data folder; it can be killed and started again."""

    def __init__(
        self, data: Path, *options: str, environment: dict[str, str] | None = None, before: Sequence[str] = ()
    ) -> None:
        """before: what stands before the command."""
        self.data, self.options, self.before = data, options, before
        self.environment = environment or {}
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        command = [
            *self.before,
            *python_command("edgereel", "serve", "--port", "0", "--data", str(self.data), *self.options),
        ]
        environment = {**helpers_environment(), "OMP_NUM_THREADS": "1", **self.environment}
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, env=environment, encoding="utf-8", start_new_session=True
        )
        addresses: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr, addresses), daemon=True)
        self._reader.start()
        address = addresses.get(timeout=LONG)
        assert address, "".join(self.lines)
        self.port = int(address.rsplit(":", 1)[1].strip('"}'))

    def _read(self, stderr: Any, addresses: queue.Queue[str]) -> None:
        with stderr:
            for line in stderr:
                self.lines.append(line)
                if "serves on http" in line:
                    addresses.put(line.strip())
        addresses.put("")

    def workers(self) -> list[int]:
        """The numbers of its worker processes."""
        return children_of(self.process.pid, b"edgereel.jobs.worker")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self._reader.join(LONG)

    def end(self) -> int:
        """Ask it to end, as systemd does, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(LONG)
        finally:
            self.kill()

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, data: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps({} if data is None else data).encode()
        return self.ask("POST", path, body, {"content-type": "application/json", **named})

    def form(
        self, path: str, fields: dict[str, Any], file: tuple[str, str, bytes] | None = None, **headers: str
    ) -> Answer:
        body, kind = multipart(fields, file)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, body, {"content-type": kind, **named})

    def create(self, prompt: str = PROMPT, **fields: Any) -> dict[str, Any]:
        answer = self.post("/v1/videos", {"prompt": prompt, **fields})
        assert answer.status == 200, answer.body
        video: dict[str, Any] = answer.json()
        return video

    def wait(self, id: str, *states: str) -> dict[str, Any]:
        """Wait until a job is in one of the states, finished where none is named."""
        wanted = states or ("completed", "failed")

        def look() -> Any:
            video = self.get(f"/v1/videos/{id}").json()
            return video if video.get("status") in wanted else None

        found: dict[str, Any] = until(look)
        return found

    @contextlib.contextmanager
    def events(self, path: str = "/v1/events", **headers: str) -> Iterator[Iterator[tuple[str, str, Any]]]:
        """Give an iterator of (id, event, data)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=named)
        response = connection.getresponse()
        assert response.status == 200
        try:
            yield _events(response)
        finally:
            connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, str, Any]]:
    fields: dict[str, str] = {}
    for line in response:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


def children_of(parent: int, module: bytes) -> list[int]:
    """Return the numbers of a process's children that run a module."""
    numbers: list[int] = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            numbers += [int(text) for text in path.read_text().split()]
    return [number for number in numbers if module in _command_line(number)]


def _command_line(number: int) -> bytes:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b""


def multipart(fields: dict[str, Any], file: tuple[str, str, bytes] | None = None) -> tuple[bytes, str]:
    """Return a form's body and type. file: field, name, content."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    if file is not None:
        name, called, content = file
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{called}"\r\n'
        parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(parts) + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


def until(look: Callable[[], Any], seconds: float = LONG) -> Any:
    """Return what is seen once it is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def frames_of(path: Path | str | bytes) -> list[Any]:
    """Return the pictures of a clip."""
    import io

    import av

    source: Any = io.BytesIO(path) if isinstance(path, bytes) else str(path)
    with av.open(source) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def home(folder: Path) -> dict[str, str]:
    """Return an environment with a home and cache of its own, the cache that of the machine where one is named."""
    cache = os.environ.get("EDGEREEL_TEST_CACHE", str(folder / "cache"))
    return {"EDGEREEL_HOME": str(folder / "home"), "EDGEREEL_CACHE": cache}
