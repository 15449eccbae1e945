"""What marks a file carries, looked at by a process of its own: files of strangers are decoded there, and numpy is loaded there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...core.errors import OutputError
from ...core.files import remove, temporary_beside
from ...core.processes import python_command
from ..errors import ApiError
from ..services import services
from .bodies import read_given

_SECONDS = 120.0
_MOST_WAITING = 4
_UNREADABLE = 2


async def verify(request: Request) -> Response:
    """POST /v1/verify: a file; the answer is what `edgereel verify-media --json` says of it."""
    state = request.app.state
    if state.verifying >= _MOST_WAITING:
        raise ApiError(429, "several files are being looked at already", code="busy", headers={"Retry-After": "5"})
    state.verifying += 1
    try:
        given = await read_given(request, "file")
        try:
            if given.file is None or given.fields:
                raise ApiError(
                    400, "send a file, and nothing else, as multipart/form-data", code="no_file", param="file"
                )
            path = temporary_beside(services(request).videos.folder / "looked-at")
            try:
                await asyncio.to_thread(_keep, given.file, path)
                async with state.one_verification:
                    return JSONResponse(await _look(path))
            except OutputError as error:
                raise ApiError(507, str(error), code="disk_full") from error
            finally:
                await asyncio.to_thread(remove, path)
        finally:
            await given.close()
    finally:
        state.verifying -= 1


def _keep(file: UploadFile, path: Path) -> None:
    try:
        with path.open("xb") as kept:
            shutil.copyfileobj(file.file, kept)
    except OSError as error:
        raise OutputError(f"the file cannot be kept: {error.strerror}") from error


async def _look(path: Path) -> dict[str, object]:
    """Return the report of a file. Raises ApiError."""
    process = await asyncio.create_subprocess_exec(
        *python_command("edgereel", "verify-media", "--json", str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, words = await asyncio.wait_for(process.communicate(), _SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(422, f"looking at this file took longer than {_SECONDS:g} s", code="too_long") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    try:
        report = json.loads(out)["files"][0]
    except (ValueError, LookupError, TypeError):
        reason = words.decode(errors="replace").strip().replace(f"{path}: ", "").replace(str(path), "the file")
        reason = reason.splitlines()[-1][:300] if reason else "it cannot be read"
        status = 400 if process.returncode == _UNREADABLE else 422
        raise ApiError(status, reason.removeprefix("edgereel: "), code="unreadable", param="file") from None
    return {name: value for name, value in report.items() if name not in ("file", "path")}
