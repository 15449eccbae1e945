"""Where the rows of a campaign are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError, one_line
from ...core.machine import usable_cores
from ...runtime.batch import ReelOptions
from ...runtime.reel import Reel
from .executor import Executor, OneProcess
from .worker import Opening
from .worker_pool import WorkerPool

HERE, RAY = "here", "ray"
MOST_WORKERS = 256
_ADDRESS = re.compile(r"ray://(\[[0-9A-Fa-f:.]{2,45}\]|[\w.-]{1,253}):[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True)
class Where:
    """on: `here`; `ray`, for one that is started on this machine; or the address of a Ray cluster. Make one with `choose`.

    workers: how many rows are made at once; None: one here, and with Ray as many as there are cores, or GPUs, for.
    """

    on: str = HERE
    workers: int | None = None

    @staticmethod
    def choose(on: str, workers: int | None) -> Where:
        """Return what two options say. Raises UsageError."""
        if on not in (HERE, RAY) and _ADDRESS.fullmatch(on) is None:
            raise UsageError(f"--on is {one_line(on)[:60]!r}: give {HERE}, {RAY} or ray://HOST:PORT")
        if workers is not None and not 1 <= workers <= MOST_WORKERS:
            raise UsageError(f"{workers} workers are not possible: choose from 1 to {MOST_WORKERS}")
        return Where(on, workers)

    @contextmanager
    def executor(
        self,
        rows: int,
        reel: Reel,
        bundle: Path | None,
        options: ReelOptions,
        folder: Path,
        on_note: Callable[[str], object] | None,
    ) -> Iterator[Executor]:
        """Give what makes so many rows. reel: the campaign's, open here. folder: where files become whole.

        Raises MissingExtraError, EngineError.
        """
        if not rows or (self.on == HERE and min(self.workers or 1, rows) == 1):
            yield OneProcess(reel, folder)
            return
        opening = Opening(
            _found_anywhere(bundle),
            reel.bundle.manifest.digest,
            reel.numerics(),
            options.engine,
            options.threads,
            options.memory,
            options.cache,
        )
        if self.on == HERE:
            from .worker_processes import ProcessWorkers

            count = min(self.workers or 1, rows)
            opening = opening._replace(threads=options.threads or max(1, usable_cores() // count))
            yield WorkerPool(ProcessWorkers(opening), count, folder, on_note)
            return
        from .ray_connection import check_loopback, local_ray, running_ray

        threads = options.threads or 1
        opening = opening._replace(threads=threads)
        local = min(rows, self.workers or max(1, usable_cores() // threads))
        with local_ray(local * threads) if self.on == RAY else running_ray(self.on):
            from .ray_workers import RayWorkers, places_in_cluster

            count = local if self.on == RAY else min(rows, self.workers or places_in_cluster(threads, options.engine))
            workers = RayWorkers(opening, check_loopback if self.on == RAY else None)
            yield WorkerPool(workers, count, folder, on_note)


def _found_anywhere(bundle: Path | None) -> str | None:
    """Return how a bundle is called in another process: a folder by its whole path, a model by its name."""
    return None if bundle is None else str(bundle.absolute() if bundle.exists() else bundle)
