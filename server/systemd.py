"""What systemd is told by sd_notify(3): lines on a datagram socket that it names in the environment."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(line: str) -> None:
    """Tell systemd, where it listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@") or not hasattr(socket, "AF_UNIX"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.connect("\0" + address[1:] if address[0] == "@" else address)
        to.sendall(line.encode())


def watchdog_seconds() -> float | None:
    """Return how often systemd wants to hear of this process, half its limit; None where it does not."""
    limit, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not (limit.isascii() and limit.isdigit()) or process != str(os.getpid()):
        return None
    return max(0.1, int(limit) / 2e6)
