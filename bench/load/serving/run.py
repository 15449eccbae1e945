"""A measurement of a server from its start to its figures."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.errors import EngineError, UsageError
from ....core.progress import Progress, report_progress
from ....runtime.reel import load
from ...records.record import MEGABYTE, Trend
from ...scores import default_prompts
from ..soak import FEWEST_CLIPS, trend
from .client import ServerError, VideoClient
from .figures import ServeFigures, Times
from .load import Load, Offer, Seconds, server_bytes, try_cancelling
from .process import ServerProcess
from .watch import ENDED, JobWatch

_START_WITHIN = 120.0
_SKIPPED = 0.2
"""Of the readings of memory, at the beginning, that its trend leaves out."""


@dataclass(frozen=True)
class OwnServer:
    """A server to be started. bundles: folders or names, none for the demo. bare: clips of a bare reel to compare with, 0 for none.

    data: where it keeps its jobs, None for a folder that goes afterwards.
    """

    bundles: Sequence[str] = ()
    engine: str = "auto"
    threads: int | None = None
    workers: int | None = None
    memory: str | None = None
    bare: int = 0
    data: Path | None = None

    def options(self) -> list[str]:
        """Return the options of `edgereel serve`."""
        named = {"--threads": self.threads, "--workers": self.workers, "--memory": self.memory}
        found = [part for name, value in named.items() if value is not None for part in (name, str(value))]
        bundles = [part for bundle in self.bundles for part in ("--bundle", bundle)]
        return [*bundles, "--engine", self.engine, "--queue", "1000", "--mark", "none", *found]


def run_serve(
    where: str | OwnServer,
    offer: Offer,
    *,
    token: str | None = None,
    model: str | None = None,
    cancels: int = 0,
    on_progress: Progress | None = None,
) -> ServeFigures:
    """Offer jobs to a server and return what was seen. where: its address, or how to start one here.

    model: None for the server's default. cancels: trials of cancelling, after the load. on_progress: the stages `bare`, `start`,
    `jobs`, `cancels`; where it answers False, figures are of what was measured until then.

    Raises UsageError, EngineError where a server does not come up, ServerError where it does not answer.
    """
    offer = offer.check()
    if model is not None:
        offer.fields["model"] = model
    if isinstance(where, str):
        with VideoClient(where, token) as client:
            return _measure(client, offer, cancels, on_progress)
    if where.bare and len(where.bundles) > 1:
        raise UsageError("a bare reel has one bundle: give one --bundle with --bare")
    bare = bare_rate(where, offer, on_progress) if where.bare else None
    report_progress(on_progress, "start", 0, 1)
    with _folder(where) as data:
        server = ServerProcess(data, where.options())
        try:
            with VideoClient(server.url) as client:
                first = _first_clip(client, offer, server.started)
                idle = server_bytes(client)
                figures = _measure(client, offer, cancels, on_progress)
        finally:
            code = server.end()
    figures.start_seconds, figures.first_clip_seconds, figures.idle_bytes, figures.bare = (
        server.start_seconds,
        first,
        idle,
        bare,
    )
    if code != 0:
        figures.notes.append(f"the server ended with exit code {code}")
    return figures


def bare_rate(server: OwnServer, offer: Offer, on_progress: Progress | None = None) -> float:
    """Return the clips a second, written as files, of a reel in this process. Raises EdgereelError."""
    given = _settings(offer.fields)
    path = server.bundles[0] if server.bundles else None
    with (
        tempfile.TemporaryDirectory() as folder,
        load(path, server.engine, server.threads, memory=server.memory) as reel,
    ):
        reel.generate(offer.prompts[0], seed=0, **given).save(Path(folder) / "warm.mp4")
        started = time.perf_counter()
        for number in range(server.bare):
            report_progress(on_progress, "bare", number, server.bare)
            video = reel.generate(offer.prompts[number % len(offer.prompts)], seed=number, **given)
            video.save(Path(folder) / f"{number}.mp4")
        return server.bare / (time.perf_counter() - started)


def _settings(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a request as a reel takes them. Raises UsageError."""
    names = {"size": "size", "num_inference_steps": "steps", "num_frames": "frames"}
    unknown = sorted(set(fields) - set(names) - {"model"})
    if unknown:
        raise UsageError(f"a bare reel cannot be compared with requests that have {unknown[0]}: leave out --bare")
    given = {names[name]: value for name, value in fields.items() if name in names}
    if isinstance(size := given.get("size"), str) and "x" in size:
        given["size"] = tuple(int(side) for side in size.split("x"))
    return given


