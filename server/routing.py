"""Paths and what they do, and errors as every application of the server tells them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .errors import ApiError

Answering = Callable[[Request], Awaitable[Response]]


def at(path: str, **by_method: Answering) -> Route:
    """Return one route for all that a path does, so that it says rightly what that is."""

    async def answer(request: Request) -> Response:
        return await by_method["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, answer, methods=list(by_method))


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


ERROR_HANDLERS: dict[Any, Any] = {ApiError: _told, HTTPException: _http_error, Exception: _mistake}
