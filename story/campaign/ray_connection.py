"""A Ray that is started here for a campaign, which nobody outside this machine can reach, or one that runs already."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import signal
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...core.errors import EngineError, UsageError, brief, one_line, require_packages
from ...core.interrupts import temporary_folder

PRIVATE = {
    # Ray's own switch against the firewall's questions on Windows and macOS, where it is set: whatever address Ray is told, it
    # binds to all interfaces otherwise.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # Its head asks two cloud providers' addresses what machine this is, even where it reports nothing: over a proxy that is not
    # there, neither a packet nor a name leaves the machine.
    **dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9"),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost"),
}
"""The environment of one that only this machine reaches, beside what core/offline.py sets; a token comes with it."""
_OBJECTS = 2**28
"""Bytes of memory for what is on its way; Ray writes to disk what is more."""
_FOLDER = "edgereel-r-"
_LONGEST_PARENT = 6
"""Characters of the folder that Ray's is in: Ray puts sockets there, under names of 64, and their paths may have 107."""


@contextlib.contextmanager
def local_ray(cpus: int) -> Iterator[None]:
    """Start a Ray on this machine for the time of the block, and end it.

    It listens on the loopback interface alone, asks for a token that nobody else knows, shows no dashboard and reports nothing.
    Raises EngineError where it cannot be started, or listens elsewhere; MissingExtraError.
    """
    require_packages(["ray"], "ray", "--on ray")
    settings = {**PRIVATE, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (
        temporary_folder(_FOLDER, _short_folder()) as folder,
        _environment(settings),
        _connected(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECTS,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        ),
    ):
        check_loopback()
        yield


@contextlib.contextmanager
def running_ray(address: str) -> Iterator[None]:
    """Connect to a Ray cluster, ray://HOST:PORT, for the time of the block. Nothing listens here.

    Raises EngineError where there is none, or it is of another release; MissingExtraError.
    """
    require_packages(["ray", "grpc"], "ray", f"--on {address}")
    with _connected(address=address):
        yield


@contextlib.contextmanager
def _connected(**settings: Any) -> Iterator[None]:
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what went wrong is told in one line below
                ray.init(logging_level="CRITICAL", log_to_driver=False, **settings)
        except Exception as error:  # of a dozen types
            local = settings["address"] == "local"
            what = "a local Ray cannot be started" if local else f"no Ray at {settings['address']} that can be used"
            raise EngineError(f"{what}: {one_line(brief(error))}") from error
        finally:
            with contextlib.suppress(ValueError, TypeError):  # not the main thread, or not a handler of Python's
                signal.signal(signal.SIGTERM, before)
        yield
    finally:
        ray.shutdown()


def check_loopback() -> None:
    """Make sure that this process and those that it started listen on the loopback interface alone. Raises EngineError."""
    if reachable := sorted(_listening()):
        raise EngineError(
            f"Ray listens on {', '.join(reachable)}, where other machines reach it, although it was told not to: "
            "it was ended; use --workers N for several processes without Ray"
        )


def _listening() -> set[str]:
    """Return the addresses, other than loopback, on which this process or one that descends from it listens."""
    if find_spec("psutil") is None:
        import_module("ray")  # brings one along
    import psutil

    here = psutil.Process()
    found = set()
    for process in [here, *here.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it has ended
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                    found.add(f"{connection.laddr.ip}:{connection.laddr.port}")
    return found


def is_loopback(text: str) -> bool:
    """Tell whether an address, IPv4 ones that are written as IPv6 among them, is of the loopback interface."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Have variables set, which Ray and what it starts read, for the time of the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _short_folder() -> Path | None:
    """Return a folder for Ray's, None for the system's own for such. Raises UsageError where none is short enough."""
    system = tempfile.gettempdir()
    if os.name == "nt" or len(system) <= _LONGEST_PARENT:
        return None
    if os.access("/tmp", os.W_OK):
        return Path("/tmp")
    raise UsageError(
        f"{system} is too long a name for Ray's sockets: set TMPDIR to one of {_LONGEST_PARENT} characters"
    )
