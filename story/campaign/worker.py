"""`python -m edgereel.story.campaign.worker`: makes rows on command; jobs/protocol.py has the language.

The first command is `open`, then come `make`s, each answered when the row's file is whole. Commands are read in a thread: the
end of stdin ends the process at once, in the middle of a row too.
"""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import BundleError, EdgereelError, UsageError, brief, one_line
from ...core.version import __version__
from ...jobs.protocol import Answers, commands
from ...runtime.batch import ReelOptions
from .row_job import RowJob, make_row

MODULE = "edgereel.story.campaign.worker"
MOST_WORKERS = 256


class Opening(NamedTuple):
    """What a worker opens, as plain data.

    bundle: its folder or name there, None for the demo. digest, release: that it must have. numerics: of the campaign; a row
    that was made with others says so.
    """

    bundle: str | None
    digest: str
    numerics: dict[str, str]
    engine: str
    threads: int | None
    memory: str | None
    cache: bool = True
    release: str = __version__


class RowMaker:
    """Keeps a bundle open and makes rows with it."""

    def __init__(self, opening: Opening) -> None:
        """Open the bundle. Raises BundleError, UsageError where it, or this edgereel, is not the campaign's."""
        if opening.release != __version__:
            raise UsageError(f"has edgereel {__version__}, the campaign is made with {opening.release}")
        self._opening = opening
        path = None if opening.bundle is None else Path(opening.bundle)
        self._reel = ReelOptions(opening.engine, opening.threads, opening.memory, opening.cache).open(path)
        found = self._reel.bundle.manifest.digest
        if found != opening.digest:
            self._reel.close()
            raise BundleError(
                f"{one_line(opening.bundle or 'the built-in demo')}: is another bundle than the campaign's, "
                f"{found[:12]} instead of {opening.digest[:12]}: copy that one there"
            )

    def make(self, job: dict[str, Any], part: Path) -> dict[str, Any]:
        """See make_row."""
        made = make_row(RowJob.from_json(job), self._reel, part)
        numerics = self._reel.numerics()
        return made if numerics == self._opening.numerics else {**made, "numerics": numerics}


def _do(command: dict[str, Any], maker: RowMaker | None) -> tuple[RowMaker, dict[str, Any]]:
    if command["do"] == "open":
        maker = RowMaker(Opening(**command["opening"]))
        return maker, {}
    if command["do"] != "make" or maker is None:
        raise UsageError("a worker of a campaign does open, then make")
    return maker, {"row": maker.make(command["job"], Path(command["part"]))}


def main() -> None:
    """Serve on the process's own pipes."""
    answers = Answers()
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for command in commands():
            tasks.put(command)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    maker: RowMaker | None = None
    while True:
        command = tasks.get()
        try:
            maker, facts = _do(command, maker)
            answers.answer(command.get("n"), **facts)
        except EdgereelError as error:
            answers.refuse(command.get("n"), str(error), type(error).__name__)
        except Exception as error:
            name = type(error).__name__
            answers.refuse(command.get("n"), f"{name}: {brief(error)}", name)


if __name__ == "__main__":
    main()
