"""The first thing that a request meets: host, origin, token and size are checked, and answers get their headers."""

from __future__ import annotations

import logging
import time
from http.cookies import CookieError, SimpleCookie

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..configuration import Configuration
from ..errors import ApiError
from .bodies import bounded, check_length
from .origins import check_host, check_origin
from .tokens import SESSION_COOKIE, Tries, is_same, is_session

_LOG = logging.getLogger("edgereel.http")
_LARGEST_HEAD = 2**15
_OPEN = ("/health", "/ready", "/openapi.json", "/v1/session")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}

_PREFLIGHT = {
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range",
    "access-control-max-age": "600",
}


class Guard:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, configuration: Configuration) -> None:
        self._app, self._configuration = app, configuration
        self.tries = Tries()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = int(message["status"])
                message["headers"] = self._headers(scope, list(message.get("headers", [])))
            await send(message)

        try:
            if self._is_preflight(scope):
                await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, send_with_headers)
                return
            receive = self._check(scope, receive)
            await self._app(scope, receive, send_with_headers)
        except ApiError as error:
            await error.response()(scope, receive, send_with_headers)
        finally:
            if scope["type"] == "http":
                seconds = time.perf_counter() - started
                _LOG.debug("%s %s %d %.4f s", scope["method"], scope["path"][:200], status, seconds)

    def _is_preflight(self, scope: Scope) -> bool:
        """Whether a browser asks first, for a page of a site that is allowed."""
        if scope["type"] != "http" or scope["method"] != "OPTIONS":
            return False
        return Request(scope).headers.get("origin") in self._configuration.allowed_origins

    def _check(self, scope: Scope, receive: Receive) -> Receive:
        """Return what the body is received with. Raises ApiError."""
        # A head that comes at once is read as a whole, however long it is.
        if len(scope["path"]) + sum(len(name) + len(value) for name, value in scope["headers"]) > _LARGEST_HEAD:
            raise ApiError(431, "the head of the request is too long", code="too_large")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if sum(1 for name, _ in scope["headers"] if name == b"host") > 1:
            raise ApiError(400, "there are several Host headers", code="bad_host")
        is_socket = scope["type"] == "websocket"
        method = "GET" if is_socket else scope["method"]
        check_host(headers, self._configuration)
        check_origin(method, headers, self._configuration, always=is_socket)
        if self._configuration.token is not None and _needs_token(scope["path"]):
            self._check_token(scope, headers, self._configuration.token)
        if is_socket:
            return receive
        limits, most = self._configuration.limits, self._configuration.limits.json_bytes
        if method == "POST" and scope["path"] == "/v1/videos":
            most = limits.upload_bytes + limits.json_bytes
        elif method == "POST" and scope["path"] == "/v1/verify":
            most = limits.verify_bytes + limits.json_bytes
        return bounded(receive, scope, check_length(headers, most), most, limits.body_seconds)

    def _check_token(self, scope: Scope, headers: dict[str, str], token: str) -> None:
        cookie = session_of(headers.get("cookie", ""))
        if cookie is not None and is_session(cookie, token):
            return
        check_guess(self.tries, address_of(scope), bearer_of(headers), token)

    def _headers(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        there = {name.lower() for name, _ in headers}
        page = scope["path"] == "/" or scope["path"].startswith(("/page/", "/s/"))
        wanted = {**_HEADERS, "content-security-policy": PAGE_POLICY if page else _DATA_POLICY}
        if scope["path"].startswith("/v1/"):
            wanted["cache-control"] = "no-store"
        if self._configuration.allowed_origins:
            wanted["cross-origin-resource-policy"] = "cross-origin"  # their pages show clips without saying who asks
        origin = Request(scope).headers.get("origin") if scope["type"] == "http" else None
        if origin is not None and origin in self._configuration.allowed_origins:
            wanted |= {"access-control-allow-origin": origin, "vary": "Origin"}
        return headers + [(name.encode(), text.encode()) for name, text in wanted.items() if name.encode() not in there]


def _needs_token(path: str) -> bool:
    return path == "/metrics" or (path.startswith("/v1/") and path not in _OPEN)


def bearer_of(headers: dict[str, str]) -> str | None:
    """Return the token of an Authorization header, None where there is none."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" and given.strip() else None


def session_of(header: str) -> str | None:
    """Return the session of a Cookie header, None where there is none."""
    try:
        cookie = SimpleCookie(header).get(SESSION_COOKIE)
    except CookieError:
        return None
    return None if cookie is None else cookie.value


def address_of(scope: Scope) -> str:
    """Return the address of who asks."""
    client = scope.get("client")
    return "" if client is None else str(client[0])


def check_guess(tries: Tries, address: str, given: str | None, secret: str) -> None:
    """Raise ApiError where a secret is missing or wrong, and where it was tried too often from there."""
    if (wait := tries.wait(address)) > 0:
        raise ApiError(
            429, "it was tried too often: wait", code="too_many_tries", headers={"Retry-After": str(int(wait) + 1)}
        )
    if given is None:
        headers = {"WWW-Authenticate": "Bearer"}
        raise ApiError(401, "this server wants a token: Authorization: Bearer TOKEN", code="no_token", headers=headers)
    if not is_same(given, secret):
        tries.note(address)
        raise ApiError(401, "that is not the secret", code="wrong_token", headers={"WWW-Authenticate": "Bearer"})
