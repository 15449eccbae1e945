"""The page: files that come with the package, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ApiError
from .videos import file_answer

FOLDER = Path(__file__).resolve().parent.parent / "page"
_NAME = re.compile(r"(?:[a-z0-9][a-z0-9_-]{0,40}/){0,2}[a-z0-9][a-z0-9_-]{0,60}(?:\.[a-z0-9]{1,12}){1,2}", re.ASCII)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}


async def index(request: Request) -> Response:
    """GET /."""
    return document(request, "index.html")


async def file(request: Request) -> Response:
    """GET /page/NAME."""
    return document(request, request.path_params["name"])


def languages() -> list[str]:
    """Return the languages that the page has words in, English first."""
    return sorted((path.stem for path in FOLDER.glob("strings/*.json")), key=lambda name: name != "en")


def document(request: Request, name: str) -> Response:
    """Return a file of the page, by its path in the folder. Raises ApiError where there is none."""
    path = FOLDER / name
    kind = _TYPES.get(path.suffix)
    if _NAME.fullmatch(name) is None or kind is None or not path.is_file():
        raise ApiError(404, "there is no such page", code="no_page")
    return file_answer(request, str(path), kind, {"cache-control": "no-cache"})
