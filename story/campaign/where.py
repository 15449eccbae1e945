"""Where the rows of a campaign are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError, one_line
from ...core.machine import usable_cores
from ...engines import get_engine
from ...runtime.batch import ReelOptions
from ...runtime.memory.budget import UNKNOWN, budget_of
from ...runtime.reel import Reel
from .executor import Executor, OneProcess
from .worker import MOST_WORKERS, Opening
from .worker_pool import WorkerPool

HERE, RAY = "here", "ray"
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

    @property
    def is_here(self) -> bool:
        """Whether all rows are made on this machine."""
        return self.on in (HERE, RAY)

    def share(self, options: ReelOptions) -> ReelOptions:
        """Return how each worker opens the bundle: those on this machine share its cores, and the memory that may be used."""
        if not self.is_here:
            return options._replace(threads=options.threads or 1)
        workers = self._workers_here(options)
        if workers == 1:
            return options
        options = options._replace(threads=options.threads or max(1, usable_cores() // workers))
        budget = budget_of(options.memory, get_engine(options.engine).device)
        if budget.bytes == UNKNOWN:
            return options
        return options._replace(memory=f"{max(1, budget.bytes // workers >> 20)}MiB")

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
        """Give what makes so many rows. reel: the campaign's, open here, with options, as `share` gives them. folder: where
        files become whole. Raises MissingExtraError, EngineError.
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

            yield WorkerPool(ProcessWorkers(opening), min(self.workers or 1, rows), folder, on_note)
            return
        from .ray_connection import check_loopback, local_ray, running_ray

        threads = options.threads or 1
        cores = self._workers_here(options) * threads
        with local_ray(cores) if self.on == RAY else running_ray(self.on):
            from .ray_workers import RayWorkers, places_in_cluster

            count = min(rows, self.workers or places_in_cluster(threads, options.engine))
            workers = RayWorkers(opening, check_loopback if self.on == RAY else None)
            yield WorkerPool(workers, count, folder, on_note)

    def _workers_here(self, options: ReelOptions) -> int:
        """Return how many workers there are at most, where all are on this machine."""
        if self.workers is not None:
            return self.workers
        return 1 if self.on == HERE else max(1, usable_cores() // (options.threads or 1))


def _found_anywhere(bundle: Path | None) -> str | None:
    """Return how a bundle is called in another process: a folder by its whole path, a model by its name."""
    return None if bundle is None else str(bundle.absolute() if bundle.exists() else bundle)
