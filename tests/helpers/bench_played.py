"""Contenders that a test plays, and what makes a measurement short where peaks and memory are not what is looked at."""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from edgereel.bench import run as module
from edgereel.bench.contenders.base import Contender, Peer, ResourceReadings
from edgereel.bench.contenders.stages import ClipTimes
from edgereel.bench.records.record import EngineFacts
from edgereel.bench.run import run_bench
from edgereel.core.errors import EngineError

PROMPTS = ["a red ball bounces over the ocean", "a blue star rises over the desert"]
SMALL = {"sizes": [(32, 32)], "frames": [5], "prompts": PROMPTS, "threads": 1}
_measured = module.measure_limits


@cache
def _limits(name, threads, int8):
    return _measured(module.get_engine(name), threads, int8, seconds=0.1)


def make_quick(monkeypatch):
    """Peaks and memory are looked for in tests of their own."""
    monkeypatch.setattr(module, "WATCHED_SECONDS", 0.1)
    monkeypatch.setattr(module, "WATCHED_CLIPS", 2)
    monkeypatch.setattr(module, "measure_limits", lambda engine, threads, int8: _limits(engine.name, threads, int8))


class Played(Contender):
    """A contender without a process: it sleeps, notes how long it really did, and fails when it is told to."""

    kind = "played"

    def __init__(self, plan, fail_at=None, starting=0.0):
        super().__init__(plan)
        self.fail_at, self.starting = fail_at, starting
        self.made: list[tuple[str, int]] = []
        self.slept: list[float] = []
        self.closed = 0
        self.lived = -time.perf_counter()

    def start(self):
        started = time.perf_counter()
        time.sleep(self.starting)
        self.slept.append(time.perf_counter() - started)
        return {}

    def make(self, prompt, seed):
        if len(self.made) == self.fail_at:
            raise EngineError("it broke")
        self.made.append((prompt, seed))
        started = time.perf_counter()
        time.sleep(0.001)
        seconds = time.perf_counter() - started
        return ClipTimes(seconds, {"denoise": seconds}, {})

    def frames(self, prompt, seed):
        return np.full((5, 32, 32, 3), 128, np.uint8)

    def facts(self):
        return EngineFacts(engine="played", version="1", provider=["none"], precision=["float32"], threads=1)

    def watch(self, prompts, clips, seconds):
        return ResourceReadings(clips, seconds, {"denoise": 1000})

    def installed_bytes(self):
        return None

    def close(self):
        self.closed += 1
        self.lived += time.perf_counter()


class PlayedOurs(Played):
    """edgereel's own row, played as well: for tests of what becomes of the others."""

    kind = Contender.kind


def run_played(made, *, min_runs=3, cold=0, **arguments):
    """Run the shipped bundle beside contenders that are played, by name."""

    def factory(name):
        def make(plan):
            contender = Played(plan, **made[name])
            played.setdefault(name, []).append(contender)
            return contender

        return Peer(make)

    played: dict[str, list[Played]] = {}
    peers = {name: factory(name) for name in made}
    return run_bench(steps=[1], **SMALL, min_runs=min_runs, cold=cold, peers=peers, **arguments), played
