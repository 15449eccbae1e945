"""Bounds of what comes in: bytes before they are read, and the time in which they must have come."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive, Scope

from ..errors import ApiError

_SLOWEST = 50_000
"""Bytes a second, beside the seconds that any body may take."""


def check_length(headers: dict[str, str], most: int) -> int:
    """Return the declared length of a body, 0 for none. Raises ApiError for one that is too long."""
    text = headers.get("content-length")
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ApiError(400, "Content-Length is no number", code="bad_length")
    if len(text) > 15 or int(text) > most:
        raise ApiError(413, f"the body has more than the {most} bytes that it may", code="too_large")
    return int(text)


def bounded(receive: Receive, scope: Scope, declared: int, most: int, seconds: float) -> Receive:
    """Return what receives a body of so many bytes in so much time; then ApiError is raised where it is read."""
    until = time.monotonic() + seconds + declared / _SLOWEST
    taken, whole = 0, False

    async def receive_bounded() -> Message:
        nonlocal taken, whole
        if whole:
            return await receive()  # which waits for the client to go
        try:
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
        except asyncio.TimeoutError:
            raise ApiError(
                408, "the body did not come in time", code="too_slow", headers={"Connection": "close"}
            ) from None
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > most:
                raise ApiError(413, f"the body has more than the {most} bytes that it may", code="too_large")
        return message

    return receive_bounded
