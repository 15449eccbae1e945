"""Prompt embeddings in the user's cache folder, so that a prompt seen before needs no text encoder.

Each entry is one file, named by the key of what decides its values. It holds no prompt, only the key's hash:

    16 bytes   what kind of file this is
    32 bytes   sha256 of all that follows
    464 bytes  JSON, padded with spaces: key, shape, number of rows before the padding, what it ran on
    the rest   those rows, float32, then one sign bit for each value of the padding, which is all zeros

Wan pads short prompts to 512 tokens: without the zeros, a prompt of 30 tokens takes 0.7 MiB in the place of 8. The signs
are kept since a masked value can be -0.0, and what is read must be, to the bit, what was written.

An entry that is anything but whole, of that key and of that shape counts as missing. Several processes may use the folder
at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core import paths

LIMIT: Final = 2**30

_MAGIC: Final = b"edgereel embed 1"
_HASHED_FROM: Final = len(_MAGIC) + 32
_HEADER: Final = 512
_SUFFIX: Final = ".embedding"
_PART: Final = ".part"
_ABANDONED: Final = 3600.0  # seconds after which what a process left half-written is nobody's any more


class CachedEmbedding(NamedTuple):
    """values: float32 [1, L, D]. provider, precision: what the text encoder ran on, as its session reported it."""

    values: NDArray[np.float32]
    provider: str
    precision: str


class _Header(NamedTuple):
    """shape: (L, D). rows: how many of the L rows come before the padding."""

    shape: tuple[int, int]
    rows: int
    provider: str
    precision: str
    digest: bytes
    hashed: bytes


def embedding_key(parts: Mapping[str, Any]) -> str:
    """Return the sha256, in hexadecimal, of the canonical JSON of all that decides an embedding."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Lone surrogates are no text, and no prompt is made of them, but asking for one must not fail. They are not escaped,
    # since an escaped pair of them would read like the one character that it stands for.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def entry_size(length: int, width: int, rows: int) -> int:
    """Return the bytes that an embedding [1, length, width] takes whose values are zero from that row on."""
    return _HEADER + rows * width * 4 + ((length - rows) * width + 7) // 8


