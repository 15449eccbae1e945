"""Models and presets, as workers told of them."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..errors import ApiError
from ..services import Services, services

_WAIT = 15.0
_CREATED = 1767225600  # a time that clients want and nobody has: the year of the first release


async def listed(request: Request) -> Response:
    """GET /v1/models."""
    found = services(request)
    return JSONResponse({"object": "list", "data": [_object(found, model) for model in await known(found)]})


async def one(request: Request) -> Response:
    """GET /v1/models/ID."""
    found, name = services(request), request.path_params["id"]
    for model in await known(found):
        if model["name"] == name:
            return JSONResponse(_object(found, model))
    raise ApiError(404, f"there is no model {name[:80]!r}", code="no_model")


async def unload(request: Request) -> Response:
    """POST /v1/models/unload: workers that have nothing to do let go of their bundles."""
    return JSONResponse({"unloaded": await services(request).supervisor.unload()})


async def presets(request: Request) -> Response:
    """GET /v1/presets: the operator's, and the formats of the default model."""
    found = services(request)
    models = await known(found)
    data = [dict(preset) for preset in found.configuration.presets]
    taken = {preset["name"] for preset in data}
    for model in models[:1]:
        seconds = f"{model['frames'] / model['fps']:.6g}"
        for name, (width, height) in model["formats"].items():
            if name not in taken:
                size = f"{width}x{height}"
                data.append({"name": name, "label": name, "size": size, "seconds": seconds, "fps": model["fps"]})
    return JSONResponse({"object": "list", "data": data})


async def known(found: Services) -> list[dict[str, Any]]:
    """Return what workers said of their models. Raises ApiError where none has yet."""
    try:
        await asyncio.wait_for(found.supervisor.known.wait(), _WAIT)
    except asyncio.TimeoutError:
        reason = found.supervisor.failure or "it is being opened"
        headers = {"Retry-After": "2"}
        raise ApiError(503, f"no model is ready: {reason}", code="not_ready", headers=headers) from None
    return found.supervisor.models


def _object(found: Services, model: dict[str, Any]) -> dict[str, Any]:
    name = model["name"]
    more = {key: value for key, value in model.items() if key != "name"}
    more["default"] = name == found.configuration.default_model
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "local", "edgereel": more}
