"""The application: which path leads where, and what begins and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from ..jobs.worker_process import WorkerProcess
from .api import create, events, live, models, openapi, operations, owner, page, share, verify, videos
from .errors import ApiError
from .safety.guard import Guard
from .safety.tokens import Tries
from .services import Services
from .supervisor.watch import watch


def routes() -> list[BaseRoute]:
    """Return every path that is answered."""
    video, model = "/v1/videos/{id}", "/v1/models/{id}"
    return [
        _at("/", GET=page.index),
        _at("/page/{name:path}", GET=page.file),
        _at("/s/{short}", GET=share.shared_page),
        _at("/s/{short}/video.mp4", GET=share.shared_file),
        _at("/health", GET=operations.health),
        _at("/ready", GET=operations.ready),
        _at("/metrics", GET=operations.metrics),
        _at("/openapi.json", GET=openapi.document),
        _at("/v1/models", GET=models.listed),
        _at("/v1/models/unload", POST=models.unload),
        _at(model, GET=models.one),
        _at("/v1/presets", GET=models.presets),
        _at("/v1/settings", GET=owner.settings),
        _at("/v1/settings/unlock", POST=owner.unlock),
        _at("/v1/session", POST=owner.begin_session, DELETE=owner.end_session),
        _at("/v1/verify", POST=verify.verify),
        _at("/v1/events", GET=events.of_all),
        _at("/v1/videos", GET=videos.listed, POST=create.create),
        _at(video, GET=videos.one, DELETE=videos.delete),
        _at(f"{video}/cancel", POST=videos.cancel),
        _at(f"{video}/remix", POST=create.remix),
        _at(f"{video}/content", GET=videos.content),
        _at(f"{video}/preview", GET=videos.preview),
        _at(f"{video}/events", GET=events.of_one),
        _at(f"{video}/share", GET=share.share),
        WebSocketRoute("/v1/live", live.live),
    ]


Answering = Callable[[Request], Awaitable[Response]]


def _at(path: str, **by_method: Answering) -> Route:
    """Return one route for all that a path does, so that it says rightly what that is."""

    async def answer(request: Request) -> Response:
        return await by_method["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, answer, methods=list(by_method))


def make_application(services: Services, first_worker: WorkerProcess | None = None) -> Any:
    """Return the application, as ASGI has it. first_worker: one that was started already."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        supervisor = services.supervisor
        supervisor.on_stage, supervisor.on_end = services.metrics.stage, services.metrics.end
        supervisor.on_begin, supervisor.on_death = services.metrics.begin, services.metrics.die
        await supervisor.recover()
        supervisor.start(first_worker)
        watching = asyncio.get_running_loop().create_task(watch(supervisor))
        try:
            yield
        finally:
            watching.cancel()
            services.hub.close()
            await supervisor.stop(services.configuration.limits.stop_seconds)
            await asyncio.to_thread(services.store.close)

    handlers: dict[Any, Any] = {ApiError: _told, HTTPException: _http_error, Exception: _mistake}
    app = Starlette(routes=routes(), lifespan=lifespan, exception_handlers=handlers)
    guard = Guard(app, services.configuration)
    app.state.services, app.state.links = services, share.Links()
    app.state.token_tries, app.state.pin_tries = guard.tries, Tries(most=5)
    app.state.verifying, app.state.one_verification = 0, asyncio.Semaphore(1)
    return guard


async def _told(request: Request, error: ApiError) -> Response:
    return error.response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Say in our shape what Starlette says: no such path, no such method."""
    message = {404: "there is nothing under this path", 405: "this path does not do that"}.get(error.status_code)
    told = ApiError(error.status_code, message or str(error.detail), code="no_path", headers=error.headers)
    return told.response()


async def _mistake(request: Request, error: Exception) -> Response:
    """Say that the server made a mistake, without telling which; it is in the log."""
    return ApiError(500, "the server made a mistake: its log tells which", code="internal").response()