class EmbeddingCache:
    """A folder of embeddings, bounded in size: those not used for longest go first."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        """folder: None for the one in the user's cache folder. limit: bytes that all entries may take together."""
        self.folder = paths.cache_folder() / "embeddings" if folder is None else folder
        self.limit = limit

    def get(self, key: str, length: int, width: int | None = None, *, trimmed: bool = False) -> CachedEmbedding | None:
        """Return the embedding of that key, [1, length, width], and note its use; None where there is none to be trusted.

        width: None where any is right. trimmed: the length is the largest there may be.
        """
        path = self._path(key)
        try:
            with _open_regular(path) as file:
                header = self._read_header(file, key, length, width, trimmed)
                if header is None:
                    return None
                values = np.zeros((1, *header.shape), np.float32)
                rows = values[0, : header.rows].reshape(-1).view(np.uint8)
                read = file.readinto(rows.data)
                signs = file.read()
        except OSError:
            return None
        if read != rows.size or _digest(header.hashed, rows.data, signs) != header.digest:
            return None
        padding = values[0, header.rows :].view(np.uint32)
        bits = np.unpackbits(np.frombuffer(signs, np.uint8), count=padding.size)
        padding[...] = bits.reshape(padding.shape).astype(np.uint32) << np.uint32(31)
        if not np.isfinite(values).all():
            return None
        with contextlib.suppress(OSError):
            _touch(path)
        return CachedEmbedding(values, header.provider, header.precision)

    def size_of(self, key: str, length: int, width: int | None = None, *, trimmed: bool = False) -> int | None:
        """Return the bytes that an entry takes, None where there is none, by its header alone: its values may be damaged."""
        try:
            with _open_regular(self._path(key)) as file:
                header = self._read_header(file, key, length, width, trimmed)
        except OSError:
            return None
        return None if header is None else entry_size(*header.shape, header.rows)

    def put(self, key: str, embedding: CachedEmbedding) -> int:
        """Keep an embedding and return the bytes it takes; others go where the folder grows past its limit.

        Raises ValueError where it is not finite float32 [1, L, D] or larger than the limit, OSError where it cannot be
        written.
        """
        if embedding.values.nbytes + _HEADER > self.limit:
            raise ValueError(f"an embedding of {embedding.values.nbytes} bytes is larger than the cache")
        content = _serialize(key, embedding)
        path, temporary = self._path(key), self._temporary()
        self._make_folder()
        try:
            temporary.write_bytes(content)
            _touch(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._trim()
        return len(content)

    def check_writable(self) -> None:
        """Make the folder and make sure that files can be written in it. Raises OSError."""
        self._make_folder()
        probe = self._temporary()  # permission bits do not tell of read-only file systems: only trying does
        probe.touch(exist_ok=False)
        probe.unlink()

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _temporary(self) -> Path:
        return self.folder / f"{secrets.token_hex(8)}{_PART}"

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _read_header(
        self, file: io.BufferedReader, key: str, length: int, width: int | None, trimmed: bool
    ) -> _Header | None:
        """Return an entry's header where it fits the file's size and what is asked for: nothing is allocated before."""
        head = file.read(_HEADER)
        size = os.fstat(file.fileno()).st_size
        if len(head) < _HEADER or not head.startswith(_MAGIC) or size > self.limit:
            return None
        try:
            data = json.loads(head[_HASHED_FROM:])
            own, shape, rows, ran = data["key"], data["shape"], data["rows"], data["ran"]
            (rows_in_all, columns), (provider, precision) = shape, ran
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        whole = all(type(number) is int for number in (rows_in_all, columns, rows))
        if own != key or not whole or not isinstance(provider, str) or not isinstance(precision, str):
            return None
        fits = rows_in_all <= length if trimmed else rows_in_all == length
        if not fits or width not in (None, columns) or not 1 <= rows <= rows_in_all or columns < 1:
            return None
        if size != entry_size(rows_in_all, columns, rows) or rows_in_all * columns * 4 > self.limit:
            return None
        digest = head[len(_MAGIC) : _HASHED_FROM]
        return _Header((rows_in_all, columns), rows, provider, precision, digest, head[_HASHED_FROM:])

    def _trim(self) -> None:
        """Remove the entries not used for longest until the rest is within the limit, and what was left half-written."""
        now = time.time()
        found, total = [], 0
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process may have removed it
                    information = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(_SUFFIX):
                        # After a clock was set back, what seems to come from the future would stay for ever.
                        used = information.st_mtime_ns if information.st_mtime < now + 60 else 0
                        found.append((used, entry.path, information.st_size))
                        total += information.st_size
                    elif entry.name.endswith(_PART) and information.st_mtime < now - _ABANDONED:
                        os.unlink(entry.path)
        for _, path, size in sorted(found):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size


def _serialize(key: str, embedding: CachedEmbedding) -> bytes:
    values = embedding.values
    if values.dtype != np.float32 or values.ndim != 3 or len(values) != 1 or 0 in values.shape:
        raise ValueError(f"an embedding must be float32 [1, L, D], not {values.dtype} {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("an embedding must be finite numbers")
    used = np.flatnonzero((values[0] != 0).any(axis=1))
    rows = int(used[-1]) + 1 if used.size else 1
    data = {
        "key": key,
        "shape": list(values.shape[1:]),
        "rows": rows,
        "ran": [embedding.provider, embedding.precision],
    }
    header = json.dumps(data).encode().ljust(_HEADER - _HASHED_FROM)
    if len(header) > _HEADER - _HASHED_FROM:
        raise ValueError("what the text encoder ran on is too long to be kept")
    signs = np.packbits(np.signbit(values[0, rows:]))
    parts = (header, values[0, :rows].tobytes(), signs.tobytes())
    return b"".join((_MAGIC, _digest(*parts), *parts))


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading; raise OSError for anything else, such as a pipe that would be waited for."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError("is not a regular file")
    return path.open("rb")


def _touch(path: Path) -> None:
    # Given in full: the time that the system itself notes moves in steps of milliseconds, too coarse to order entries by.
    now = time.time_ns()
    os.utime(path, ns=(now, now))
