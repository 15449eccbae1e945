"""The application: which path leads where, and what begins and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, WebSocketRoute

from ..jobs.worker_process import WorkerProcess
from .api import create, events, live, models, openapi, operations, owner, page, share, verify, videos
from .routing import ERROR_HANDLERS, at
from .safety.guard import Guard
from .safety.tokens import Tries
from .services import Services
from .supervisor.watch import watch


def routes() -> list[BaseRoute]:
    """Return every path that is answered."""
    video, model = "/v1/videos/{id}", "/v1/models/{id}"
    return [
        at("/", GET=page.index),
        at("/page/{name:path}", GET=page.file),
        at("/s/{short}", GET=share.shared_page),
        at("/s/{short}/video.mp4", GET=share.shared_file),
        at("/health", GET=operations.health),
        at("/ready", GET=operations.ready),
        at("/metrics", GET=operations.metrics),
        at("/openapi.json", GET=openapi.document),
        at("/v1/models", GET=models.listed),
        at("/v1/models/unload", POST=models.unload),
        at(model, GET=models.one),
        at("/v1/presets", GET=models.presets),
        at("/v1/settings", GET=owner.settings),
        at("/v1/settings/unlock", POST=owner.unlock),
        at("/v1/session", POST=owner.begin_session, DELETE=owner.end_session),
        at("/v1/verify", POST=verify.verify),
        at("/v1/events", GET=events.of_all),
        at("/v1/videos", GET=videos.listed, POST=create.create),
        at(video, GET=videos.one, DELETE=videos.delete),
        at(f"{video}/cancel", POST=videos.cancel),
        at(f"{video}/remix", POST=create.remix),
        at(f"{video}/content", GET=videos.content),
        at(f"{video}/preview", GET=videos.preview),
        at(f"{video}/events", GET=events.of_one),
        at(f"{video}/share", GET=share.share),
        WebSocketRoute("/v1/live", live.live),
    ]


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

    app = Starlette(routes=routes(), lifespan=lifespan, exception_handlers=ERROR_HANDLERS)
    guard = Guard(app, services.configuration)
    app.state.services, app.state.links = services, share.Links()
    app.state.token_tries, app.state.pin_tries = guard.tries, Tries(most=5)
    app.state.verifying, app.state.one_verification = 0, asyncio.Semaphore(1)
    return guard
