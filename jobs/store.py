"""The record of jobs: one SQLite database, in which every change is on the disk before it is answered.

WAL with `synchronous=FULL`: an answer outlives a power cut. Progress is not kept here, states are. Ages are counted in seconds
that a server ran on this record, so that a clock which jumps removes nothing; Unix times are for people.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import OutputError, UsageError
from .job import MOST_STARTS, QUEUED, STATES, Job, new_id

_SCHEMA = 1
_TABLES = """
create table if not exists jobs (
    number integer primary key autoincrement,
    id text not null unique,
    status text not null check (status in ('queued', 'in_progress', 'completed', 'failed')),
    model text not null,
    request text not null,
    facts text not null default '{}',
    created_at integer not null,
    completed_at integer,
    finished_tick real,
    starts integer not null default 0,
    error_code text,
    error_message text,
    remixed_from text,
    bytes integer not null default 0,
    idempotency_key text unique,
    idempotency_hash text
) strict;
create index if not exists jobs_by_status on jobs (status, number);
create index if not exists jobs_by_end on jobs (finished_tick, number);
create table if not exists clock (only_one integer primary key check (only_one = 1), seconds real not null) strict;
insert or ignore into clock values (1, 0);
"""
_COLUMNS = (
    "id, number, status, model, request, created_at, facts, completed_at, finished_tick, starts, error_code, error_message,"
    " remixed_from, bytes"
)
_WAIT = 10.0


class StoreFull(OutputError):
    """The disk has no room for another change of the record."""


class QueueFull(UsageError):
    """As many jobs wait as may."""


class KeyReused(UsageError):
    """An idempotency key was used before, for another request."""


@dataclass(frozen=True)
class Idempotency:
    """key: what the client calls its request. hash: of the request, since the same key must mean the same."""

    key: str
    hash: str


class JobStore:
    """The record of jobs, for one process; its methods may be called from any thread.

    Methods that change something return once that is on the disk. They raise StoreFull where there is no room, OutputError where
    the database cannot be written.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the database. Raises OutputError, UsageError for a database of a later release."""
        self._lock = threading.Lock()
        with _told(path):
            with contextlib.suppress(OSError):  # prompts are nobody else's business; SQLite tells what is wrong with it
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False, isolation_level=None)
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = full")
            self._database.execute("pragma trusted_schema = off")
            (version,) = self._database.execute("pragma user_version").fetchone()
            if version > _SCHEMA:
                self._database.close()
                raise UsageError(f"{path}: was written by a later release of edgereel: use that one, or another --data")
            self._database.executescript(f"begin immediate; {_TABLES} pragma user_version = {_SCHEMA}; commit;")
            (self._ticks_before,) = self._database.execute("select seconds from clock").fetchone()
            # Who reads does not wait for another's change to be on the disk.
            self._reader = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False, isolation_level=None)
            self._reader.execute("pragma query_only = on")
        self._reading = threading.Lock()
        self._started = time.monotonic()
        self._path = path

    def close(self) -> None:
        """Note how long this record has been in use, and close it."""
        with contextlib.suppress(OutputError):
            self.keep_time()
        with self._lock, self._reading:
            self._reader.close()
            self._database.close()

    # What changes something.

    def add(
        self,
        model: str,
        request: dict[str, Any],
        facts: dict[str, Any] | None = None,
        *,
        id: str | None = None,
        most_waiting: int | None = None,
        idempotency: Idempotency | None = None,
        remixed_from: str | None = None,
    ) -> tuple[Job, bool]:
        """Queue a job; return it, and whether it is new: with a key that was used before it is the earlier one.

        most_waiting: how many may be queued. Raises QueueFull, KeyReused.
        """
        with self._changing() as database:
            if idempotency is not None and (before := self._by_key(database, idempotency)) is not None:
                return before, False
            if most_waiting is not None:
                (waiting,) = database.execute("select count(*) from jobs where status = 'queued'").fetchone()
                if waiting >= most_waiting:
                    raise QueueFull(f"{waiting} jobs are waiting already: try again later")
            row = database.execute(
                "insert into jobs (id, status, model, request, facts, created_at, remixed_from, idempotency_key,"
                f" idempotency_hash) values (?, ?, ?, ?, ?, ?, ?, ?, ?) returning {_COLUMNS}",
                (
                    id or new_id(),
                    QUEUED,
                    model,
                    json.dumps(request),
                    json.dumps(facts or {}),
                    int(time.time()),
                    remixed_from,
                    None if idempotency is None else idempotency.key,
                    None if idempotency is None else idempotency.hash,
                ),
            ).fetchone()
            return _job(row), True

    def find_key(self, idempotency: Idempotency) -> Job | None:
        """Return the job of an idempotency key, None where it is new. Raises KeyReused."""
        with self._reading, _told(self._path):
            return self._by_key(self._reader, idempotency)

    def _by_key(self, database: sqlite3.Connection, idempotency: Idempotency) -> Job | None:
        row = database.execute(
            f"select {_COLUMNS}, idempotency_hash from jobs where idempotency_key = ?", (idempotency.key,)
        ).fetchone()
        if row is None:
            return None
        if row[-1] != idempotency.hash:
            raise KeyReused("this Idempotency-Key was used for another request: choose a new one")
        return _job(row[:-1])

    def claim(self) -> Job | None:
        """Begin the job that has waited longest, None where none waits."""
        return self._change(
            "update jobs set status = 'in_progress', starts = starts + 1 where number ="
            " (select number from jobs where status = 'queued' order by number limit 1)",
        )

    def complete(self, id: str, facts: dict[str, Any], bytes: int) -> Job | None:
        """Note that a job's files are there; None where it was deleted, or ended otherwise, meanwhile."""
        return self._change(
            "update jobs set status = 'completed', facts = ?, bytes = ?, completed_at = ?, finished_tick = ?"
            " where id = ? and status in ('queued', 'in_progress')",
            (json.dumps(facts), bytes, int(time.time()), self.tick(), id),
        )

    def fail(self, id: str, code: str, message: str) -> Job | None:
        """Note that nothing will become of a job; None where it was deleted, or ended otherwise, meanwhile."""
        return self._change(
            "update jobs set status = 'failed', error_code = ?, error_message = ?, completed_at = ?, finished_tick = ?"
            " where id = ? and status in ('queued', 'in_progress')",
            (code, message, int(time.time()), self.tick(), id),
        )

    def note(self, id: str, facts: dict[str, Any]) -> Job | None:
        """Note what a job's settings come to."""
        return self._change("update jobs set facts = ? where id = ?", (json.dumps(facts), id))

    def requeue(self, id: str, *, uncounted: bool = False) -> Job | None:
        """Put a job that was begun back to its place in the queue. uncounted: that it was begun is forgotten."""
        back = "max(0, starts - 1)" if uncounted else "starts"
        return self._change(
            f"update jobs set status = 'queued', starts = {back} where id = ? and status = 'in_progress'", (id,)
        )

    def interrupted(self, id: str, reason: str) -> Job | None:
        """Put a job whose worker died back into the queue, or fail it where that was the last time it may begin."""
        job = self.get(id)
        if job is not None and job.starts >= MOST_STARTS:
            return self.fail(id, "worker_died", f"{reason}; it was begun {job.starts} times and is not begun again")
        return self.requeue(id)

    def delete(self, id: str) -> bool:
        """Forget a job; its files are removed afterwards. Return whether it was there."""
        return self._change("delete from jobs where id = ?", (id,)) is not None

    def keep_time(self) -> None:
        """Note how long servers have run on this record."""
        with self._changing() as database:
            database.execute("update clock set seconds = ?", (self.tick(),))

    # What only reads.

    def tick(self) -> float:
        """Return the seconds that servers have run on this record, this one's included; no clock that can be set is in it."""
        return float(self._ticks_before + time.monotonic() - self._started)

    def get(self, id: str) -> Job | None:
        """Return a job, None where there is none of that name."""
        rows = self._rows("where id = ?", (id,))
        return rows[0] if rows else None

    def page(self, limit: int, after: str | None = None, *, descending: bool = True) -> tuple[list[Job], bool]:
        """Return so many jobs after one, by number, and whether there are more. Raises UsageError for an unknown `after`."""
        where, values = "", list[Any]()
        if after is not None:
            job = self.get(after)
            if job is None:
                raise UsageError(f"there is no video {after!r} to list after")
            where, values = f"where number {'<' if descending else '>'} ?", [job.number]
        found = self._rows(f"{where} order by number {'desc' if descending else 'asc'} limit ?", (*values, limit + 1))
        return found[:limit], len(found) > limit

    def unfinished(self) -> list[Job]:
        """Return the jobs of which something will still become, in their order."""
        return self._rows("where status in ('queued', 'in_progress') order by number")

    def oldest(self) -> Job | None:
        """Return the job that ended first, None where none has."""
        found = self._rows("where finished_tick is not null order by finished_tick, number limit 1")
        return found[0] if found else None

    def ids(self) -> set[str]:
        """Return the names of all jobs."""
        return {row[0] for row in self._query("select id from jobs")}

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are by state."""
        counts = dict.fromkeys(STATES, 0)
        counts.update(
            {str(row[0]): int(row[1]) for row in self._query("select status, count(*) from jobs group by status")}
        )
        return counts

    def bytes(self) -> int:
        """Return the bytes of all jobs' files."""
        return int(self._query("select coalesce(sum(bytes), 0) from jobs")[0][0])

    def position(self, number: int) -> int:
        """Return how many jobs wait before the one of that number."""
        return int(self._query("select count(*) from jobs where status = 'queued' and number < ?", (number,))[0][0])

    # Below this line is SQLite.

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _told(self._path):
            self._database.execute("begin immediate")
            try:
                yield self._database
                self._database.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("rollback")
                raise

    def _change(self, statement: str, values: tuple[Any, ...] = ()) -> Job | None:
        with self._changing() as database:
            row = database.execute(f"{statement} returning {_COLUMNS}", values).fetchone()
        return None if row is None else _job(row)

    def _query(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._reading, _told(self._path):
            return self._reader.execute(statement, values).fetchall()

    def _rows(self, where: str, values: tuple[Any, ...] = ()) -> list[Job]:
        return [_job(row) for row in self._query(f"select {_COLUMNS} from jobs {where}", values)]


def _job(row: tuple[Any, ...]) -> Job:
    id, number, status, model, request, created_at, facts, *others = row
    return Job(id, number, status, model, json.loads(request), created_at, json.loads(facts), *others)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in one line that the database cannot be used, and why."""
    try:
        yield
    except sqlite3.Error as error:
        full = "full" in str(error) or "disk I/O" in str(error)
        kind = StoreFull if full else OutputError
        raise kind(f"the record of jobs {path} cannot be used: {error}") from error
