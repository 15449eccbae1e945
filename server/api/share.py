"""Clips to take along: a short link for the local network, for a while, as text and as a code for telephones."""

from __future__ import annotations

import html
import ipaddress
import secrets
import socket
import time
from collections import OrderedDict

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ...jobs.files import MEDIA_TYPES
from ...jobs.job import COMPLETED
from ..configuration import Configuration
from ..errors import ApiError
from ..services import services
from .videos import file_answer, file_gone, job_of

LINK_SECONDS = 3600.0
_MOST_LINKS = 1000
_ANYWHERE = "192.0.2.1"
"""An address of nobody's (RFC 5737): which of ours would be used to go there tells which is on the network. Nothing is sent."""


class Links:
    """Short names of clips, each for an hour."""

    def __init__(self) -> None:
        self._links: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def add(self, id: str) -> str:
        """Return a new short name for a clip; it cannot be guessed."""
        name = secrets.token_urlsafe(12)
        self._links[name] = (id, time.monotonic() + LINK_SECONDS)
        while len(self._links) > _MOST_LINKS:
            self._links.popitem(last=False)
        return name

    def find(self, name: str) -> str | None:
        """Return the clip of a short name, None where there is none any more."""
        id, until = self._links.get(name, ("", 0.0))
        return id if time.monotonic() < until else None


async def share(request: Request) -> Response:
    """GET /v1/videos/ID/share: only where the owner allows it."""
    configuration = services(request).configuration
    if not configuration.share:
        raise ApiError(403, "the owner does not share: --share allows it", code="sharing_off")
    job = job_of(request)
    if job.status != COMPLETED:
        raise ApiError(409, f"this video cannot be shared: it is {job.status}", code="not_ready")
    if configuration.is_loopback:
        raise ApiError(
            409, "other machines cannot reach this server: it listens on its own address alone", code="not_reachable"
        )
    import segno

    port = request.scope["server"][1]
    url = f"http://{lan_host(configuration)}:{port}/s/{request.app.state.links.add(job.id)}"
    drawing = segno.make(url, error="m", micro=False).svg_inline(scale=4, border=2)
    return JSONResponse({"url": url, "qr_svg": drawing, "expires_in": int(LINK_SECONDS)})


async def shared_page(request: Request) -> Response:
    """GET /s/SHORT: a page with the clip."""
    name = request.path_params["short"]
    _shared(request)
    title = html.escape(services(request).configuration.title)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<main><h1>{title}</h1><video controls autoplay loop muted playsinline src="/s/{name}/video.mp4"></video>'
        f'<p><a href="/s/{name}/video.mp4?download=1" download>MP4</a></p></main></html>',
        headers={"cache-control": "no-store"},
    )


async def shared_file(request: Request) -> Response:
    """GET /s/SHORT/video.mp4."""
    path = services(request).videos.of(_shared(request)).variant("video")
    if path is None:
        raise file_gone()
    name = f"{path.parent.name}.mp4" if request.query_params.get("download") == "1" else None
    return file_answer(request, str(path), MEDIA_TYPES["video"], {"cache-control": "no-store"}, name)


def _shared(request: Request) -> str:
    found = services(request)
    id = request.app.state.links.find(request.path_params["short"]) if found.configuration.share else None
    job = None if id is None else found.store.get(id)
    if job is None or job.status != COMPLETED:
        raise ApiError(404, "this link has expired", code="link_expired")
    return job.id


def lan_host(configuration: Configuration) -> str:
    """Return the address that other machines on the network reach this one by."""
    host = configuration.host.strip("[]")
    try:
        unspecified = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host
    if not unspecified:
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ANYWHERE, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
