"""Playing a story from the start to the end: the process that makes it is opened first, since it knows what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any, Protocol

from ...core import errors
from ...core.errors import EdgereelError, EngineError, require_packages
from ...core.interrupts import temporary_folder
from ...jobs.worker_process import CommandRefused, WorkerProcess
from ..configuration import Configuration
from ..run import PACKAGES, listening

_STOP_SECONDS = 12.0


class Teller(Protocol):
    """What is told to who runs it."""

    def opening(self, stage: str, done: int, total: int) -> None:
        """How far opening the model is."""

    def ready(self, title: str, address: str) -> None:
        """The story can be played."""

    def note(self, text: str) -> None:
        """Something that should be known."""


def play_story(
    module: str,
    story: dict[str, Any],
    port: int,
    idle_seconds: float | None,
    teller: Teller,
) -> None:
    """Play a story on this machine's own address until a signal ends it.

    module: what runs in the process that plays. story: its `open` command. port: 0 for a free one. idle_seconds: see Theatre.
    Raises UsageError, MissingExtraError, and what the process refuses the story with.
    """
    require_packages(PACKAGES, "serve", "playing a story")
    with temporary_folder("edgereel-play-") as folder:
        configuration = Configuration(folder, port=port)
        with listening(configuration) as listener:
            process = WorkerProcess(module=module)
            try:
                asyncio.run(_play(process, story, configuration, listener, idle_seconds, teller))
            finally:
                process.close()
                if not process.wait(_STOP_SECONDS):
                    process.kill("it did not end")


async def _play(
    process: WorkerProcess,
    story: dict[str, Any],
    configuration: Configuration,
    listener: socket.socket,
    idle_seconds: float | None,
    teller: Teller,
) -> None:
    from ..event_loop import Server, uvicorn_config
    from .application import make_play_application
    from .theatre import Theatre

    theatre = Theatre(process, configuration.data, idle_seconds, teller.note, teller.opening)
    server: Server | None = None

    def end() -> None:
        if server is not None:
            server.should_exit = True

    process.attach(theatre.hear, end)
    try:
        theatre.show(await process.request("open", **story))
    except CommandRefused as error:
        raise error_of(error) from None
    application = make_play_application(theatre, configuration)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    server = Server(
        uvicorn_config(application, "off"),
        lambda address: teller.ready(str(theatre.facts["title"]), address),
        theatre.is_closing.set,
    )
    await server.serve(sockets=[listener])
    if not process.is_running:
        raise EngineError(f"the story has ended: {process.how_it_ended()}")


def error_of(refusal: CommandRefused) -> EdgereelError:
    """Return the error that a process refused a command with, as it would be raised here."""
    kind = getattr(errors, refusal.kind, EngineError)
    with contextlib.suppress(TypeError):
        if issubclass(kind, EdgereelError):
            error: EdgereelError = kind(str(refusal))
            return error
    return EngineError(str(refusal))
