"""Events: what happens is told to everybody who listens, and kept for a while for who comes back."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

_KEPT = 2000
_ROOM = 1000
HEARTBEAT = ": beat\n\n"
BEAT_EVERY = 10.0


class Event(NamedTuple):
    """number: rising. video: its id. text: as it goes out. last: whether nothing more will be told of the video."""

    number: int
    video: str
    text: str
    last: bool


class Subscription:
    """One listener. Who does not take what is told, loses the connection, and asks again where it was."""

    def __init__(self, video: str | None) -> None:
        self.video = video
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def put(self, event: Event) -> bool:
        """Hand over an event; return whether there was room."""
        if self.video is not None and event.video != self.video:
            return True
        if self.queue.qsize() >= _ROOM:
            return False
        self.queue.put_nowait(event)
        return True


class Hub:
    """Where events come from and go to; for one event loop."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(4)
        self._number = 0
        self._kept: deque[Event] = deque(maxlen=_KEPT)
        self._listeners: set[Subscription] = set()
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def publish(self, kind: str, video: str, data: dict[str, Any], *, last: bool = False) -> None:
        """Tell of something."""
        self._number += 1
        event = Event(self._number, video, self.text(kind, data), last)
        self._kept.append(event)
        for listener in list(self._listeners):
            if not listener.put(event):
                self._listeners.discard(listener)
                listener.queue.put_nowait(None)

    def text(self, kind: str, data: dict[str, Any]) -> str:
        """Return an event as it goes out, with the number of the last one that was told."""
        return f"id: {self._run}-{self._number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"

    def missed(self, last_id: str | None, video: str | None) -> list[Event] | None:
        """Return what was told since the event of that id, None where that is not known any more."""
        run, _, number = (last_id or "").partition("-")
        if run != self._run or not number.isascii() or not number.isdigit() or len(number) > 15:
            return None
        since = int(number)
        if since > self._number or (self._kept and since < self._kept[0].number - 1):
            return None
        return [event for event in self._kept if event.number > since and video in (None, event.video)]

    def subscribe(self, video: str | None) -> Subscription:
        """Return a listener, to be given to `leave` in the end."""
        listener = Subscription(video)
        if self._closed:
            listener.queue.put_nowait(None)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Subscription) -> None:
        """Forget a listener."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """End every listener's stream."""
        self._closed = True
        for listener in self._listeners:
            listener.queue.put_nowait(None)


async def told(listener: Subscription) -> AsyncIterator[str]:
    """Yield what a listener is told, and a comment where that is nothing for a while."""
    while True:
        try:
            event = await asyncio.wait_for(listener.queue.get(), BEAT_EVERY)
        except asyncio.TimeoutError:
            yield HEARTBEAT
            continue
        if event is None:
            return
        yield event.text
        if event.last and listener.video is not None:
            return
