"""The application: which path leads where, and what begins and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from .api import create, events, live, models, operations, owner, page, share, verify, videos
from .errors import ApiError
from .safety.guard import Guard
from .safety.tokens import Tries
from .services import Services
from .supervisor.watch import watch
from .supervisor.worker import WorkerProcess

_ID = "{id}"


def routes() -> list[BaseRoute]:
    """Return every path that is answered."""
    return [
        Route("/", page.index),
        Route("/page/{name:path}", page.file),
        Route("/health", operations.health),
        Route("/ready", operations.ready),
        Route("/metrics", operations.metrics),
        Route("/v1/models", models.listed),
        Route("/v1/models/unload", models.unload, methods=["POST"]),
        Route(f"/v1/models/{_ID}", models.one),
        Route("/v1/presets", models.presets),
        Route("/v1/settings", owner.settings),
        Route("/v1/settings/unlock", owner.unlock, methods=["POST"]),
        Route("/v1/session", owner.begin_session, methods=["POST"]),
        Route("/v1/session", owner.end_session, methods=["DELETE"]),
        Route("/v1/verify", verify.verify, methods=["POST"]),
        WebSocketRoute("/v1/live", live.live),
        Route("/s/{short}", share.shared_page),
        Route("/s/{short}/video.mp4", share.shared_file),
        Route("/v1/events", events.of_all),
        Route("/v1/videos", videos.listed),
        Route("/v1/videos", create.create, methods=["POST"]),
        Route(f"/v1/videos/{_ID}", videos.one),
        Route(f"/v1/videos/{_ID}", videos.delete, methods=["DELETE"]),
        Route(f"/v1/videos/{_ID}/cancel", videos.cancel, methods=["POST"]),
        Route(f"/v1/videos/{_ID}/remix", create.remix, methods=["POST"]),
        Route(f"/v1/videos/{_ID}/content", videos.content),
        Route(f"/v1/videos/{_ID}/preview", videos.preview),
        Route(f"/v1/videos/{_ID}/events", events.of_one),
        Route(f"/v1/videos/{_ID}/share", share.share),
    ]


def make_application(services: Services, first_worker: WorkerProcess | None = None) -> Any:
    """Return the application, as ASGI has it. first_worker: one that was started already."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        supervisor = services.supervisor
        supervisor.on_stage, supervisor.on_end = services.metrics.stage, services.metrics.end
        supervisor.on_begin = services.metrics.begin
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
