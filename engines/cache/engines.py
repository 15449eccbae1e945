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
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from ...core import paths
from ...core.errors import EngineError, OutOfMemory, UsageError, brief, one_line
from ...core.files import sha256_of, synchronise_folder
from ...core.interrupts import interrupts_wait
from .entry import (
    CachedEngine,
    DamagedEntryError,
    Description,
    EngineKey,
    Places,
    read_description,
    read_engine,
    read_settled,
)
from .files import (
    count,
    delete,
    distrusted,
    no_room,
    samples_of,
    sync_file,
    touch,
    write_synced,
)
from .lock import Lock, claim, is_locked, open_shared, try_lock

__all__ = ["LIMIT", "LIMIT_VARIABLE", "CachedEngine", "EngineCache", "EngineKey", "EntryInfo", "parse_limit"]

LIMIT: Final = 20 * 2**30
LIMIT_VARIABLE: Final = "EDGEREEL_ENGINE_CACHE_LIMIT"

Build = Callable[[Path], None]
Usable = TypeVar("Usable")
State = Literal["complete", "in use", "being built", "damaged", "left over"]

_FILE_NAME: Final = re.compile(r"([0-9a-f]{64})\.(?:engine|json|lock|part)")
_LIMIT_FORM: Final = re.compile(r"([0-9]{1,15})\s*(?:([KMGT])iB)?")


class _NotKeptError(Exception):
    """The cache's folder cannot be used for the reason that this says."""


@dataclass(frozen=True)
class EntryInfo:
    """What the command line shows of an entry.

    key, created, last_used (seconds since 1970) and build_seconds are None where its description is missing or damaged.
    size: bytes of all of its files. `left over` is what a killed process left; it goes when the next engine is built.
    """

    digest: str
    state: State
    size: int
    key: EngineKey | None = None
    created: float | None = None
    last_used: float | None = None
    build_seconds: float | None = None


class EngineCache:
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
        self.folder = paths.cache_folder() / "engines" if folder is None else folder
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
        return _build_elsewhere(build)

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
            _remove_leftovers(places)
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
                _remove_leftovers(places)
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
            settled = _settle(unfinished)
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

    def _digests(self) -> list[str]:
        """Return the digests of all entries and of what was left of some, sorted; other files are not looked at."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return sorted({match[1] for match in map(_FILE_NAME.fullmatch, names) if match})

    def list_entries(self) -> list[EntryInfo]:
        """Return all entries and leftovers, sorted by digest, without reading the engines."""
        entries = (self._info(digest) for digest in self._digests())
        return [entry for entry in entries if entry.size or entry.state != "left over"]

    def _info(self, digest: str) -> EntryInfo:
        places = Places.of(self.folder, digest)
        size = _size(places)
        being_built = is_locked(places.lock)
        try:
            description = read_description(places)
            if description is None:
                return EntryInfo(digest, "being built" if being_built else "left over", size)
            used = places.description.stat().st_mtime
            whole = description.key.digest() == digest and places.engine.lstat().st_size == description.size
        except (OSError, DamagedEntryError):
            return EntryInfo(digest, "being built" if being_built else "damaged", size)
        with claim(places.engine) as unused:
            in_use = not unused
        state: State = "being built" if being_built else "damaged" if not whole else "in use" if in_use else "complete"
        return EntryInfo(digest, state, size, description.key, description.created, used, description.build_seconds)

    def verify(self) -> list[tuple[EntryInfo, str | None]]:
        """Return every entry with what is wrong with it, None for nothing, after hashing all engines.

        Entries that are being built or removed are left out; leftovers are no entries.
        """
        verified: list[tuple[EntryInfo, str | None]] = []
        for entry in self.list_entries():
            if entry.state in ("being built", "left over"):
                continue
            problem = None
            try:
                if (engine := read_settled(Places.of(self.folder, entry.digest))) is None:
                    continue
                engine.close()
            except DamagedEntryError as damage:
                problem = str(damage)
            except OSError as error:
                problem = f"it cannot be read: {brief(error)}"
            verified.append((entry, problem))
        return verified

    def remove(self, selected: Iterable[str] | None = None) -> int:
        """Remove entries and return the bytes freed; those that are in use or being built stay.

        selected: digests or unique beginnings of them, None for all. Raises UsageError where one is of no entry or of
        several, EngineError where the folder cannot be written.
        """
        digests = self._digests()
        if selected is not None:
            digests = sorted({_only_match(start, digests) for start in selected})
        try:
            return sum(self._remove(digest) for digest in digests)
        except OSError as error:
            reason = one_line(error.strerror or error)
            raise EngineError(f"cannot remove engines from {one_line(self.folder)}: {reason}") from error

    def _remove(self, digest: str, leftovers_only: bool = False) -> int:
        """Remove an entry where no process has it, or what a killed process left of it. Raises OSError."""
        places = Places.of(self.folder, digest)
        lock = try_lock(places.lock)
        if lock is None:
            return 0
        with contextlib.ExitStack() as held:
            held.enter_context(lock)
            before = _size(places)
            _remove_leftovers(places)
            if not leftovers_only:
                with claim(places.engine) as unused:
                    if unused:
                        delete(places.description)
                        delete(places.engine)
            if not os.path.lexists(places.description) and not os.path.lexists(places.engine):
                held.pop_all()
                lock.release_and_delete()
            return before - _size(places)

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


def _build_elsewhere(build: Build) -> CachedEngine:
    """Build into a temporary folder that goes when the engine is closed. Raises EngineError where there is no room either."""
    try:
        with interrupts_wait():  # between making it and knowing what to remove
            temporary = tempfile.TemporaryDirectory(prefix="edgereel-engine-", ignore_cleanup_errors=True)
    except OSError as error:
        raise EngineError(f"there is no folder to build an engine in: {brief(error)}; free some room") from error
    path = Path(temporary.name) / "engine"
    try:
        started = time.perf_counter()
        build(path)
        seconds = time.perf_counter() - started
        _settle(path)
        with open_shared(path) as file:
            return CachedEngine(path, file, "built", seconds, temporary)
    except BaseException as error:
        temporary.cleanup()
        if isinstance(error, Exception) and no_room(error) is not None:
            message = (
                f"there is no room for the engine in {one_line(path.parent.parent)} either: free some, or set TMPDIR"
            )
            raise EngineError(message) from error
        raise


def _settle(path: Path) -> tuple[str, str, int, int]:
    """Bring a built engine to the disk; return its sha256, samples, time and size as a Description has them.

    Raises EngineError where there is none, OSError.
    """
    if not os.path.lexists(path) or not stat.S_ISREG(path.lstat().st_mode):
        raise EngineError("the builder wrote no engine")
    sync_file(path)
    with open_shared(path) as file:
        found, sampled, sha256 = os.fstat(file.fileno()), samples_of(file), sha256_of(file)
    if not found.st_size:
        raise EngineError("the builder wrote an empty engine")
    return sha256, sampled, found.st_mtime_ns, found.st_size


def _remove_leftovers(places: Places) -> None:
    """Remove what a process left that was killed while it had the lock, which is held now. Raises OSError."""
    delete(places.part)
    if not os.path.lexists(places.description):
        with claim(places.engine) as unused:
            if unused:
                delete(places.engine)


def _size(places: Places) -> int:
    return sum(count(path)[0] for path in places)


def _only_match(start: str, digests: list[str]) -> str:
    matches = [digest for digest in digests if start and digest.startswith(start)]
    if len(matches) != 1:
        raise UsageError(f"{one_line(start)!r} is the beginning of {len(matches) or 'no'} built engines in the cache")
    return matches[0]
