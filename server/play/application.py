"""The application that plays a story: which path leads where."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import WebSocketRoute

from ..api import page
from ..api.videos import file_answer
from ..configuration import Configuration
from ..errors import ApiError
from ..routing import ERROR_HANDLERS, at
from ..safety.guard import Guard
from .theatre import Theatre, theatre_of
from .visits import play

_FILM = re.compile("[0-9a-f]{32}")


def make_play_application(theatre: Theatre, configuration: Configuration) -> Any:
    """Return the application, as ASGI has it."""
    routes = [
        at("/", GET=_index),
        at("/page/{name:path}", GET=page.file),
        at("/v1/play/story", GET=_story),
        at("/v1/play/sounds/{show:int}/{number:int}", GET=_sound),
        at("/v1/play/films/{name}", GET=_film),
        WebSocketRoute("/v1/play", play),
    ]
    app = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
    app.state.theatre = theatre
    return Guard(app, configuration)


async def _index(request: Request) -> Response:
    """GET /."""
    return page.document(request, "play/index.html")


async def _story(request: Request) -> Response:
    """GET /v1/play/story: what the page shows before anything is played."""
    found = theatre_of(request)
    return JSONResponse({**found.facts, "languages": page.languages(), "idle_seconds": found.idle_seconds})


async def _sound(request: Request) -> Response:
    """GET /v1/play/sounds/SHOW/NUMBER: a WAV file of the story's."""
    asked = request.path_params
    path = theatre_of(request).sound(asked["show"], asked["number"])
    if path is None:
        raise ApiError(404, "there is no such sound", code="no_sound")
    return file_answer(request, path, "audio/wav", {"cache-control": "private, no-cache"})


async def _film(request: Request) -> Response:
    """GET /v1/play/films/NAME: a film that a visitor had made, while he is here."""
    found, name = theatre_of(request), request.path_params["name"]
    path = found.films / f"{name}.mp4"
    if _FILM.fullmatch(name) is None or not await asyncio.to_thread(path.is_file):
        raise ApiError(404, "there is no such film any more", code="no_film")
    title = "".join(each for each in str(found.facts["title"]) if each.isalnum() or each in " -_")[:80].strip()
    return file_answer(request, str(path), "video/mp4", {"cache-control": "no-store"}, f"{title or 'film'}.mp4")
