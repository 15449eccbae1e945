"""A client of any server of videos that speaks OpenAI's shape; what every request took is noted."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ....core.errors import EdgereelError, UsageError, brief, one_line

_LARGEST_ANSWER = 2**30
_LONGEST_EVENT = 2**22
_KEPT_SECONDS = 3.0


class ServerError(EdgereelError):
    """A server did not answer, or not as this shape has it. status: 0 where nothing came. code: its own word for it."""

    def __init__(self, message: str, status: int = 0, code: str = "no_answer") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Answer:
    """What came back. seconds: from the first byte sent to the last received."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    def json(self) -> dict[str, Any]:
        """Return its JSON object. Raises ServerError."""
        try:
            data = json.loads(self.body)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise ServerError("the server's answer is no JSON object", self.status, "bad_answer")
        return data

    def check(self) -> Answer:
        """Return the answer itself. Raises ServerError for one that is an error."""
        if self.status < 400:
            return self
        told: Any = None
        with suppress(ServerError):
            told = self.json().get("error")
        told = told if isinstance(told, dict) else {}
        message = one_line(str(told.get("message") or f"HTTP status {self.status}"))[:300]
        raise ServerError(message, self.status, str(told.get("code") or f"http_{self.status}"))


class VideoClient:
    """Speaks to one server; a thread has a connection of its own, which is kept."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0) -> None:
        """url: such as http://127.0.0.1:8765. timeout: seconds without a byte. Raises UsageError."""
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{one_line(url)}: is no address of a server: {brief(error)}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{one_line(url)}: is no address of a server: write http://HOST:PORT")
        self.url = url
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._root = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout = timeout
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()

    def __enter__(self) -> VideoClient:
        return self

    def __exit__(self, *_: object) -> None:
        """Close every thread's connection; no other thread uses one any more."""
        for connection in list(self._open):
            self._close(connection)

    def hang_up(self) -> None:
        """End whatever is read from the server now, by any thread; what is asked next gets a new connection."""
        for connection in list(self._open):
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return what a request is answered. Raises ServerError where nothing comes."""
        started = time.perf_counter()
        kept = getattr(self._own, "connection", None)
        if kept is not None and started - self._own.used > _KEPT_SECONDS:
            self._close(kept)  # the server may let go of it just as a job is asked for
            kept = None
        try:
            connection = kept or self._connect()
            try:
                return self._ask(connection, method, path, body, headers, started)
            except (http.client.RemoteDisconnected, ConnectionError):
                if kept is None or method not in ("GET", "HEAD"):  # a job is not asked for twice
                    raise
                self._close(connection)
                connection = self._connect()
                return self._ask(connection, method, path, body, headers, started)
        except (OSError, http.client.HTTPException) as error:
            self._close(getattr(self._own, "connection", None))
            raise ServerError(f"{self.url}: no answer: {brief(error) or type(error).__name__}") from error

    def create(self, fields: Mapping[str, Any], key: str | None = None) -> tuple[dict[str, Any], float]:
        """Ask for a video by a form, as OpenAI's client does; return it and the seconds that took. Raises ServerError."""
        mark = uuid.uuid4().hex
        parts = [
            f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        answer = self.request("POST", "/v1/videos", ("".join(parts) + f"--{mark}--\r\n").encode(), headers).check()
        video = answer.json()
        if not isinstance(video.get("id"), str):
            raise ServerError("the server's answer names no video", answer.status, "bad_answer")
        return video, answer.seconds

    def video(self, id: str) -> tuple[dict[str, Any], float]:
        """Return what a video is now, and the seconds that took. Raises ServerError."""
        answer = self.request("GET", f"/v1/videos/{id}").check()
        return answer.json(), answer.seconds

    def content(self, id: str) -> bytes:
        """Return a video's file. Raises ServerError."""
        return self.request("GET", f"/v1/videos/{id}/content").check().body

    def cancel(self, id: str) -> float:
        """End a video, by DELETE where the server cancels none; return the seconds until that was answered.

        Raises ServerError.
        """
        answer = self.request("POST", f"/v1/videos/{id}/cancel", b"{}", {"Content-Type": "application/json"})
        if answer.status in (404, 405):
            answer = self.request("DELETE", f"/v1/videos/{id}")
        return answer.check().seconds

    def events(self, last: str | None = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield (id, event, data) of the whole queue's events until the stream ends, and `opened` before those.

        last: the id of the last that was seen. Raises ServerError, at once where the server tells none.
        """
        connection = self._new()
        try:
            headers = {**self._headers, "Accept": "text/event-stream"}
            connection.request(
                "GET", f"{self._root}/v1/events", headers={**headers, **({"Last-Event-ID": last} if last else {})}
            )
            response = connection.getresponse()
            if response.status != 200 or "text/event-stream" not in response.getheader("content-type", ""):
                raise ServerError("the server tells no events", response.status, "no_events")
            yield "", "opened", {}
            fields: dict[str, str] = {}
            while line := response.readline(_LONGEST_EVENT):
                name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    data = json.loads(fields["data"])
                    if isinstance(data, dict):
                        yield fields.get("id", ""), fields.get("event", ""), data
                    fields = {}
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ServerError(f"{self.url}: the events ended: {brief(error)}", code="events_ended") from error
        finally:
            self._close(connection)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        started: float,
    ) -> Answer:
        connection.request(method, self._root + path, body, {**self._headers, **(headers or {})})
        response = connection.getresponse()
        content = response.read(_LARGEST_ANSWER)
        self._own.used = time.perf_counter()
        if response.will_close:
            self._close(connection)
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, content, time.perf_counter() - started)

    def _connect(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection = self._new()
        self._own.connection = connection
        return connection

    def _new(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        self._open.add(connection)
        return connection

    def _close(self, connection: http.client.HTTPConnection | None) -> None:
        if connection is not None:
            self._open.discard(connection)
            if getattr(self._own, "connection", None) is connection:
                self._own.connection = None
            connection.close()
