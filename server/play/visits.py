"""One visitor of a story over a WebSocket: pictures go out while there is credit, choices and the wish for a film come in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import struct
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from ...jobs.worker_process import CommandRefused, WorkerDied
from ..api.sockets import MessageRate, Refused, read_message, whole_number
from .theatre import Theatre, theatre_of

FIRST_CREDIT = 16
_START_SECONDS = 10.0
_MOST_CREDIT = 1000
_MOST_CHOICES = 1000
_MOST_OFFERED = 9


async def play(socket: WebSocket) -> None:
    """WS /v1/play."""
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
        try:
            await _visit(socket)
        except Refused as error:
            await socket.send_json({"type": "refused", "code": error.code, "message": str(error)})
        await socket.close()


async def _visit(socket: WebSocket) -> None:
    """Show the story to one visitor. Raises Refused where it cannot be shown."""
    theatre = theatre_of(socket)
    start = await read_message(socket, _START_SECONDS)
    choices = start.get("choices", [])
    if start.get("type") != "start" or not isinstance(choices, list) or len(choices) > _MOST_CHOICES:
        raise Refused("no_start", "the first message is start, with a list of choices or none")
    if not all(type(choice) is int and 1 <= choice <= _MOST_OFFERED for choice in choices):
        raise Refused("bad_message", f"choices are numbers from 1 to {_MOST_OFFERED}")
    visit = _Visit(socket, theatre, secrets.token_hex(8))
    try:
        await visit.show(choices)
    finally:
        visit.leave()


class _Visit:
    """waits: whether the visitor was asked to choose, or is at the end."""

    def __init__(self, socket: WebSocket, theatre: Theatre, id: str) -> None:
        self._socket, self._theatre, self._id = socket, theatre, id
        # Pictures in it are never more than the credit, since the player sends no more.
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._rate = MessageRate()
        self._waits = False
        self._film: Path | None = None
        self._filming: asyncio.Task[None] | None = None

    async def show(self, choices: list[int]) -> None:
        """Show the story until the visitor goes. Raises Refused."""
        theatre = self._theatre
        theatre.on_visit[self._id] = self._events.put_nowait
        await self._ask("begin", "busy", choices=choices, credit=FIRST_CREDIT)
        tasks = [asyncio.ensure_future(work) for work in (self._hear(), self._send(), theatre.is_closing.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def leave(self) -> None:
        """Let go of all that was made for the visitor alone."""
        self._theatre.on_visit.pop(self._id, None)
        self._theatre.process.tell("leave", visit=self._id)
        if self._filming is not None:
            self._filming.cancel()
        if self._film is not None:
            self._theatre.remove_film(self._film)

    async def _send(self) -> None:
        while True:
            event = await self._events.get()
            if event["event"] == "picture":
                await self._socket.send_bytes(struct.pack(">I", event["number"]) + base64.b64decode(event["jpeg"]))
                continue
            message = event["message"]
            self._waits = message["type"] in ("waits", "ends", "failed")
            await self._socket.send_json(message)

    async def _hear(self) -> None:
        """Do what the visitor says until he goes, or does nothing for too long where he is asked to."""
        while True:
            try:
                message = await read_message(self._socket, self._theatre.idle_seconds)
                self._rate.count()
                if message.get("type") == "stop":
                    return
                await self._do(message)
            except Refused as error:
                if error.code == "too_slow":
                    if self._waits and self._filming is None:
                        await self._socket.send_json({"type": "ended", "reason": "idle"})
                        return
                    continue
                await self._socket.send_json({"type": "refused", "code": error.code, "message": str(error)})
                if error.code in ("too_many", "worker_died"):
                    return

    async def _do(self, message: dict[str, Any]) -> None:
        """Do what a message says. Raises Refused."""
        kind = message.get("type")
        if kind == "choose":
            choice = whole_number(message, "choice", _MOST_OFFERED)
            await self._ask("choose", "not_open", choice=choice)
        elif kind == "credit":
            self._theatre.process.tell(
                "credit", visit=self._id, pictures=whole_number(message, "pictures", _MOST_CREDIT)
            )
        elif kind == "film":
            if self._filming is None:
                self._filming = asyncio.ensure_future(self._make_film())
        elif kind != "here":
            raise Refused("bad_message", "a message is choose, credit, film, here or stop")

    async def _make_film(self) -> None:
        """Have the film made of the way that was gone, and tell where it is."""
        film = self._film or self._theatre.new_film()
        try:
            if self._film is None:
                self._film = film
                await self._ask("film", "film_failed", output=str(film))
            await self._socket.send_json({"type": "film", "url": f"/v1/play/films/{film.stem}"})
        except Refused as error:
            self._theatre.remove_film(film)
            self._film = None
            await self._socket.send_json({"type": "refused", "code": error.code, "message": str(error)})
        finally:
            self._filming = None

    async def _ask(self, do: str, code: str, **facts: Any) -> None:
        """Have the player do something. code: of the refusal where it does not. Raises Refused."""
        try:
            await self._theatre.process.request(do, visit=self._id, **facts)
        except CommandRefused as error:
            raise Refused(code, str(error)) from error
        except WorkerDied as error:
            raise Refused("worker_died", str(error)) from error
