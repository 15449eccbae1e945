"""What the owner allows: settings of the page, sessions, the PIN."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..errors import ApiError
from ..safety.guard import address_of, check_guess
from ..safety.tokens import SESSION_COOKIE, SESSION_SECONDS, Tries, is_same, new_session
from ..services import services
from .bodies import read_json
from .page import languages


async def settings(request: Request) -> Response:
    """GET /v1/settings: what the page may do."""
    found = services(request)
    configuration, models = found.configuration, found.supervisor.models
    takes_picture = any(model["takes_picture"] for model in models)
    uploads = takes_picture and (found.policy is None or found.policy.uploads)
    return JSONResponse(
        {
            "kiosk": configuration.kiosk,
            "share": configuration.share,
            "live": any(model["live"] for model in models),
            "camera": uploads,
            "upload": uploads,
            "languages": languages(),
            "idle_seconds": configuration.idle_seconds,
            "pin_set": configuration.pin is not None,
            "brand": {"title": configuration.title},
        }
    )


async def unlock(request: Request) -> Response:
    """POST /v1/settings/unlock {"pin"}."""
    pin = await _secret(request, "pin")
    secret = services(request).configuration.pin
    if secret is None:
        raise ApiError(409, "no PIN is set: --pin-file FILE", code="no_pin", param="pin")
    tries: Tries = request.app.state.pin_tries
    if (wait := tries.wait(address_of(request.scope))) > 0:
        headers = {"Retry-After": str(int(wait) + 1)}
        raise ApiError(429, "it was tried too often: wait", code="too_many_tries", headers=headers)
    if not is_same(pin, secret):
        tries.note(address_of(request.scope))
        raise ApiError(403, "that is not the PIN", code="wrong_pin", param="pin")
    return JSONResponse({"ok": True})


async def begin_session(request: Request) -> Response:
    """POST /v1/session {"token"}: from then on a cookie stands for the token."""
    given = await _secret(request, "token")
    token = services(request).configuration.token
    answer = JSONResponse({"ok": True})
    if token is None:
        return answer  # nobody needs one
    check_guess(request.app.state.token_tries, address_of(request.scope), given, token)
    answer.set_cookie(
        SESSION_COOKIE,
        new_session(token),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


async def end_session(request: Request) -> Response:
    """DELETE /v1/session: the cookie goes."""
    answer = JSONResponse({"ok": True})
    answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return answer


async def _secret(request: Request, name: str) -> str:
    data: dict[str, Any] = await read_json(request)
    secret = data.get(name)
    if len(data) != 1 or not isinstance(secret, str) or not 0 < len(secret) <= 4096:
        raise ApiError(400, f"send {name}, a text, and nothing else", code="invalid_value", param=name)
    return secret
