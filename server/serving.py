"""The event loop's side of a server: uvicorn, the record, and what systemd is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from ..jobs.files import VideosFolder
from ..jobs.store import JobStore
from ..jobs.worker_process import WorkerProcess
from .application import make_application
from .configuration import Configuration
from .events import Hub
from .metrics import Metrics
from .safety.connections import ImpatientProtocol
from .services import Services
from .supervisor.supervisor import Supervisor
from .systemd import notify, watchdog_seconds

_LOG = logging.getLogger("edgereel.server")
_MOST_CONNECTIONS = 500


class _Server(uvicorn.Server):
    """uvicorn's, that tells the user and systemd when it answers and when it stops."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._beating: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn, which would send itself the signal again in the end: what ends in order has not failed."""
        numbers = [number for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)) if number]
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in str(host) else host
            _LOG.info("edgereel serves on http://%s:%d", shown, port)
            notify("READY=1")
            if (seconds := watchdog_seconds()) is not None:
                self._beating = asyncio.get_running_loop().create_task(_beat(seconds))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        notify("STOPPING=1")
        self._services.hub.close()  # open event streams would be waited for
        if self._beating is not None:
            self._beating.cancel()
        await super().shutdown(sockets)


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
    config = uvicorn.Config(
        make_application(services, worker),
        http=ImpatientProtocol,
        ws="wsproto",
        ws_max_size=2**16,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # anybody could say that he is somebody else
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        backlog=128,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=2**15,
        loop="asyncio",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = _Server(config, services)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def policy_of(configuration: Configuration) -> Any:
    """Return the policy that prompts are screened by, None for none. Raises UsageError."""
    if configuration.policy is None:
        return None
    from ..provenance.policy.screen import Policy

    return Policy.read(configuration.policy)
