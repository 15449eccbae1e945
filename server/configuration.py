"""What a server is told when it is started."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.files import read_plain
from ..core.toml import read_toml

DEFAULT_PORT = 8765
_SHORTEST_TOKEN = 16
_LARGEST_TOKEN_FILE = 4096
_LARGEST_PRESETS = 2**18


@dataclass(frozen=True)
class Limits:
    """Bounds. Bytes and seconds; None for none.

    waiting: jobs in the queue. keep_bytes, keep_seconds: of finished jobs' files, the oldest go first. free_bytes: of the disk that
    are left alone. upload_bytes: of a picture. verify_bytes: of a file to look at. body_seconds: in which a request must have
    come. beat_seconds: without a sign of life of a worker. stage_seconds: without progress in a stage. start_seconds: until
    a worker has opened its bundles. worker_bytes: of memory.
    unload_seconds: idle ones after which a worker lets go of its bundle. live_seconds: of one film.
    """

    waiting: int = 100
    keep_bytes: int | None = 10 * 2**30
    keep_seconds: float | None = None
    free_bytes: int = 256 * 2**20
    upload_bytes: int = 20 * 2**20
    verify_bytes: int = 200 * 2**20
    json_bytes: int = 2**16
    body_seconds: float = 30.0
    beat_seconds: float = 30.0
    stage_seconds: float = 900.0
    start_seconds: float = 1800.0
    worker_bytes: int | None = None
    unload_seconds: float | None = None
    live_seconds: float = 600.0
    stop_seconds: float = 20.0


@dataclass(frozen=True)
class Configuration:
    """Everything that a server is told.

    bundles: path by name, None for the built-in demo; the first is the default. token: None for none. mark: a word of
    provenance.marks.KINDS, or `auto`. policy: a shipped policy's name, a file, or None. allowed_hosts, allowed_origins: besides
    its own. pin: None for none.
    """

    data: Path
    bundles: dict[str, str | None] = field(default_factory=lambda: {"edgereel-demo": None})
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str | None = None
    engine: str = "auto"
    threads: int | None = None
    workers: int | None = None
    memory: str | None = None
    mark: str = "auto"
    policy: str | None = None
    private: bool = False
    keep_latents: bool = False
    log_prompts: bool = False
    log_json: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    kiosk: bool = False
    share: bool = False
    pin: str | None = None
    title: str = "edgereel"
    idle_seconds: int = 60
    presets: tuple[dict[str, Any], ...] = ()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.bundles:
            raise UsageError("a server needs a bundle")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port} is none: choose from 1 to 65535")
        if not self.is_loopback and self.token is None:
            raise UsageError(
                f"{self.host} can be reached from other machines: give --token-file FILE with a secret in it, or use 127.0.0.1"
            )

    @property
    def default_model(self) -> str:
        """The name of the model that is used where none is asked for."""
        return next(iter(self.bundles))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Tell whether an address or name is this machine's alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_secret(path: Path, what: str, shortest: int = _SHORTEST_TOKEN) -> str:
    """Return the secret that a file holds. Raises UsageError."""
    try:
        text = read_plain(path, _LARGEST_TOKEN_FILE, follow_links=True).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or ("is not ASCII text" if isinstance(error, ValueError) else error)
        raise UsageError(f"{path}: the {what} cannot be read: {reason}") from error
    if len(text) < shortest or not text.isprintable() or " " in text:
        raise UsageError(f"{path}: the {what} must be one line of at least {shortest} characters without spaces")
    return text


def read_pin(path: Path) -> str:
    """Return the PIN of a file. Raises UsageError."""
    pin = read_secret(path, "PIN", 4)
    if not pin.isdigit():
        raise UsageError(f"{path}: the PIN must be figures alone")
    return pin


def read_presets(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the named settings of a TOML file: [[preset]] with name, label, size, seconds, fps. Raises UsageError."""
    try:
        data = read_toml(path, _LARGEST_PRESETS)
    except UsageError as error:
        raise UsageError(f"{path}: the file of presets {error}") from error
    found = data.get("preset", [])
    if set(data) - {"preset"} or not isinstance(found, list):
        raise UsageError(f"{path}: presets are [[preset]] and nothing else")
    for number, preset in enumerate(found, start=1):
        known = {"name", "label", "size", "seconds", "fps"}
        if not isinstance(preset, dict) or not isinstance(preset.get("name"), str) or set(preset) - known:
            raise UsageError(f"{path}: preset {number} has name, and label, size, seconds, fps where it likes")
        if not all(isinstance(value, str | int | float) and len(str(value)) < 100 for value in preset.values()):
            raise UsageError(f"{path}: preset {number}: its values are texts and numbers")
        preset.setdefault("label", preset["name"])
    return tuple(found)
