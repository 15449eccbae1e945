"""`python -m edgereel.tools.kill_server [--rounds 200]`: kill a server, its workers or both at random moments, under load.

Each round jobs are asked for without a pause, until something is killed with SIGKILL at a random moment. A server that is gone is
started again on the same data folder. In the end everything accepted must be there: completed, with the very pictures that
its request makes, or failed with a reason after three starts. Exits with 1 where anything was lost, corrupt or made twice.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av

from ..bench.load.serving.client import ServerError, VideoClient
from ..bench.load.serving.process import ServerProcess
from ..bench.words import duration
from ..core.errors import one_line

TARGETS = ("server", "worker", "both")
_ASKERS = 3
_WAITING = 8
"""How many jobs wait at most, so that what is left in the end is soon made."""
_LONGEST_ROUND = 3.0
_WORKING = 0.75
"""The share of rounds in which nothing is killed before a worker is ready; in the others, while all starts too."""
_READY_WITHIN = 60.0
_DRAIN = 900.0
_IDLE = 'edgereel_jobs{state="queued"} 0\n', 'edgereel_jobs{state="in_progress"} 0\n'


@dataclass
class Found:
    """What became of everything. accepted: jobs that were answered with 200. repeated: requests sent again with the same key, and
    those that were answered with another job than before."""

    rounds: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    completed: int = 0
    given_up: int = 0
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    repeated: int = 0
    doubled: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    seconds: float = 0.0
    starts: list[float] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether nothing happened that must not."""
        return not (
            self.lost or self.twice or self.corrupt or self.unsaid or self.failed or self.doubled or self.strays
        )


class Rounds:
    """Kills under way.

    accepted: the request of each job that was answered. whole: of each job whose record was seen, which file that was.
    """

    def __init__(self, data: Path, options: Sequence[str], prompts: Sequence[str], seed: int) -> None:
        self._data, self._options, self._prompts = data, options, prompts
        self._draw = random.Random(seed)
        self.found = Found()
        self.accepted: dict[str, tuple[str, int]] = {}
        self._whole: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._server = ServerProcess(data, options)
        self._numbers = 0

    def run(self, rounds: int, targets: Sequence[str], minutes: float = 1e9) -> Found:
        """Kill so often, or for so long, wait until everything is made, and return what was found."""
        started = time.monotonic()
        try:
            for number in range(rounds):
                if time.monotonic() - started > 60 * minutes:
                    break
                target = targets[number % len(targets)]
                self._round(target)
                self.found.rounds[target] += 1
                if (number + 1) % 10 == 0:
                    print(f"{number + 1} rounds, {len(self.accepted)} accepted", file=sys.stderr, flush=True)
            self._drain()
        finally:
            code = self._server.end()
        self.found.seconds = time.monotonic() - started
        if code != 0:
            self.found.failed.append(f"the server ended with exit code {code}")
        self._judge()
        return self.found

    def _round(self, target: str) -> None:
        stopped = threading.Event()
        client = VideoClient(self._server.url, timeout=30)
        askers = [threading.Thread(target=self._ask, args=(client, stopped), daemon=True) for _ in range(_ASKERS)]
        for asker in askers:
            asker.start()
        try:
            self._kill(target, askers, stopped)
        finally:
            stopped.set()
            client.__exit__()

    def _kill(self, target: str, askers: Sequence[threading.Thread], stopped: threading.Event) -> None:
        if self._draw.random() < _WORKING:
            self._wait_until_ready()
        time.sleep(self._draw.random() * _LONGEST_ROUND)
        workers = self._server.workers()
        if target in ("worker", "both"):
            for worker in workers:
                with contextlib.suppress(OSError):
                    os.kill(worker, signal.SIGKILL)
        if target in ("server", "both"):
            self._server.kill()
        if target != "worker":
            stopped.set()
            for asker in askers:
                asker.join()
            self._look()
            self._server.start()
            self.found.starts.append(self._server.start_seconds)
        else:
            time.sleep(self._draw.random() * 0.5)
            stopped.set()
            for asker in askers:
                asker.join()
        self._look()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + _READY_WITHIN
        with VideoClient(self._server.url, timeout=30) as client:
            while time.monotonic() < until:
                with contextlib.suppress(ServerError):
                    if client.request("GET", "/ready").status == 200 or b"full" in client.request("GET", "/ready").body:
                        return
                time.sleep(0.05)

    def _ask(self, client: VideoClient, stopped: threading.Event) -> None:
        """Ask for jobs until told to stop; what is not answered is asked for again, with the same key."""
        again: tuple[str, tuple[str, int]] | None = None
        while not stopped.is_set():
            if again is None:
                with self._lock:
                    self._numbers += 1
                    number = self._numbers
                request = self._prompts[number % len(self._prompts)], number % 3
                again = f"round-{number}", request
            key, request = again
            try:
                video, _ = client.create({"prompt": request[0], "seed": request[1]}, key)
                with self._lock:
                    before = self.accepted.get(video["id"])
                    self.accepted[video["id"]] = request
                    if before is None and self._draw.random() < 0.1:  # the answer is taken for lost
                        second, _ = client.create({"prompt": request[0], "seed": request[1]}, key)
                        self.found.repeated += 1
                        if second["id"] != video["id"]:
                            self.found.doubled.append(video["id"])
                again = None
            except ServerError as error:
                if error.status in (0, 429, 503):
                    stopped.wait(0.1 if error.status else 0.02)
                else:
                    self.found.failed.append(f"a request was refused: {error}")
                    again = None

    def _look(self) -> None:
        """Note which files are whole; one that was whole before and is another now was made twice."""
        for record in self._data.glob("videos/*/record.json"):
            with contextlib.suppress(OSError):
                state = record.stat()
                seen = state.st_ino, state.st_mtime_ns
                before = self._whole.setdefault(record.parent.name, seen)
                if before != seen:
                    self.found.twice.append(record.parent.name)
                    self._whole[record.parent.name] = seen

    def _drain(self) -> None:
        """Wait until nothing waits any more, with nobody killing."""
        until = time.monotonic() + _DRAIN
        with VideoClient(self._server.url, timeout=30) as client:
            while time.monotonic() < until:
                with contextlib.suppress(ServerError):
                    states = client.request("GET", "/metrics").check().body.decode()
                    self._look()
                    if _IDLE[0] in states and _IDLE[1] in states:
                        return
                time.sleep(0.5)

    def _judge(self) -> None:
        """Look at the record and the files with nothing of ours running."""
        found = self.found
        found.accepted = len(self.accepted)
        database = sqlite3.connect(self._data / "jobs.db")
        (whole,) = database.execute("pragma integrity_check").fetchone()
        if whole != "ok":
            found.corrupt.append(f"jobs.db: {whole}")
        rows = {row[0]: row[1:] for row in database.execute("select id, status, error_code, facts, request from jobs")}
        database.close()
        pictures: dict[tuple[str, int], str] = {}
        for id, request in self.accepted.items():
            if id not in rows:
                found.lost.append(id)
                continue
            status, code, facts, _ = rows[id]
            if status == "completed":
                found.completed += 1
                hashed = pictures_hash(self._data / "videos" / id / "video.mp4", json.loads(facts).get("num_frames"))
                if hashed is None:
                    found.corrupt.append(id)
                elif pictures.setdefault(request, hashed) != hashed:
                    found.corrupt.append(f"{id} shows other pictures than its request made before")
            elif status == "failed" and code == "worker_died":
                found.given_up += 1
            elif status == "failed":
                found.failed.append(f"{id}: {code}")
            else:
                found.unsaid.append(f"{id}: {status}")
        folders = {path.name for path in (self._data / "videos").iterdir()}
        found.strays = sorted(folders - set(rows)) + [
            str(path.relative_to(self._data)) for path in self._data.glob("videos/*/.*") if path.name.endswith(".part")
        ]


