"""Messages on WebSockets: JSON objects in text, so many at most."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.websockets import WebSocket

_MOST_MESSAGES, _MESSAGES_SECONDS = 200, 10.0


class Refused(Exception):
    """A message that is not done. code: for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def read_message(socket: WebSocket, seconds: float | None) -> dict[str, Any]:
    """Return the next message. Raises Refused, with the code too_slow after so many seconds; WebSocketDisconnect."""
    try:
        text = await asyncio.wait_for(socket.receive_text(), seconds)
        message = json.loads(text)
    except asyncio.TimeoutError:
        raise Refused("too_slow", "no message came in time") from None
    except (ValueError, KeyError, RecursionError):
        raise Refused("bad_message", "a message is a JSON object in text") from None
    if not isinstance(message, dict):
        raise Refused("bad_message", "a message is a JSON object in text")
    return message


def whole_number(message: dict[str, Any], name: str, most: int) -> int:
    """Return a number, from 1, of a message. Raises Refused."""
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise Refused("bad_message", f"{name} must be from 1 to {most}")
    return value


class MessageRate:
    """Counts what a client says."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def count(self) -> None:
        """Count a message. Raises Refused, with the code too_many, where they come too fast."""
        now = time.monotonic()
        self._times = [*(at for at in self._times if now - at < _MESSAGES_SECONDS), now]
        if len(self._times) > _MOST_MESSAGES:
            raise Refused("too_many", "too many messages came")
