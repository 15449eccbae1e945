"""Reading what was sent: a form with a picture, or JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..errors import ApiError

_MOST_FIELDS = 40
_LARGEST_FIELD = 2**16
_DEEPEST = "the JSON is nested too deep"


@dataclass
class Given:
    """fields: texts of a form, or values of JSON. file: the picture or clip, None for none."""

    fields: dict[str, Any]
    file: UploadFile | None = None

    async def digest(self) -> str:
        """Return the sha256 of it all."""
        digest = hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode())
        if self.file is not None:
            while chunk := await self.file.read(2**20):
                digest.update(chunk)
            await self.file.seek(0)
        return digest.hexdigest()

    async def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            await self.file.close()


async def read_json(request: Request) -> dict[str, Any]:
    """Return the object that a request's body is. Raises ApiError."""
    if (kind := request.headers.get("content-type", "").partition(";")[0].strip().lower()) != "application/json":
        raise ApiError(415, f"send application/json, not {kind[:60] or 'nothing'}", code="bad_type")
    try:
        data = json.loads(await request.body(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = _DEEPEST if isinstance(error, RecursionError) else "the body is not JSON"
        raise ApiError(400, reason, code="bad_json") from error
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object", code="bad_json")
    return data


async def read_given(request: Request, file_name: str) -> Given:
    """Return a form's or JSON's fields, and the file of that name. Raises ApiError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return Given(await read_json(request))
    try:
        form = await request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_LARGEST_FIELD)
    except HTTPException as error:
        raise ApiError(400, str(error.detail)[:200], code="bad_form") from error
    except (ValueError, KeyError) as error:
        raise ApiError(400, "the form cannot be read", code="bad_form") from error
    given = Given({})
    for name, value in form.multi_items():
        if name in given.fields or (name == file_name and given.file is not None):
            raise ApiError(400, f"{name[:60]} is given twice", code="bad_form", param=name[:60])
        if isinstance(value, UploadFile):
            if name != file_name:
                raise ApiError(400, f"there is no file {name[:60]!r}", code="unknown_field", param=name[:60])
            given.file = value
        elif name == file_name:
            raise ApiError(400, f"{name} must be a file", code="bad_form", param=name)
        else:
            given.fields[name] = value
    return given


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
