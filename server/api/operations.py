"""Whether it lives, whether it could work, and what it measures."""

from __future__ import annotations

import shutil
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..metrics import text_of
from ..services import Services, services


async def health(request: Request) -> Response:
    """GET /health: this process answers."""
    return JSONResponse({"status": "alive"})


async def ready(request: Request) -> Response:
    """GET /ready: a job could run now."""
    reason = why_not_ready(services(request))
    status = {"status": "ready" if reason is None else "not ready", "reason": reason}
    return JSONResponse(status, 200 if reason is None else 503)


def why_not_ready(found: Services) -> str | None:
    """Return why no job could run, None where one could."""
    if not any(slot.ready for slot in found.supervisor.slots):
        return found.supervisor.failure or "the first worker is starting"
    if shutil.disk_usage(found.videos.folder).free < found.configuration.limits.free_bytes:
        return "the disk is full"
    if found.store.counts()["queued"] >= found.configuration.limits.waiting:
        return "the queue is full"
    return None


async def metrics(request: Request) -> Response:
    """GET /metrics: for Prometheus."""
    found = services(request)
    workers = [(slot.ready, slot.bytes) for slot in found.supervisor.slots]
    text = text_of(found.metrics, found.store.counts(), found.store.bytes(), workers, own_bytes())
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def own_bytes() -> int:
    """Return the memory that this process holds now, 0 where the system does not tell."""
    import os

    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0
