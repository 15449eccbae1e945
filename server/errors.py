"""Errors as HTTP tells them, in the shape of OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse


class ApiError(Exception):
    """An answer that is an error. param: which field is wrong. code: for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(error_body(self.status, self.message, self.code, self.param), self.status, self.headers)


def error_body(status: int, message: str, code: str | None, param: str | None) -> dict[str, Any]:
    """Return the body of an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def not_found(id: str) -> ApiError:
    """Return the error of a video that is not there."""
    return ApiError(404, f"there is no video {id[:80]!r}", code="video_not_found", param="video_id")