def _measure(client: VideoClient, offer: Offer, cancels: int, on_progress: Progress | None) -> ServeFigures:
    with JobWatch(client) as watch:
        seconds = Load(client, watch, offer, on_progress).run()
        answered: list[float] = []
        freed: list[float] = []
        notes = []
        if cancels and not seconds.partial:
            try:
                answered, freed = try_cancelling(client, watch, offer, cancels, on_progress)
            except ServerError as error:
                notes.append(f"cancelling was not measured to its end: {error}")
            if len(freed) < cancels:
                notes.append(f"{cancels - len(freed)} of {cancels} cancels were left out: jobs ended by themselves")
        if watch.disordered:
            notes.append(f"{watch.disordered} events came out of their order")
        return _figures(client, watch, offer, seconds, answered, freed, notes)


def _figures(
    client: VideoClient,
    watch: JobWatch,
    offer: Offer,
    seconds: Seconds,
    answered: list[float],
    freed: list[float],
    notes: list[str],
) -> ServeFigures:
    whole = seconds.ended - seconds.begun if seconds.completed else 0.0
    if seconds.completed and not seconds.pictures:
        notes.append("the server does not tell num_frames and fps: there are no pictures a second")
    return ServeFigures(
        url=client.url,
        model=str(offer.fields.get("model") or "the server's default"),
        offered=offer.describe(),
        seconds=whole,
        asked=seconds.asked,
        completed=seconds.completed,
        failures=dict(seconds.failures),
        throughput=seconds.completed / whole if whole else None,
        pictures_per_second=seconds.pictures / whole if whole and seconds.pictures else None,
        seconds_per_video_second=whole / seconds.video_seconds if seconds.video_seconds else None,
        bytes=seconds.bytes,
        post=Times.of(seconds.post),
        get=Times.of(seconds.get),
        queue_wait=Times.of(seconds.queue_wait),
        first_preview=Times.of(seconds.first_preview),
        total=Times.of(seconds.total),
        cancel=Times.of(answered),
        freed=Times.of(freed),
        by_events=watch.by_events,
        complete_streams=seconds.told,
        streams_resumed=watch.resumed,
        peak_bytes=max(seconds.memory, default=None),
        memory_trend=_trend(seconds.memory),
        partial=seconds.partial,
        notes=notes,
    )


def _trend(readings: Sequence[int]) -> Trend | None:
    steady = readings[int(len(readings) * _SKIPPED) :]
    return trend([count / MEGABYTE for count in steady]) if len(steady) >= FEWEST_CLIPS else None


@contextmanager
def _folder(server: OwnServer) -> Iterator[Path]:
    if server.data is not None:
        yield server.data
        return
    with tempfile.TemporaryDirectory(prefix="edgereel-serve-") as folder:
        yield Path(folder)


def _first_clip(client: VideoClient, offer: Offer, started: float) -> float:
    """Return the seconds from the start of the process to the first clip's file. Raises EngineError, ServerError."""
    video, _ = client.create({"prompt": offer.prompts[0], "seed": 0, **offer.fields})
    while video["status"] not in ENDED:
        if time.perf_counter() - started > _START_WITHIN:
            raise EngineError(f"no clip was made in {_START_WITHIN:g} s")
        time.sleep(0.01)
        video, _ = client.video(video["id"])
    if video["status"] != "completed":
        raise EngineError(f"the first clip failed: {(video.get('error') or {}).get('message')}")
    client.content(video["id"])
    return time.perf_counter() - started


def prompts_of(given: Sequence[str] | None, jobs: int) -> list[str]:
    """Return prompts to be used in turn: the given ones, or captions of the built-in model's."""
    return list(given) if given is not None else default_prompts(min(jobs, 64))
