"""Live films over a WebSocket: pictures go out while the client gives credit for them, and prompts change in the middle."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import struct
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from ...jobs.settings import JobSettings, SettingError
from ...jobs.worker_process import CommandRefused, WorkerDied, WorkerProcess
from ..errors import ApiError
from ..services import Services, services
from ..supervisor.supervisor import ERROR_CODES
from .create import screened
from .sockets import MessageRate, Refused, read_message, whole_number

FIRST_CREDIT = 16
_START_SECONDS = 10.0
_PATIENCE = 30.0
_MOST_CREDIT = 1000


async def live(socket: WebSocket) -> None:
    """WS /v1/live."""
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
        try:
            await _film(socket)
        except Refused as error:
            await socket.send_json({"type": "refused", "code": error.code, "message": str(error)})
        await socket.close()


async def _film(socket: WebSocket) -> None:
    """Show one film. Raises Refused where none can be shown."""
    found = services(socket)
    start = await read_message(socket, _START_SECONDS)
    if start.pop("type", None) != "start":
        raise Refused("no_start", "the first message is start")
    model = str(start.pop("model", None) or _live_model(found))
    if model not in found.configuration.bundles:
        raise Refused("no_model", f"there is no model {model[:60]!r}")
    try:
        settings = JobSettings.of({**start, "prompt": screened(found, start.get("prompt"))})
    except (SettingError, ApiError) as error:
        code = getattr(error, "code", None) or "invalid_value"
        raise Refused(str(code), str(error)) from error
    known = found.supervisor.model(model)
    if known is None or not known["live"]:
        raise Refused("no_live", f"the model {model} makes clips, not films without end")
    film = secrets.token_hex(8)
    slot = found.supervisor.take_slot(film)
    if slot is None or slot.process is None:
        raise Refused("busy", "every worker is busy: try again when a job or film is over")
    try:
        await _Film(socket, found, film, slot.process).show(model, settings)
    finally:
        found.supervisor.on_film.pop(film, None)
        await found.supervisor.give_back(slot)


def _live_model(found: Services) -> str:
    """Return the first model that makes films, the default one where none does."""
    names = [model["name"] for model in found.supervisor.models if model["live"]]
    return names[0] if names else found.configuration.default_model


class _Film:
    def __init__(self, socket: WebSocket, found: Services, id: str, process: WorkerProcess) -> None:
        self._socket, self._found, self._id, self._process = socket, found, id, process
        # Never more than the credit is in it, since the worker sends no more.
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._rate = MessageRate()

    async def show(self, model: str, settings: JobSettings) -> None:
        """Show it until the client, the worker or the time ends it."""
        self._found.supervisor.on_film[self._id] = self._events.put_nowait
        making = asyncio.ensure_future(
            self._process.request(
                "live",
                film=self._id,
                model=model,
                settings=settings.to_json(),
                credit=FIRST_CREDIT,
                patience=_PATIENCE,
                seconds=self._found.configuration.limits.live_seconds,
            )
        )
        hearing, sending = asyncio.ensure_future(self._hear()), asyncio.ensure_future(self._send())
        try:
            await asyncio.wait({making, hearing, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not making.done():
                self._process.tell("stop", film=self._id)
            end = await self._end(making)
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await self._socket.send_json(end)
        finally:
            if not making.done():  # this task was cancelled: the worker must not go on
                self._process.tell("stop", film=self._id)
            for task in (making, hearing, sending):
                task.cancel()
            await asyncio.gather(making, hearing, sending, return_exceptions=True)

    async def _end(self, making: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        """Return what is said in the end."""
        try:
            answer = await making
        except CommandRefused as error:
            return {"type": "error", "code": ERROR_CODES.get(error.kind, "failed"), "message": str(error)}
        except WorkerDied as error:
            return {"type": "error", "code": "worker_died", "message": str(error)}
        return {"type": "ended", "reason": answer["reason"], "pictures": answer["pictures"]}

    async def _send(self) -> None:
        while True:
            event = await self._events.get()
            if event["event"] == "film":
                facts = {key: event[key] for key in ("width", "height", "fps")}
                await self._socket.send_json({"type": "started", **facts, "stream_id": self._id})
                continue
            if event["prompt"] is not None and event["number"] > 0:
                said = {"type": "prompt", "prompt": event["prompt"], "from_picture": event["number"]}
                await self._socket.send_json(said)
            await self._socket.send_bytes(struct.pack(">I", event["number"]) + base64.b64decode(event["jpeg"]))

    async def _hear(self) -> None:
        """Do what the client says until it stops or goes."""
        while True:
            try:
                message = await read_message(self._socket, None)
                self._rate.count()
                if await self._do(message):
                    return
            except Refused as error:
                await self._socket.send_json({"type": "refused", "code": error.code, "message": str(error)})
                if error.code == "too_many":
                    return

    async def _do(self, message: dict[str, Any]) -> bool:
        """Do what a message says; return whether the film is over. Raises Refused."""
        kind = message.get("type")
        try:
            if kind == "prompt":
                prompt = screened(self._found, message.get("prompt"))
                JobSettings.of({"prompt": prompt})
                await self._process.request("prompt", film=self._id, prompt=prompt)
            elif kind == "credit":
                pictures = whole_number(message, "pictures", _MOST_CREDIT)
                self._process.tell("credit", film=self._id, pictures=pictures)
            elif kind == "stop":
                return True
            else:
                raise Refused("bad_message", "a message is prompt, credit or stop")
        except (SettingError, ApiError) as error:
            raise Refused(str(getattr(error, "code", None) or "invalid_value"), str(error)) from error
        except CommandRefused as error:
            raise Refused(ERROR_CODES.get(error.kind, "failed"), str(error)) from error
        except WorkerDied as error:
            raise Refused("worker_died", str(error)) from error
        return False
