"""The cache of built engines: what takes minutes to build on the device is kept, complete or not there.

An engine is native code. It is built here, never taken from a bundle, and a folder that belongs to another user or that
all users may write into is not trusted. The folder is `engines/` in the user's cache folder; DIGEST is an `EngineKey`'s:

    DIGEST.engine   the engine's bytes
    DIGEST.json     its description: the key, the sha256 and size of those bytes, how it was made, a checksum of itself;
                    the time it was modified tells the last use
    DIGEST.lock     locked by the process that builds or removes the entry
    DIGEST.part/    what that process has not finished: the builder may leave what it likes in there

An entry is there when its description is. A process that has the lock builds in DIGEST.part, then renames the engine, then
the description; both and the folder are on the disk before. What a killed process leaves is an engine without a
description or a DIGEST.part; nobody reads these, and whoever builds next removes them where no process has the lock.
Reading needs no lock: whatever does not fit together counts as missing, and is looked at again by who gets the lock.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ...core import paths
from ...core.errors import EngineError, OutOfMemory, UsageError, one_line
from ...core.files import synchronise_folder
from .entry import (
    CachedEngine,
    DamagedEntryError,
    Description,
    EngineKey,
    Places,
    read_engine,
)
from .files import (
    delete,
    distrusted,
    no_room,
    touch,
    write_synced,
)
from .folder import EngineFolder, EntryInfo, remove_leftovers
from .lock import Lock, open_shared, try_lock
from .settling import Build, build_elsewhere, settle

__all__ = ["LIMIT", "LIMIT_VARIABLE", "CachedEngine", "EngineCache", "EngineKey", "EntryInfo", "parse_limit"]

LIMIT: Final = 20 * 2**30
LIMIT_VARIABLE: Final = "EDGEREEL_ENGINE_CACHE_LIMIT"

Usable = TypeVar("Usable")

_LIMIT_FORM: Final = re.compile(r"([0-9]{1,15})\s*(?:([KMGT])iB)?")


class _NotKeptError(Exception):
    """The cache's folder cannot be used for the reason that this says."""


