"""The interface as OpenAPI 3.1 describes it, made from the same bounds that requests are checked with."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...core.version import __version__
from ...jobs.files import MEDIA_TYPES
from ...jobs.job import STATES
from ...jobs.settings import LONGEST_PROMPT
from ..configuration import Configuration
from ..services import services

Schema = dict[str, Any]
_ID = "^video_[0-9a-f]{32}$"
_SIZE = "^([1-9][0-9]{0,4}x[1-9][0-9]{0,4}|[a-z][a-z0-9-]{0,31})$"


async def document(request: Request) -> Response:
    """GET /openapi.json."""
    return JSONResponse(describe(services(request).configuration))


def describe(configuration: Configuration) -> Schema:
    """Return the document."""
    secured: list[Schema] = [] if configuration.token is None else [{"token": []}, {"session": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgereel", "version": __version__, "description": "Videos made on this machine."},
        "security": secured,
        "paths": {**_videos(configuration), **_others(), **_of_owner()},
        "components": {
            "schemas": {
                "Video": video_schema(),
                "Error": _error_schema(),
                "VideoRequest": request_schema(configuration),
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "edgereel_session"},
            },
        },
    }


def request_schema(configuration: Configuration) -> Schema:
    """Return what may be asked of a job."""
    return {
        "type": "object",
        "required": ["prompt"],
        "additionalProperties": False,
        "properties": {
            "prompt": {"type": "string", "minLength": 1, "maxLength": LONGEST_PROMPT},
            "model": {"type": "string", "enum": list(configuration.bundles)},
            "negative_prompt": {"type": "string", "maxLength": LONGEST_PROMPT},
            "seed": _whole(0, 2**32 - 1),
            "size": {"type": "string", "pattern": _SIZE},
            "width": _whole(1, 99999),
            "height": _whole(1, 99999),
            "seconds": {
                "anyOf": [
                    {"type": "number", "minimum": 0.001, "maximum": 3600},
                    {"type": "string", "pattern": r"^[0-9]{1,4}(\.[0-9]{1,12})?$"},
                ]
            },
            "num_frames": _whole(1, 2**14),
            "fps": {"type": "number", "minimum": 1, "maximum": 240},
            "num_inference_steps": _whole(1, 1000),
            "guidance_scale": {"type": "number", "minimum": 0, "maximum": 100},
            "recipe": {"type": "string", "maxLength": 100},
            "decoder": {"type": "string", "maxLength": 100},
        },
    }


def video_schema() -> Schema:
    """Return what a video looks like."""
    text, number, maybe_whole = {"type": "string"}, {"type": "number"}, {"type": ["integer", "null"]}
    error = {
        "type": ["object", "null"],
        "properties": {"code": text, "message": text},
        "required": ["code", "message"],
    }
    marks = {
        "type": ["object", "null"],
        "properties": {"signed": {"type": "boolean"}, "watermark": {"type": ["string", "null"]}},
    }
    properties = {
        "id": {"type": "string", "pattern": _ID},
        "object": {"const": "video"},
        "status": {"enum": list(STATES)},
        "progress": _whole(0, 100),
        "created_at": {"type": "integer"},
        "completed_at": maybe_whole,
        "expires_at": maybe_whole,
        "model": text,
        "prompt": text,
        "seconds": text,
        "size": text,
        "quality": text,
        "remixed_from_video_id": {"type": ["string", "null"]},
        "error": error,
        "width": maybe_whole,
        "height": maybe_whole,
        "num_frames": maybe_whole,
        "fps": {**number, "type": ["number", "null"]},
        "num_inference_steps": maybe_whole,
        "guidance_scale": {"type": ["number", "null"]},
        "negative_prompt": text,
        "seed": maybe_whole,
        "stage": {"type": ["string", "null"]},
        "step": maybe_whole,
        "total": maybe_whole,
        "queue_position": maybe_whole,
        "provenance": marks,
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _videos(configuration: Configuration) -> Schema:
    video, request = {"$ref": "#/components/schemas/Video"}, {"$ref": "#/components/schemas/VideoRequest"}
    form = request_schema(configuration)
    form["properties"] = {
        **form["properties"],
        "input_reference": {"type": "string", "format": "binary", "description": "The picture that it begins with."},
        "fit": {"type": "string", "enum": ["crop", "pad"]},
    }
    listed = {
        "type": "object",
        "required": ["object", "data", "has_more", "first_id", "last_id"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": video},
            "has_more": {"type": "boolean"},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
        },
    }
    deleted = {
        "type": "object",
        "required": ["id", "object", "deleted"],
        "properties": {"id": {"type": "string"}, "object": {"const": "video.deleted"}, "deleted": {"const": True}},
    }
    key = _parameter(
        "Idempotency-Key", "header", {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"}
    )
    paging = [
        _parameter("limit", "query", _whole(1, 100)),
        _parameter("after", "query", {"type": "string", "pattern": _ID}),
        _parameter("order", "query", {"type": "string", "enum": ["asc", "desc"]}),
    ]
    variant = _parameter("variant", "query", {"type": "string", "enum": list(MEDIA_TYPES)})
    remix = {
        "type": "object",
        "required": ["prompt"],
        "additionalProperties": False,
        "properties": {"prompt": {"type": "string", "minLength": 1, "maxLength": LONGEST_PROMPT}},
    }
    files = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(set(MEDIA_TYPES.values()))}
    bodies = {"application/json": {"schema": request}, "multipart/form-data": {"schema": form}}
    return {
        "/v1/videos": {
            "get": _operation("List videos", listed, 400, 404, parameters=paging),
            "post": _operation(
                "Make a video", video, 400, 408, 409, 413, 415, 429, 507, parameters=[key], bodies=bodies
            ),
        },
        "/v1/videos/{id}": {
            "parameters": [_path("id")],
            "get": _operation("Look a video up", video, 404),
            "delete": _operation("End and forget a video", deleted, 404),
        },
        "/v1/videos/{id}/cancel": {
            "parameters": [_path("id")],
            "post": _operation("End a video: it fails with the code `cancelled`", video, 404),
        },
        "/v1/videos/{id}/remix": {
            "parameters": [_path("id")],
            "post": _operation(
                "Make it again with another prompt: the same seed",
                video,
                *(400, 404, 408, 409, 413, 415, 429, 507),
                bodies={"application/json": {"schema": remix}},
            ),
        },
        "/v1/videos/{id}/content": {
            "parameters": [_path("id")],
            "get": {
                **_operation("The clip, or pictures of it", None, 400, 404, 416, parameters=[variant], found=files),
            },
        },
        "/v1/videos/{id}/preview": {
            "parameters": [_path("id")],
            "get": _operation("The newest picture while it is made", None, 404, found={"image/jpeg": {}}),
        },
        "/v1/videos/{id}/share": {
            "parameters": [_path("id")],
            "get": _operation(
                "A link for the local network", {"type": "object", "required": ["url", "qr_svg"]}, 403, 404, 409
            ),
        },
    }


def _others() -> Schema:
    model = {
        "type": "object",
        "required": ["id", "object", "created", "owned_by", "edgereel"],
        "properties": {"id": {"type": "string"}, "object": {"const": "model"}, "created": {"type": "integer"}},
    }
    models = {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"data": {"type": "array", "items": model}},
    }
    status = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    upload = {
        "type": "object",
        "required": ["file"],
        "additionalProperties": False,
        "properties": {"file": {"type": "string", "format": "binary"}},
    }
    preset = {"type": "object", "required": ["name", "label"]}
    presets = {"type": "object", "required": ["data"], "properties": {"data": {"type": "array", "items": preset}}}
    return {
        "/v1/models": {"get": _operation("List models", models, 503)},
        "/v1/models/{id}": {"parameters": [_path("id")], "get": _operation("Look a model up", model, 404, 503)},
        "/v1/models/unload": {"post": _operation("Let go of models that are not used", {"type": "object"})},
        "/v1/presets": {"get": _operation("Named settings", presets, 503)},
        "/v1/verify": {
            "post": _operation(
                "Look at the marks that a file carries",
                {"type": "object"},
                *(400, 408, 413, 415, 422, 429, 507),
                bodies={"multipart/form-data": {"schema": upload}},
            )
        },
        "/health": {"get": {**_operation("Whether this process answers", status), "security": []}},
        "/ready": {
            "get": {
                **_operation("Whether a job could run", status),
                "security": [],
                "responses": {
                    code: {"description": text, "content": {"application/json": {"schema": status}}}
                    for code, text in (("200", "It could."), ("503", "It could not, and why."))
                },
            }
        },
        "/metrics": {"get": _operation("Measurements, for Prometheus", None, found={"text/plain": {}})},
    }


def _of_owner() -> Schema:
    fine = {"type": "object", "required": ["ok"], "properties": {"ok": {"const": True}}}

    def secret(name: str) -> Schema:
        properties = {name: {"type": "string", "minLength": 1, "maxLength": 4096}}
        body = {"type": "object", "required": [name], "additionalProperties": False, "properties": properties}
        return {"application/json": {"schema": body}}

    return {
        "/v1/settings": {"get": _operation("What the page may do", {"type": "object", "required": ["kiosk"]})},
        "/v1/settings/unlock": {
            "post": _operation("Try the PIN", fine, 400, 403, 408, 409, 413, 415, 429, bodies=secret("pin"))
        },
        "/v1/session": {
            "post": {
                **_operation(
                    "Have a cookie stand for the token", fine, 400, 408, 413, 415, 429, bodies=secret("token")
                ),
                "security": [],
            },
            "delete": {**_operation("Have the cookie go", fine), "security": []},
        },
    }


def _operation(
    summary: str,
    schema: Schema | None,
    *errors: int,
    parameters: list[Schema] | None = None,
    bodies: Schema | None = None,
    found: Schema | None = None,
) -> Schema:
    content = found if schema is None else {"application/json": {"schema": schema}}
    error = {
        "description": "See error.code.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    responses: Schema = {"200": {"description": "Done.", "content": content or {}}}
    # Every path may want a token, refuse other sites' pages or other names, or meet a mistake of ours.
    responses |= {str(status): error for status in sorted({401, 403, 429, 500, *errors})}
    operation: Schema = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if bodies:
        operation["requestBody"] = {"required": True, "content": bodies}
    return operation


def _parameter(name: str, place: str, schema: Schema) -> Schema:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _path(name: str) -> Schema:
    return _parameter(
        name, "path", {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[A-Za-z0-9._-]+$"}
    )


def _whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _error_schema() -> Schema:
    text = {"type": ["string", "null"]}
    properties = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
    error = {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}
