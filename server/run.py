"""A server from its start to its end: the data folder is its alone, and a first worker starts while the rest is imported."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..core.errors import OutputError, UsageError, require_packages
from .configuration import Configuration
from .supervisor.plan import plan_workers, start_worker

PACKAGES = ("starlette", "uvicorn", "python_multipart", "wsproto")
_LOCK_SECONDS = 20.0


def serve(configuration: Configuration) -> int:
    """Serve until a signal ends it; return the exit code. Raises UsageError, OutputError, MissingExtraError."""
    require_packages(PACKAGES, "serve", "serving")
    set_up_logs(configuration)
    data = configuration.data
    try:
        data.mkdir(parents=True, exist_ok=True)
        (data / "videos").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{data}: jobs cannot be kept there: {error.strerror}") from error
    with listening(configuration) as listener, locked(data) as lock:
        descriptor = None if lock is None else lock.fileno()
        keep_open = () if descriptor is None else (descriptor,)
        worker = start_worker(plan_workers(configuration), 0, keep_open)  # it starts while the rest is imported
        from .serving import run

        try:
            return run(configuration, listener, descriptor, worker)
        finally:
            worker.close()


@contextlib.contextmanager
def listening(configuration: Configuration) -> Iterator[socket.socket]:
    """Give the socket that requests come to. Raises UsageError where its address cannot be had."""
    host = configuration.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, configuration.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name != "nt":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {configuration.host}:{configuration.port}: {error.strerror or error}: choose another --port"
        ) from error
    with listener:
        yield listener


@contextlib.contextmanager
def locked(data: Path) -> Iterator[IO[bytes] | None]:
    """Hold a data folder's lock. Workers hold it too, so that none of an earlier server writes there still.

    Raises UsageError where another server has it.
    """
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    until = time.monotonic() + _LOCK_SECONDS
    with (data / "jobs.lock").open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UsageError(f"{data}: another server keeps its jobs there: give --data FOLDER") from None
                time.sleep(0.05)
            except OSError as error:
                raise OutputError(f"{data}: cannot be locked: {error.strerror}") from error
        os.set_inheritable(lock.fileno(), True)
        yield lock


def set_up_logs(configuration: Configuration) -> None:
    """Write logs on stderr: a line each, as text or JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonLines() if configuration.log_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    log = logging.getLogger("edgereel")
    log.handlers[:] = [handler]
    level = os.environ.get("EDGEREEL_LOG", "info").upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise UsageError(f"EDGEREEL_LOG is {level[:40]}: choose from debug, info, warning, error")
    log.setLevel(level)
    log.propagate = False


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        import json

        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
