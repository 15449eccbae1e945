"""From a clip to what it was made with: a small database of hashes and settings, never of prompts.

It answers "did this machine make this?" by the id in the watermark, the id in the signed metadata, or the file's SHA-256.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import OutputError, UsageError, one_line
from ..core.paths import home_folder
from .claim import Claim

if TYPE_CHECKING:
    import sqlite3

_TABLE = "create table if not exists clips (id text primary key, watermark text, sha256 text, made text, claim text not null)"
_INDEXES = tuple(f"create index if not exists by_{name} on clips ({name})" for name in ("watermark", "sha256"))


def log_path() -> Path:
    """Return where the log is unless another place is named."""
    return home_folder() / "provenance.db"


class Log:
    """The log in a file; an entry is on the disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, claim: Claim, sha256: str | None) -> None:
        """Keep what is claimed of a clip, and its file's hash. Raises OutputError."""
        fields = claim.fields()
        row = (claim.id, claim.watermark, sha256, fields.get("made"), json.dumps(fields, sort_keys=True))
        with self._opened(make=True) as database, database:
            database.execute("insert into clips values (?, ?, ?, ?, ?)", row)

    def find(self, wanted: str) -> list[dict[str, Any]]:
        """Return the entries whose id, watermark or file hash that is, newest first; all of them for "".

        Raises UsageError where there is no log.
        """
        if not self.path.exists():
            raise UsageError(f"there is no log at {one_line(self.path)}: it is kept where generate was told --log")
        query = "select id, watermark, sha256, made, claim from clips"
        order = " order by made desc, rowid desc limit 1000"
        with self._opened(make=False) as database:
            if wanted:
                where = " where ? in (id, watermark, sha256)"
                rows = database.execute(query + where + order, (wanted.lower(),)).fetchall()
            else:
                rows = database.execute(query + order).fetchall()
        return [
            {"id": id_, "watermark": watermark, "sha256": sha256, "made": made, "claim": json.loads(claim)}
            for id_, watermark, sha256, made, claim in rows
        ]

    @contextlib.contextmanager
    def _opened(self, make: bool) -> Iterator[sqlite3.Connection]:
        import sqlite3

        try:
            if make:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as database:
                if make:
                    database.execute("pragma journal_mode=wal")
                    database.execute("pragma synchronous=full")
                    for statement in (_TABLE, *_INDEXES):
                        database.execute(statement)
                yield database
        except (sqlite3.Error, OSError) as error:
            raise OutputError(f"the log {one_line(self.path)} cannot be used: {error}") from error
