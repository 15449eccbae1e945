"""Taking a job in: everything that can be known before it is made is checked here, and it is on the disk when it is answered."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...core.errors import OutputError, PromptError, UsageError, one_line
from ...core.files import remove, synchronise_folder, whole_file
from ...jobs.job import Job, new_id
from ...jobs.settings import JobSettings, SettingError
from ...jobs.store import Idempotency, KeyReused, QueueFull, StoreFull
from ...jobs.worker_process import CommandRefused
from ..errors import ApiError, not_found
from ..services import Services, services
from ..supervisor.supervisor import ERROR_CODES
from ..supervisor.watch import make_room
from .bodies import Given, read_given, read_json

_LOG = logging.getLogger("edgereel.server")
PICTURE = "input_reference"
_LONGEST_KEY = 200
_CHECK_SECONDS = 5.0
_START_SECONDS = 1.0
"""How long a job that comes before the first worker waits for it; then it is taken in, and checked as it begins."""
_PARAMS = {"PromptError": "prompt", "GeometryError": "size"}


async def create(request: Request) -> Response:
    """POST /v1/videos."""
    given = await read_given(request, PICTURE)
    try:
        job = await _create(services(request), given, request.headers.get("idempotency-key"))
    finally:
        await given.close()
    return JSONResponse(services(request).supervisor.object_of(job))


async def remix(request: Request) -> Response:
    """POST /v1/videos/ID/remix: the same settings and seed, another prompt."""
    found, data = services(request), await read_json(request)
    before = found.store.get(request.path_params["id"])
    if before is None:
        raise not_found(request.path_params["id"])
    if unknown := sorted(set(data) - {"prompt"}):
        raise ApiError(400, f"there is no setting {unknown[0][:60]!r}", code="unknown_field", param=unknown[0][:60])
    try:
        settings = JobSettings.from_json(before.request).again(screened(found, data.get("prompt")))
    except SettingError as error:
        raise _wrong(error) from error
    picture = found.videos.of(before.id).picture if settings.picture else None
    if picture is not None and not picture.is_file():
        raise ApiError(409, "its picture is not there any more", code="picture_gone")
    job = await _accept(found, before.model, settings, picture, None, before.id)
    return JSONResponse(found.supervisor.object_of(job))


async def _create(found: Services, given: Given, key: str | None) -> Job:
    idempotency = None
    if key is not None:
        if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
            raise ApiError(400, f"Idempotency-Key must have 1 to {_LONGEST_KEY} characters", code="bad_key")
        idempotency = Idempotency(key, await given.digest())
        try:
            earlier = found.store.find_key(idempotency)
        except KeyReused as error:
            raise ApiError(409, str(error), code="key_reused") from error
        if earlier is not None:
            return earlier
    fields = dict(given.fields)
    if PICTURE in fields:
        raise ApiError(400, f"{PICTURE} is a file: send it as multipart/form-data", code="bad_form", param=PICTURE)
    model = fields.pop("model", None) or found.configuration.default_model
    if not isinstance(model, str) or model not in found.configuration.bundles:
        known = ", ".join(found.configuration.bundles)
        raise ApiError(
            400, f"there is no model {str(model)[:60]!r}: choose from {known}", code="no_model", param="model"
        )
    try:
        settings = JobSettings.of(fields, picture=given.file is not None)
    except SettingError as error:
        raise _wrong(error) from error
    settings = replace(settings, prompt=screened(found, settings.prompt))
    if settings.seed is None:
        settings = replace(settings, seed=secrets.randbelow(2**32))
    return await _accept(found, model, settings, given.file, idempotency, None)


def screened(found: Services, prompt: Any) -> str:
    """Return a prompt as the policy leaves it. Raises ApiError where it is refused, SettingError where it is no text."""
    if not isinstance(prompt, str):
        raise SettingError("prompt", "prompt is missing" if prompt is None else "prompt must be text")
    if found.policy is None:
        return prompt
    try:
        return found.policy.check(prompt)
    except PromptError as error:
        raise ApiError(400, str(error), code="prompt_refused", param="prompt") from error


async def _accept(
    found: Services,
    model: str,
    settings: JobSettings,
    picture: UploadFile | Path | None,
    idempotency: Idempotency | None,
    remixed_from: str | None,
) -> Job:
    """Check a job against its model and the room there is, and put it into the record. Raises ApiError."""
    if picture is not None and found.policy is not None:
        try:
            found.policy.check_pictures(1)
        except UsageError as error:
            raise ApiError(400, str(error), code="picture_refused", param=PICTURE) from error
    waiting = found.store.counts()["queued"]
    if waiting >= found.configuration.limits.waiting:
        raise _queue_full(found, waiting)
    if not await make_room(found.supervisor):
        raise ApiError(507, "the disk is full: nothing can be made until there is room", code="disk_full")
    id = new_id()
    files = found.videos.of(id)
    try:
        if picture is not None:
            await asyncio.to_thread(_keep_picture, picture, files.folder, files.picture)
        facts = await _checked(found, model, settings, files.picture if picture is not None else None)
        try:
            job, is_new = await asyncio.to_thread(
                found.store.add,
                model,
                settings.to_json(),
                facts,
                id=id,
                most_waiting=found.configuration.limits.waiting,
                idempotency=idempotency,
                remixed_from=remixed_from,
            )
        except QueueFull as error:
            raise _queue_full(found, found.configuration.limits.waiting) from error
        except KeyReused as error:
            raise ApiError(409, str(error), code="key_reused") from error
    except (StoreFull, OutputError) as error:
        await asyncio.to_thread(remove, files.folder)
        raise ApiError(507, f"it cannot be kept: {error}", code="disk_full") from error
    except BaseException:
        await asyncio.to_thread(remove, files.folder)
        raise
    if not is_new:  # the same key came twice at once
        await asyncio.to_thread(remove, files.folder)
        return job
    found.metrics.accept(job.id)
    if found.configuration.log_prompts:
        _LOG.info("%s: %s", job.id, one_line(settings.prompt))
    found.supervisor.publish(job)
    await found.supervisor.wake()
    return job


async def _checked(found: Services, model: str, settings: JobSettings, picture: Path | None) -> dict[str, Any]:
    """Return what the settings come to; nothing where no worker is there to say. Raises ApiError."""
    if not found.supervisor.known.is_set():
        try:
            await asyncio.wait_for(found.supervisor.known.wait(), _START_SECONDS)
        except asyncio.TimeoutError:
            return {}
    path = None if picture is None else str(picture)
    try:
        facts = await found.supervisor.check(model, settings.to_json(), path, _CHECK_SECONDS)
    except CommandRefused as error:
        code, message = ERROR_CODES.get(error.kind), str(error).replace(f"{path}: ", "the picture ")
        if code is None or error.kind in ("OutOfMemory", "BundleError"):
            raise ApiError(500, message, code="worker_failed") from error
        param = PICTURE if "picture" in message else _PARAMS.get(error.kind)
        raise ApiError(400, message, code=code, param=param) from error
    return facts or {}


def _keep_picture(picture: UploadFile | Path, folder: Path, path: Path) -> None:
    folder.mkdir(mode=0o700)
    with whole_file(path) as temporary:
        if isinstance(picture, Path):
            shutil.copyfile(picture, temporary)
        else:
            with temporary.open("wb") as file:
                shutil.copyfileobj(picture.file, file)
    # The record will say that it is there: so it has to be there after a power cut.
    synchronise_folder(folder)
    synchronise_folder(folder.parent)


def _queue_full(found: Services, waiting: int) -> ApiError:
    workers = max(1, len(found.supervisor.slots))
    seconds = max(1, round(found.metrics.usual_seconds() / workers))
    message = f"{waiting} jobs are waiting already: try again later"
    return ApiError(429, message, code="queue_full", headers={"Retry-After": str(seconds)})


def _wrong(error: SettingError) -> ApiError:
    unknown = str(error).startswith("there is no setting")
    return ApiError(400, str(error), code="unknown_field" if unknown else "invalid_value", param=error.param)
