"""A client of WebSockets that shows every message, and sends none of its own accord."""

from __future__ import annotations

import json
import socket
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, Request, TextMessage


class SocketClient:
    """An open WebSocket. status: 101, or that of the refusal."""

    def __init__(self, port: int, path: str, headers: dict[str, str] | None = None) -> None:
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._events: list[Any] = []
        self.status = 101
        extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._send(Request(host=f"127.0.0.1:{port}", target=path, extra_headers=extra))
        first = self._next()
        if isinstance(first, RejectConnection):
            self.status = first.status_code
        else:
            assert isinstance(first, AcceptConnection)

    def _send(self, event: Any) -> None:
        self._socket.sendall(self._connection.send(event))

    def _next(self) -> Any:
        while not self._events:
            data = self._socket.recv(65536)
            self._connection.receive_data(data or None)
            for event in self._connection.events():
                if isinstance(event, Ping):
                    self._send(event.response())
                else:
                    self._events.append(event)
        return self._events.pop(0)

    def say(self, **message: Any) -> None:
        self._send(TextMessage(json.dumps(message)))

    def say_text(self, text: str) -> None:
        self._send(TextMessage(text))

    def hear(self) -> Any:
        """Return the next message: an object, bytes, or None where the other side has closed."""
        whole: Any = None
        while True:
            event = self._next()
            if isinstance(event, CloseConnection):
                return None
            assert isinstance(event, TextMessage | BytesMessage)
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return json.loads(whole) if isinstance(whole, str) else bytes(whole)

    def close(self) -> None:
        self._socket.close()
