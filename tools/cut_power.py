"""`python -m edgereel.tools.cut_power [--cuts 25]`: cut a server's power at random moments, and look at what its disk then holds.

The data folder lies on an ext4 file system of its own, in a file. At a random moment the server is stopped in its tracks and the
file is copied: what was not written to the block device by then is not in the copy, as after a power cut. A copy during which
anything was written is thrown away. Each copy is mounted, its journal replayed, the server's own recovery run, and record and
files compared with what clients had been told before the cut. A file written beside without fsync shows that cuts do lose what is
not synchronised. Not simulated: a drive that loses its own cache although it was told to flush it.

Needs root, for mounting. Exits with 1 where anything a client was told is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bench.load.serving.client import ServerError, VideoClient
from ..bench.load.serving.process import ServerProcess
from ..core.processes import python_command
from ..jobs.files import VideosFolder
from ..jobs.store import JobStore
from ..server.configuration import Configuration
from ..server.events import Hub
from ..server.supervisor.supervisor import Supervisor
from .kill_server import pictures_hash, told

_SIZE = 640 * 2**20
"""Bytes, most of them never written: a server takes no jobs where less than 256 MiB are free."""
_LONGEST_WAIT = 3.0
_INSIDE = "EDGEREEL_CUT_POWER_INSIDE"
Request = tuple[str, int]


@dataclass
class Known:
    """What clients had been told before a cut: jobs that were accepted, those that were said to be completed.

    notes: lines written without fsync.
    """

    accepted: dict[str, Request] = field(default_factory=dict)
    completed: set[str] = field(default_factory=set)
    notes: int = 0

    def copy(self) -> Known:
        """Return what is known now."""
        return Known(dict(self.accepted), set(self.completed), self.notes)


@dataclass
class Cuts:
    """What all cuts came to. taken_up: jobs whose files were whole and whose record was completed by the recovery."""

    cuts: int = 0
    thrown_away: int = 0
    accepted: int = 0
    completed: int = 0
    taken_up: int = 0
    begun_again: int = 0
    lost: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    unsynchronised: tuple[int, int] = (0, 0)

    @property
    def is_right(self) -> bool:
        """Whether everything that clients were told is so."""
        return self.cuts > 0 and not (self.lost or self.undone or self.corrupt or self.strays)


@contextlib.contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Give the folder where an image's file system is mounted. Raises CalledProcessError."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        for _ in range(50):
            if subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0:
                break
            time.sleep(0.2)


def written(folder: Path) -> str:
    """Return the counters of the block device below a folder, which move with every write."""
    device = os.stat(folder).st_dev
    return Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text()


class Asker:
    """Asks for jobs, and notes what it is told."""

    def __init__(self, client: VideoClient, notes: Path, prompts: Sequence[str]) -> None:
        self._client, self._notes, self._prompts = client, notes, prompts
        self.known = Known()
        self.lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._ask, self._look)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        number = 0
        with self._notes.open("a") as notes:
            while not self._stopped.wait(0.05):
                number += 1
                request = self._prompts[number % len(self._prompts)], number % 3
                with contextlib.suppress(ServerError):
                    video, _ = self._client.create({"prompt": request[0], "seed": request[1]})
                    with self.lock:
                        self.known.accepted[video["id"]] = request
                        self.known.notes += 1
                    notes.write(f"{video['id']}\n")
                    notes.flush()

    def _look(self) -> None:
        while not self._stopped.wait(0.05):
            with contextlib.suppress(ServerError):
                listed = self._client.request("GET", "/v1/videos?limit=100").check().json()["data"]
                with self.lock:
                    self.known.completed |= {video["id"] for video in listed if video["status"] == "completed"}


def cut(server: ServerProcess, asker: Asker, image: Path, folder: Path, copy: Path) -> Known | None:
    """Copy the disk in one moment, and return what had been told by then; None where something was written meanwhile."""
    stopped = [server.process.pid, *server.workers()]
    for number in stopped:
        os.kill(number, signal.SIGSTOP)
    try:
        with asker.lock:
            known = asker.known.copy()
        before = written(folder)
        subprocess.run(["cp", "--sparse=auto", str(image), str(copy)], check=True)
        return known if written(folder) == before else None
    finally:
        for number in stopped:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGCONT)


def look(data: Path, known: Known, found: Cuts, pictures: dict[Request, str]) -> None:
    """Run the server's recovery on a data folder after a cut, and compare it with what was known before it."""
    store = JobStore(data / "jobs.db")
    try:
        videos = VideosFolder(data / "videos")
        before = {job.id: job.status for job in store.unfinished()}
        asyncio.run(Supervisor(Configuration(data), store, videos, Hub()).recover())
        unfinished = {job.id for job in store.unfinished()}
        found.taken_up += sum(1 for id in before if id not in unfinished)
        found.begun_again += sum(1 for id, status in before.items() if status == "in_progress" and id in unfinished)
        for id, request in known.accepted.items():
            job = store.get(id)
            if job is None:
                found.lost.append(id)
            elif id in known.completed and job.status != "completed":
                found.undone.append(f"{id}: {job.status}")
            elif job.status == "completed":
                hashed = pictures_hash(videos.of(id).video, job.facts.get("num_frames"))
                if hashed is None or pictures.setdefault(request, hashed) != hashed:
                    found.corrupt.append(id)
        found.accepted += len(known.accepted)
        found.completed += len(known.completed)
        ids = store.ids()
        left = [path for path in (data / "videos").iterdir() if path.name not in ids]
        found.strays += [path.name for path in [*left, *(data / "videos").glob("*/.*.part")]]
    finally:
        store.close()