def pictures_hash(path: Path, frames: int | None) -> str | None:
    """Return a hash of a clip's pictures, None where it is not whole. frames: how many it must have, None for any number."""
    digest, count = hashlib.sha256(), 0
    try:
        with av.open(str(path)) as container:
            for picture in container.decode(video=0):
                digest.update(picture.to_ndarray(format="rgb24").tobytes())
                count += 1
    except (OSError, av.FFmpegError):
        return None
    return None if count == 0 or (frames is not None and count != frames) else digest.hexdigest()


def table(found: Found) -> str:
    """Return what was found as Markdown."""
    killed = ", ".join(f"{count} of {target}" for target, count in found.rounds.items())
    rows = [
        ("kills", f"{sum(found.rounds.values())} ({killed}) in {duration(found.seconds)}"),
        ("accepted", str(found.accepted)),
        ("completed", str(found.completed)),
        ("given up after three starts, and said so", str(found.given_up)),
        ("run twice to the end", told(found.twice)),
        ("lost", told(found.lost)),
        ("corrupt", told(found.corrupt)),
        ("neither completed nor failed in the end", told(found.unsaid)),
        ("failed for another reason", told(found.failed)),
        ("asked for again with the same key", f"{found.repeated}, another job was made of {told(found.doubled)}"),
        ("files of no job, half-made files", told(found.strays)),
        (
            "starting again",
            f"{duration(sorted(found.starts)[len(found.starts) // 2])} in the middle, at most "
            f"{duration(max(found.starts))}"
            if found.starts
            else "never",
        ),
    ]
    return "\n".join(["| kill -9 | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def told(names: Sequence[str]) -> str:
    """Return how many there are, and the first of them."""
    return f"{len(names)}" + (f": {', '.join(one_line(name) for name in names[:5])}" if names else "")


def main() -> int:
    """Run the rounds that the arguments say."""
    parser = argparse.ArgumentParser(
        prog="python -m edgereel.tools.kill_server", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=200, help="how often something is killed (default: 200)")
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="after which no further round begins (default: none)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--only", choices=TARGETS, help="kill nothing else")
    parser.add_argument("--bundle", help="a .reel folder; the built-in demo if left out")
    parser.add_argument("--prompt", action="append", help="a prompt that the bundle takes; several times for several")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, help="where jobs are kept; a new folder if left out")
    given = parser.parse_args()
    prompts = given.prompt or ["a red ball bounces over the ocean", "a blue square slides over the desert"]
    options = ["--engine", "cpu", "--threads", "1", "--workers", str(given.workers), "--queue", str(_WAITING)]
    options += ["--mark", "none", *(["--bundle", given.bundle] if given.bundle else [])]
    with tempfile.TemporaryDirectory(prefix="edgereel-kill-") as folder:
        targets = (given.only,) if given.only else TARGETS
        found = Rounds(given.data or Path(folder), options, prompts, given.seed).run(
            given.rounds, targets, given.minutes
        )
        print(table(found))
    return 0 if found.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
