"""Videos: looked up, listed, cancelled, deleted, and their files."""

from __future__ import annotations

import asyncio
import re

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from ...core.errors import UsageError
from ...jobs.files import MEDIA_TYPES
from ...jobs.job import COMPLETED, FAILED, Job
from ..errors import ApiError, not_found
from ..services import services

_MOST_LISTED = 100


def job_of(request: Request) -> Job:
    """Return the job that a path names. Raises ApiError."""
    job = services(request).store.get(request.path_params["id"])
    if job is None:
        raise not_found(request.path_params["id"])
    return job


async def listed(request: Request) -> Response:
    """GET /v1/videos: limit, after, order."""
    found, asked = services(request), request.query_params
    if unknown := sorted(set(asked) - {"limit", "after", "order"}):
        raise ApiError(400, f"there is no parameter {unknown[0][:60]!r}", code="unknown_field", param=unknown[0][:60])
    limit = asked.get("limit", "20")
    if not re.fullmatch("[0-9]{1,4}", limit, re.ASCII) or not 1 <= int(limit) <= _MOST_LISTED:
        raise ApiError(400, f"limit must be from 1 to {_MOST_LISTED}", code="invalid_value", param="limit")
    order = asked.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, "order must be asc or desc", code="invalid_value", param="order")
    try:
        jobs, more = found.store.page(int(limit), asked.get("after"), descending=order == "desc")
    except UsageError as error:
        raise ApiError(404, str(error), code="video_not_found", param="after") from error
    data = [found.supervisor.object_of(job) for job in jobs]
    ids = [job.id for job in jobs]
    page = {"object": "list", "data": data, "has_more": more}
    return JSONResponse({**page, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None})


async def one(request: Request) -> Response:
    """GET /v1/videos/ID."""
    return JSONResponse(services(request).supervisor.object_of(job_of(request)))


async def delete(request: Request) -> Response:
    """DELETE /v1/videos/ID: ends it where it runs, and removes its files."""
    job = job_of(request)
    if not await services(request).supervisor.delete(job.id):
        raise not_found(job.id)
    return JSONResponse({"id": job.id, "object": "video.deleted", "deleted": True})


async def cancel(request: Request) -> Response:
    """POST /v1/videos/ID/cancel: nothing happens to one that has ended."""
    job = job_of(request)
    supervisor = services(request).supervisor
    await supervisor.cancel(job.id)
    return JSONResponse(supervisor.object_of(job_of(request)))


async def content(request: Request) -> Response:
    """GET /v1/videos/ID/content: variant, download."""
    job = job_of(request)
    variant = request.query_params.get("variant", "video")
    if variant not in MEDIA_TYPES:
        choices = ", ".join(MEDIA_TYPES)
        raise ApiError(400, f"variant must be one of {choices}", code="invalid_value", param="variant")
    if job.status == FAILED:
        raise ApiError(404, f"this video failed: {job.error_message}", code="video_failed")
    if job.status != COMPLETED:
        raise ApiError(404, f"this video is not there yet: it is {job.status}", code="not_ready")
    path = await asyncio.to_thread(services(request).videos.of(job.id).variant, variant)
    if path is None:
        raise file_gone()
    name = None
    if request.query_params.get("download") == "1":
        name = f"{job.id}{path.suffix}" if variant == "video" else f"{job.id}-{variant}{path.suffix}"
    headers = {"cache-control": "private, no-cache"}
    return file_answer(request, str(path), MEDIA_TYPES[variant], headers, name)


class _File(FileResponse):
    """Starlette's, whose refusals of ranges are told in our shape, and which begins no answer before the file is open.

    A file may be removed after its size was read: whoever asked is told so, not sent a length that nothing follows.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Raises ApiError before anything is sent."""
        refused, start = 0, None

        async def send_what_is_there(message: Message) -> None:
            nonlocal refused, start
            if message["type"] == "http.response.start":
                refused, start = int(message["status"]) if message["status"] >= 400 else 0, message
                return
            if not refused:
                if start is not None:
                    first, start = start, None
                    await send(first)
                await send(message)

        try:
            await super().__call__(scope, receive, send_what_is_there)
        except OSError as error:
            if start is None:
                raise
            raise file_gone() from error
        if refused:
            size = self.headers["content-length"]
            message = f"Range: no such part of the {size} bytes that there are"
            raise ApiError(refused, message, code="bad_range", headers={"Content-Range": f"bytes */{size}"})


def file_gone() -> ApiError:
    """Return the refusal of a file that was removed."""
    return ApiError(404, "its file is not there any more", code="file_gone")


def file_answer(
    request: Request, path: str, media_type: str, headers: dict[str, str], name: str | None = None
) -> Response:
    """Return a file, parts of it where those are asked for, or that it has not changed. name: that it is saved under."""
    try:
        import os

        information = os.stat(path, follow_symlinks=False)
    except OSError as error:
        raise file_gone() from error
    answer = _File(path, headers=headers, media_type=media_type, filename=name, stat_result=information)
    tag = answer.headers["etag"]
    wanted = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in wanted or "*" in wanted:
        return Response(status_code=304, headers={**headers, "etag": tag})
    return answer


async def preview(request: Request) -> Response:
    """GET /v1/videos/ID/preview: the newest picture while it is made."""
    progress = services(request).supervisor.progress.get(job_of(request).id)
    if progress is None or progress.preview is None:
        raise ApiError(404, "there is no preview now", code="no_preview")
    return Response(progress.preview, media_type="image/jpeg")