def run(cuts: int, seed: int, options: Sequence[str], prompts: Sequence[str], scratch: Path, minutes: float) -> Cuts:
    """Cut so often, or for so long, and return what was found."""
    found, draw, image = Cuts(), random.Random(seed), scratch / "disk"
    with image.open("wb") as file:
        file.truncate(_SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
    until = time.monotonic() + 60 * minutes
    pictures: dict[Request, str] = {}
    with mounted(image, scratch / "live") as folder:
        server = ServerProcess(folder / "data", options)
        try:
            with VideoClient(server.url, timeout=30) as client:
                asker = Asker(client, folder / "notes", prompts)
                while not asker.known.accepted and time.monotonic() < until:
                    time.sleep(0.1)
                while found.cuts < cuts and time.monotonic() < until:
                    time.sleep(draw.random() * _LONGEST_WAIT)
                    copy = scratch / f"cut{found.cuts}"
                    known = cut(server, asker, image, folder, copy)
                    if known is None:
                        found.thrown_away += 1
                        continue
                    found.cuts += 1
                    _look_at(copy, known, scratch, found, pictures)
                asker.stop()
        finally:
            server.end()
    return found


def _look_at(copy: Path, known: Known, scratch: Path, found: Cuts, pictures: dict[Request, str]) -> None:
    with mounted(copy, scratch / "after") as after:
        kept = len((after / "notes").read_bytes().splitlines()) if (after / "notes").exists() else 0
        lost, all_notes = found.unsynchronised
        found.unsynchronised = lost + max(0, known.notes - kept), all_notes + known.notes
        look(after / "data", known, found, pictures)
    copy.unlink()


def table(found: Cuts) -> str:
    """Return what was found as Markdown."""
    lost, notes = found.unsynchronised
    rows = [
        ("cuts", f"{found.cuts}; {found.thrown_away} copies thrown away, since something was written meanwhile"),
        ("jobs accepted before a cut, over all cuts", str(found.accepted)),
        ("of these, told to be completed", str(found.completed)),
        ("completed by the recovery: files were whole", str(found.taken_up)),
        ("begun again by the recovery", str(found.begun_again)),
        ("lost", told(found.lost)),
        ("told to be completed, and not so afterwards", told(found.undone)),
        ("corrupt", told(found.corrupt)),
        ("files of no job, half-made files", told(found.strays)),
        ("for comparison, lines written without fsync", f"{lost} of {notes} lost"),
    ]
    return "\n".join(["| power cuts | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> int:
    """Cut as the arguments say, in a mount namespace of its own, so that nothing stays mounted."""
    parser = argparse.ArgumentParser(
        prog="python -m edgereel.tools.cut_power", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--cuts", type=int, default=25, help="how often (default: 25)")
    parser.add_argument("--minutes", type=float, default=1e6, help="after which no further cut is made (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--bundle", help="a .reel folder; the built-in demo if left out")
    parser.add_argument("--prompt", action="append", help="a prompt that the bundle takes; several times for several")
    parser.add_argument("--scratch", type=Path, help="an existing folder for the disks, best in memory: /dev/shm")
    given = parser.parse_args()
    if os.environ.get(_INSIDE) != "1":
        again = python_command("edgereel.tools.cut_power", *sys.argv[1:])
        apart = ["unshare", "--mount", "--propagation", "private"]
        return subprocess.run([*apart, *again], env={**os.environ, _INSIDE: "1"}).returncode
    prompts = given.prompt or ["a red ball bounces over the ocean", "a blue square slides over the desert"]
    options = ["--engine", "cpu", "--threads", "1", "--workers", "2", "--queue", "20", "--mark", "none"]
    options += ["--bundle", given.bundle] if given.bundle else []
    with tempfile.TemporaryDirectory(prefix="edgereel-cut-", dir=given.scratch) as folder:
        found = run(given.cuts, given.seed, options, prompts, Path(folder), given.minutes)
    print(table(found))
    return 0 if found.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