class EngineCache(EngineFolder):
    """A folder of built engines, bounded in size: those not used for longest go first."""

    def __init__(
        self,
        folder: Path | None = None,
        limit: int | None = None,
        on_stage: Callable[[str], None] | None = None,
        *,
        keep_used: bool = False,
    ) -> None:
        """folder: None for the one in the user's cache folder. limit: bytes that all entries may take together, None for
        what the environment variable says, or 20 GiB; an engine larger than that is kept until the next one is built.
        on_stage: called on the way through a build with its stage: missing, locked, built, hashed, described, between,
        kept. keep_used: what this object has handed out stays, however large it is together: a model whose parts are larger
        than the limit would otherwise lose one to the next at every clip. Raises UsageError where the environment variable
        cannot be understood.
        """
        super().__init__(paths.cache_folder() / "engines" if folder is None else folder)
        self.limit = parse_limit(os.environ.get(LIMIT_VARIABLE, str(LIMIT))) if limit is None else limit
        self._on_stage = on_stage or (lambda stage: None)
        self._used: set[str] | None = set() if keep_used else None

    def get(self, key: EngineKey) -> CachedEngine | None:
        """Return the engine of that key, verified, and note its use; None where there is none to be trusted."""
        places = Places.of(self.folder, key.digest())
        try:
            if distrusted(self.folder):
                return None
            found = read_engine(places)
        except (OSError, DamagedEntryError):
            return None
        if found is not None:
            with contextlib.suppress(OSError):
                touch(places.description)
        return found

    def has(self, key: EngineKey) -> bool:
        """Return whether there is an engine of that key to be trusted; its use is not noted."""
        try:
            found = None if distrusted(self.folder) else read_engine(Places.of(self.folder, key.digest()))
        except (OSError, DamagedEntryError):
            return False
        if found is not None:
            found.close()
        return found is not None

    def get_or_build(
        self,
        key: EngineKey,
        build: Build,
        on_wait: Callable[[float], None] | None = None,
        explain: Callable[[str], None] | None = None,
    ) -> CachedEngine:
        """Return the engine of that key from the cache, or build and keep it. Close it when it is no longer needed.

        build: writes the engine to the path it is given, which does not exist. It is called a second time, with a path
        elsewhere, where the disk of the cache is full in the end: what is costly it should keep until it has returned once.
        Where another process builds the same engine it is waited for: on_wait gets the seconds so far, twice a second; what
        it raises ends the waiting. explain: gets one line where an entry is damaged, and where the engine cannot be kept.

        Raises what build raises, and EngineError where it writes nothing or there is no place to write to.
        """
        explain = explain or (lambda line: None)
        if self._used is not None:
            self._used.add(key.digest())
        if (found := self.get(key)) is not None:
            return found
        self._on_stage("missing")
        try:
            with self._lock(key.digest(), on_wait):
                self._on_stage("locked")
                return self._read_or_build(key, build, explain)
        except _NotKeptError as reason:
            explain(f"The engine is built for this run only: {reason}")
        return build_elsewhere(build)

    def get_or_build_usable(
        self, key: EngineKey, build: Build, use: Callable[[CachedEngine], Usable], explain: Callable[[str], None]
    ) -> tuple[CachedEngine, Usable]:
        """Return the engine of that key, closed, and what `use` makes of it; where an old one is of no use it is built again.

        use: raises EngineError where it cannot use the engine. Raises that of an engine that was just built, which is not
        kept then, and as get_or_build; OutOfMemory in any case.
        """
        with self.get_or_build(key, build, explain=explain) as found:
            try:
                return found, use(found)
            except OutOfMemory:
                raise
            except EngineError as error:
                problem = error
        with contextlib.suppress(OSError):  # then it is built for this run only, or found once more and of no use
            self._remove(key.digest())
        if found.source == "built":
            raise problem
        explain(f"The built engine {key.digest()[:12]} is built again, it cannot be used: {one_line(problem)}")
        with self.get_or_build(key, build, explain=explain) as found:
            return found, use(found)

    def _lock(self, digest: str, on_wait: Callable[[float], None] | None) -> Lock:
        started = time.monotonic()
        while True:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if reason := distrusted(self.folder):
                    raise _NotKeptError(reason)
                lock = try_lock(Places.of(self.folder, digest).lock)
            except OSError as error:
                raise self._not_kept(error) from error
            if lock is not None:
                return lock
            if on_wait is not None:
                on_wait(time.monotonic() - started)
            time.sleep(0.5 if time.monotonic() - started > 2 else 0.05)

    def _read_or_build(self, key: EngineKey, build: Build, explain: Callable[[str], None]) -> CachedEngine:
        """Look once more, now that the lock is held, remove what is damaged, and build."""
        places = Places.of(self.folder, key.digest())
        try:
            remove_leftovers(places)
            if (found := read_engine(places)) is not None:
                return found
        except DamagedEntryError as damage:
            explain(f"The built engine {key.digest()[:12]} is built again: {one_line(damage)}")
            try:
                delete(places.description)
                delete(places.engine)
            except OSError as error:
                raise self._not_kept(error) from error
        except OSError as error:
            raise self._not_kept(error) from error
        try:
            engine = self._build_and_keep(key, places, build)
        finally:
            with contextlib.suppress(OSError):
                remove_leftovers(places)
        self._trim()
        return engine

    def _build_and_keep(self, key: EngineKey, places: Places, build: Build) -> CachedEngine:
        unfinished = places.part / "engine"
        try:
            places.part.mkdir(mode=0o700)
        except OSError as error:
            raise self._not_kept(error) from error
        started = time.perf_counter()
        try:
            build(unfinished)
        except Exception as error:
            if (cause := no_room(error)) is not None:
                raise self._not_kept(cause) from error
            raise
        seconds = time.perf_counter() - started
        self._on_stage("built")
        try:
            settled = settle(unfinished)
            self._on_stage("hashed")
            description = Description(key, *settled, seconds, time.time())
            write_synced(places.part / "json", description.to_bytes())
            touch(places.part / "json")
            self._on_stage("described")
            os.replace(unfinished, places.engine)
            synchronise_folder(self.folder)
            self._on_stage("between")
            os.replace(places.part / "json", places.description)
            synchronise_folder(self.folder)
            self._on_stage("kept")
            with open_shared(places.engine) as file:
                return CachedEngine(places.engine, file, "built", seconds)
        except OSError as error:
            raise self._not_kept(error) from error

    def _not_kept(self, error: OSError) -> _NotKeptError:
        return _NotKeptError(f"it cannot be kept in {one_line(self.folder)} ({one_line(error.strerror or error)})")

    def _trim(self) -> None:
        """Remove what killed processes left, then the entries not used for longest until the rest is within the limit.

        The one that was just built stays, since its lock is still held.
        """
        now = time.time()
        for digest in self._digests():
            with contextlib.suppress(OSError):
                self._remove(digest, leftovers_only=True)
        entries = self.list_entries()
        total = sum(entry.size for entry in entries)
        # After a clock was set back, what seems to come from the future would stay for ever.
        entries.sort(key=lambda entry: entry.last_used if entry.last_used and entry.last_used < now + 60 else 0)
        for entry in entries:
            if total <= self.limit:
                return
            if self._used is not None and entry.digest in self._used:
                continue
            with contextlib.suppress(OSError):
                total -= self._remove(entry.digest)


def parse_limit(text: str) -> int:
    """Return the bytes that a limit such as `500000`, `800 MiB` or `20GiB` stands for. Raises UsageError."""
    match = _LIMIT_FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{LIMIT_VARIABLE} must be bytes, or a size such as 20GiB, not {one_line(text)!r}")
    return int(match[1]) << (10 * (" KMGT".index(match[2] or " ")))
