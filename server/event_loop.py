"""uvicorn as every server of ours runs it: how long it waits, and what it does about signals."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from .safety.connections import ImpatientProtocol

_MOST_CONNECTIONS = 500


def uvicorn_config(application: Any, lifespan: Any = "on") -> uvicorn.Config:
    """Return how an application is run. lifespan: `on`, or `off` for one that has none."""
    return uvicorn.Config(
        application,
        http=ImpatientProtocol,
        ws="wsproto",
        ws_max_size=2**16,
        ws_per_message_deflate=False,
        lifespan=lifespan,
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


class Server(uvicorn.Server):
    """uvicorn's, that tells where it answers, and that it stops. on_stop: called before open connections are waited for."""

    def __init__(
        self, config: uvicorn.Config, on_listening: Callable[[str], object], on_stop: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._on_listening, self._on_stop = on_listening, on_stop

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
            self._on_listening(f"http://{shown}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._on_stop()
        await super().shutdown(sockets)
