"""What a folder of built engines holds: entries listed, verified and removed; engines.py says what lies where."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ...core.errors import EngineError, UsageError, brief, one_line
from .entry import DamagedEntryError, EngineKey, Places, read_description, read_settled
from .files import count, delete
from .lock import claim, is_locked, try_lock

State = Literal["complete", "in use", "being built", "damaged", "left over"]

_FILE_NAME: Final = re.compile(r"([0-9a-f]{64})\.(?:engine|json|lock|part)")


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


class EngineFolder:
    """The entries in a folder, whoever made them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
            remove_leftovers(places)
            if not leftovers_only:
                with claim(places.engine) as unused:
                    if unused:
                        delete(places.description)
                        delete(places.engine)
            if not os.path.lexists(places.description) and not os.path.lexists(places.engine):
                held.pop_all()
                lock.release_and_delete()
            return before - _size(places)


def remove_leftovers(places: Places) -> None:
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
