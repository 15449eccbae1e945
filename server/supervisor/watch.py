"""Looks after workers and the disk while the server runs: ends workers that hang or grow, and lets old clips go."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time

from ...core.errors import OutputError
from ...core.units import format_bytes
from ...jobs.job import Job
from .supervisor import Supervisor

_LOG = logging.getLogger("edgereel.server")
LOOK_EVERY = 1.0
_KEEP_TIME_EVERY = 60.0


async def watch(supervisor: Supervisor) -> None:
    """Look every second, for as long as the server runs."""
    kept = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_EVERY)
        try:
            check_workers(supervisor)
            await rest_workers(supervisor)
            if time.monotonic() - kept >= _KEEP_TIME_EVERY:
                kept = time.monotonic()
                await asyncio.to_thread(supervisor.store.keep_time)
                await make_room(supervisor)
        except OutputError as error:
            _LOG.error("%s", error)
        except Exception:
            _LOG.exception("the server made a mistake while it looked after its workers")


def check_workers(supervisor: Supervisor) -> None:
    """End workers that give no sign of life, make no progress or hold too much memory."""
    limits, now = supervisor.configuration.limits, time.monotonic()
    for slot in supervisor.slots:
        process = slot.process
        if process is None or not process.is_running:
            continue
        if now - process.last_beat > limits.beat_seconds:
            process.kill(f"it gave no sign of life for {limits.beat_seconds:g} s")
        elif not slot.ready and now - process.started > limits.start_seconds:
            process.kill(f"it had not opened its bundles after {limits.start_seconds:g} s")
        elif (slot.job or slot.film) and now - slot.stage_since > limits.stage_seconds:
            process.kill(f"the stage {slot.stage} made no progress for {limits.stage_seconds:g} s")
        elif limits.worker_bytes is not None and (slot.bytes or 0) > limits.worker_bytes:
            held, may = format_bytes(slot.bytes or 0), format_bytes(limits.worker_bytes)
            process.kill(f"it held {held} of memory, more than the {may} that it may")


async def rest_workers(supervisor: Supervisor) -> None:
    """Have workers let go of their bundles that had nothing to do for long."""
    seconds = supervisor.configuration.limits.unload_seconds
    if seconds is None:
        return
    for slot in supervisor.slots:
        if slot.is_idle and slot.model is not None and time.monotonic() - slot.used > seconds:
            assert slot.process is not None
            slot.process.tell("unload", n=None)
            slot.model = None


async def make_room(supervisor: Supervisor, needed: int = 0) -> bool:
    """Let finished clips go, the first to end first, until age and bytes are in their bounds; return whether the disk has room.

    needed: bytes beside those that are always left alone. Where others fill the disk, nothing of ours goes.
    """
    limits, store = supervisor.configuration.limits, supervisor.store
    while (job := store.oldest()) is not None:
        too_many = limits.keep_bytes is not None and store.bytes() > limits.keep_bytes
        if not too_many and not is_old(job, store.tick(), limits.keep_seconds):
            break
        await supervisor.delete(job.id)
        _LOG.info("%s: removed, to make room", job.id)
    return shutil.disk_usage(supervisor.videos.folder).free >= limits.free_bytes + needed


def is_old(job: Job, now: float, keep_seconds: float | None) -> bool:
    """Tell whether a finished job is kept no longer. now: see JobStore.tick."""
    return keep_seconds is not None and job.finished_tick is not None and now - job.finished_tick > keep_seconds
