"""One entry of the cache of built engines: its key, its description, and the engine's bytes once they are verified."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

from ...core.files import sha256_of
from .files import samples_of
from .lock import open_shared, shared

FORMAT: Final = 1
"""Part of every key: raise it whenever entries are laid out another way."""

_DESCRIPTION_LIMIT: Final = 2**20
_WANTS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_KEY_LIMIT: Final = _DESCRIPTION_LIMIT // 4  # indented, a key takes more room in a description than by itself


class DamagedEntryError(Exception):
    """An entry cannot be used, for the reason that it says. Never leaves the cache."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that a built engine depends on.

    graph_sha256: of the lowered graph's file. data_sha256: of the file with its weights, "" where it has none. backend,
    backend_version: what built it. driver, card, compute_capability: of the GPU it was built on and for. precision: what
    matrix products calculate in. shapes: of the inputs it was built for, () where it is for any. options: whatever else
    the builder was told. Raises ValueError where a value is of the wrong type or all are too long to be kept.
    """

    graph_sha256: str
    data_sha256: str
    backend: str
    backend_version: str
    driver: str
    card: str
    compute_capability: str
    precision: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        try:
            shapes = tuple(sorted((name, tuple(shape)) for name, shape in self.shapes))
            options = dict(sorted(self.options.items()))
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError("shapes must be (name, shape) pairs and options a mapping") from error
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "options", options)
        texts = [value for name, value in asdict(self).items() if name not in ("shapes", "options")]
        texts += [name for name, _ in shapes] + [text for pair in options.items() for text in pair]
        if not all(type(text) is str for text in texts):
            raise ValueError("every part of an engine's key must be text")
        if not all(type(extent) is int for _, shape in shapes for extent in shape):
            raise ValueError("the shapes in an engine's key must be whole numbers")
        if len(_canonical(self.as_data())) > _KEY_LIMIT:
            raise ValueError(f"an engine's key may take {_KEY_LIMIT} bytes at most")

    def as_data(self) -> dict[str, Any]:
        """Return the key as what JSON can hold."""
        return {**asdict(self), "shapes": [[name, list(shape)] for name, shape in self.shapes]}

    def digest(self) -> str:
        """Return the sha256, in hexadecimal, of the key's canonical JSON."""
        return hashlib.sha256(_canonical({"format": FORMAT, "key": self.as_data()})).hexdigest()


class Places(NamedTuple):
    """Where the files of one entry are, as the head of engine_cache.py tells."""

    engine: Path
    description: Path
    lock: Path
    part: Path

    @staticmethod
    def of(folder: Path, digest: str) -> Places:
        """Return the places of the entry with this digest."""
        return Places(*(folder / f"{digest}.{suffix}" for suffix in ("engine", "json", "lock", "part")))


@dataclass(frozen=True)
class Description:
    """What stands beside an engine: its key, the sha256 and size in bytes of its file, and how it was made.

    samples: see files.samples_of. modified: nanoseconds since 1970 at which its file was written last. build_seconds: how long
    building took. created: seconds since 1970.
    """

    key: EngineKey
    sha256: str
    samples: str
    modified: int
    size: int
    build_seconds: float
    created: float

    def to_bytes(self) -> bytes:
        """Return it as JSON with a checksum; the same description gives the same bytes."""
        data = {**asdict(self), "key": self.key.as_data(), "format": FORMAT}
        data["checksum"] = hashlib.sha256(_canonical(data)).hexdigest()
        return json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"

    @staticmethod
    def from_bytes(content: bytes) -> Description:
        """Raises DamagedEntryError for everything but what `to_bytes` returned."""
        try:
            data = json.loads(content)
            key = EngineKey(**data["key"])
            description = Description(
                key,
                data["sha256"],
                data["samples"],
                data["modified"],
                data["size"],
                data["build_seconds"],
                data["created"],
            )
            whole = type(description.size) is int and description.size > 0 and type(description.modified) is int
            numbers = all(type(value) is float for value in (description.build_seconds, description.created))
            if whole and numbers and description.to_bytes() == content:
                return description
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedEntryError("its description is damaged") from error
        raise DamagedEntryError("its description is damaged")


class CachedEngine:
    """A built engine, open for reading.

    path: where it is, for libraries that take nothing else. data: its bytes, mapped into memory: they are read from the
    disk as they are used. source: `cache` or `built`. build_seconds: how long building took, 0 where it was not needed.
    kept: whether it will be there the next time; where not, its file is gone after `close`.

    Until `close` (or the end of a `with`) nobody removes the file.
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        source: Literal["cache", "built"],
        build_seconds: float,
        temporary: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        """file: opened by `open_shared`; it may be closed afterwards. temporary: the folder that goes with the engine."""
        self.path = path
        self.data = mmap.mmap(
            file.fileno(), 0, access=mmap.ACCESS_READ
        )  # has a descriptor of its own, which shares the lock
        self.source = source
        self.build_seconds = build_seconds
        self.kept = temporary is None
        self._temporary = temporary

    def close(self) -> None:
        """Release the bytes; they cannot be used afterwards."""
        with contextlib.suppress(BufferError):  # whoever still looks at them keeps them until it is done
            self.data.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> CachedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_description(places: Places) -> Description | None:
    """Return the description of an entry, None where there is no entry.

    Raises DamagedEntryError, and OSError where the process has no memory or no files left to read it with.
    """
    try:
        with open_shared(places.description) as file:
            content = file.read(_DESCRIPTION_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _blamed(error) from error
    return Description.from_bytes(content)


def read_engine(places: Places, *, whole: bool = False) -> CachedEngine | None:
    """Return a verified engine, None where there is no entry. Raises as `read_description`.

    Its size is compared before a byte is read. All of its bytes are hashed before any is used where its file was written
    since it was built, and where `whole` asks for it: an engine has its weights, and to hash 11 GB at each open takes 10 s.
    Otherwise samples all over it are.
    """
    description = read_description(places)
    if description is None:
        return None
    if description.key.digest() != places.description.stem:
        raise DamagedEntryError("it belongs to another engine")
    try:
        with open_shared(places.engine) as file:
            found = os.fstat(file.fileno())
            if found.st_size != description.size:
                raise DamagedEntryError(f"it has {found.st_size} bytes, not {description.size}")
            as_written = samples_of(file) == description.samples
            hashed = whole or found.st_mtime_ns != description.modified
            if not as_written or (hashed and sha256_of(file) != description.sha256):
                raise DamagedEntryError("its bytes are not those that were built")
            return CachedEngine(places.engine, file, "cache", 0.0)
    except FileNotFoundError as error:
        raise DamagedEntryError("its file is missing") from error
    except OSError as error:
        raise _blamed(error) from error
    except ValueError as error:  # cut off while it was being mapped
        raise DamagedEntryError(f"it cannot be read: {error}") from error


def read_settled(places: Places) -> CachedEngine | None:
    """Return an engine of which every byte was looked at, None where there is no entry or it is being built or removed.

    Raises as `read_engine`.

    What was removed and built again while it was read fits together no better than what is damaged: the verdict is of a
    second reading, with those who write kept out.
    """
    try:
        return read_engine(places, whole=True)
    except DamagedEntryError:
        with shared(places.lock) as free:
            return read_engine(places, whole=True) if free else None


def _blamed(error: OSError) -> Exception:
    """Return what to raise where an entry cannot be read: a want of the process is no damage that makes the entry go."""
    if error.errno in _WANTS:
        return error
    return DamagedEntryError(f"it cannot be read: {error.strerror or error}")


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
