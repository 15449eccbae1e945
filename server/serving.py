"""The event loop's side of a server: uvicorn, the record, and what systemd is told."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from ..jobs.files import VideosFolder
from ..jobs.store import JobStore
from ..jobs.worker_process import WorkerProcess
from .application import make_application
from .configuration import Configuration
from .event_loop import Server, uvicorn_config
from .events import Hub
from .metrics import Metrics
from .services import Services
from .supervisor.supervisor import Supervisor
from .systemd import notify, watchdog_seconds

_LOG = logging.getLogger("edgereel.server")


class _Notices:
    """What the user and systemd are told when the server answers, and when it stops."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._beating: asyncio.Task[None] | None = None

    def listening(self, address: str) -> None:
        _LOG.info("edgereel serves on %s", address)
        notify("READY=1")
        if (seconds := watchdog_seconds()) is not None:
            self._beating = asyncio.get_running_loop().create_task(_beat(seconds))

    def stop(self) -> None:
        notify("STOPPING=1")
        self._hub.close()  # open event streams would be waited for
        if self._beating is not None:
            self._beating.cancel()


async def _beat(seconds: float) -> None:
    """Tell systemd that the event loop still turns."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)


def run(configuration: Configuration, listener: socket.socket, lock: int | None, worker: WorkerProcess) -> int:
    """Serve until a signal comes; return the exit code. lock: the data folder's lock, for workers to hold."""
    store = JobStore(configuration.data / "jobs.db")
    hub, videos = Hub(), VideosFolder(configuration.data / "videos")
    supervisor = Supervisor(configuration, store, videos, hub, lock)
    services = Services(configuration, store, videos, hub, supervisor, Metrics(), policy_of(configuration))
    notices = _Notices(hub)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = Server(uvicorn_config(make_application(services, worker)), notices.listening, notices.stop)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def policy_of(configuration: Configuration) -> Any:
    """Return the policy that prompts are screened by, None for none. Raises UsageError."""
    if configuration.policy is None:
        return None
    from ..provenance.policy.screen import Policy

    return Policy.read(configuration.policy)
