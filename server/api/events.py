"""Server-sent events: of one video, or of the whole queue."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ...jobs.job import Job
from ..errors import ApiError
from ..events import told
from ..services import Services, services
from .videos import job_of

_MOST_LISTENERS = 64


async def of_all(request: Request) -> Response:
    """GET /v1/events."""
    return _stream(request, None)


async def of_one(request: Request) -> Response:
    """GET /v1/videos/ID/events: ends when nothing more will become of it."""
    return _stream(request, job_of(request))


def _stream(request: Request, job: Job | None) -> Response:
    found = services(request)
    if found.hub.listeners >= _MOST_LISTENERS:
        raise ApiError(503, "too many listen already", code="too_many_listeners", headers={"Retry-After": "10"})
    last_id = request.headers.get("last-event-id")
    if job is not None and job.is_finished and found.hub.missed(last_id, job.id) == []:
        return Response(status_code=204)  # a browser that hears of the end asks again, until it is told this
    events = _events(found, None if job is None else job.id, last_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(found: Services, video: str | None, last_id: str | None) -> AsyncIterator[str]:
    """Yield what was missed, or the present state of what is unfinished, and then what happens."""
    listener = found.hub.subscribe(video)
    try:
        yield "retry: 2000\n\n"
        missed = found.hub.missed(last_id, video)
        if missed is not None:
            for event in missed:
                yield event.text
            ended = bool(missed) and missed[-1].last and video is not None
        else:
            one = None if video is None else found.store.get(video)
            jobs = found.store.unfinished() if video is None else [one] if one is not None else []
            for job in jobs:
                yield found.hub.text("video", found.supervisor.object_of(job))
            ended = one is not None and one.is_finished
        if not ended:
            async for text in told(listener):
                yield text
    finally:
        found.hub.leave(listener)
