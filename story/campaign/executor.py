"""Who makes the rows of a campaign: this process, several, or a cluster; each row is told of once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...core.errors import Cancelled, EdgereelError
from ...core.files import remove, temporary_beside
from ...core.progress import Progress
from ...runtime.reel import Reel
from .row_job import RowJob, make_row


@dataclass(frozen=True)
class RowResult:
    """What became of a row. part: its file, under a hidden name in the campaign's folder, where it was made; the caller gives it
    its own name, or removes it. made: see make_row; None where it failed, and error says why. tries: how often it was begun.
    """

    job: RowJob
    part: Path
    made: dict[str, Any] | None = None
    error: str | None = None
    tries: int = 1


class Executor(Protocol):
    """Makes rows. It holds nothing once `results` has ended or was closed."""

    def results(self, jobs: Sequence[RowJob], on_progress: Progress | None) -> Generator[RowResult, None, None]:
        """Yield what became of each job, as they end. Raises Cancelled, and EngineError where none can be made any more."""


class OneProcess:
    """Makes one row after the other with a reel that is open here."""

    def __init__(self, reel: Reel, folder: Path) -> None:
        self._reel, self._folder = reel, folder

    def results(self, jobs: Sequence[RowJob], on_progress: Progress | None) -> Generator[RowResult, None, None]:
        """See Executor."""
        for job in jobs:
            part = temporary_beside(self._folder / job.name)
            try:
                yield RowResult(job, part, make_row(job, self._reel, part, on_progress))
            except Cancelled:
                raise
            except (EdgereelError, OSError) as error:
                yield RowResult(job, part, error=str(error))
            finally:
                remove(part)
