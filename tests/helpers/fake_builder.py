"""A program that asks the cache for an engine, building random bytes, and can be stopped at any stage of it.

    fake_builder.py FOLDER NAME [--kill STAGE | --stop STAGE] [--limit BYTES] [--size BYTES] [--hold]

NAME tells keys apart. STAGE is one that `EngineCache(on_stage=...)` names, or `half`: when half of the file is written.
--kill ends the program there as kill -9 does; --stop waits there for a line to come in. --hold keeps the engine open until
a line comes in. It prints a line for each thing that happens: `stage NAME`, `wait`, `explain TEXT`, and in the end
`built` or `cache`, whether the engine is kept, and the sha256 of its bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import select
import signal
import sys
from pathlib import Path

from edgereel.engines.cache.engines import EngineCache, EngineKey

STAGES = ("missing", "locked", "half", "built", "hashed", "described", "between", "kept")


def key_of(name: str) -> EngineKey:
    return EngineKey(
        graph_sha256=hashlib.sha256(name.encode()).hexdigest(),
        data_sha256="0" * 64,
        backend="fake",
        backend_version="1.0",
        driver="580.1",
        card="Fake GPU",
        compute_capability="8.7",
        precision="float16",
        shapes=(("x", (1, 4)),),
        options={"level": "3"},
    )


def say(*words: object) -> None:
    print(*words, flush=True)


def wait_for_line() -> None:
    """Read a line, awake now and then: a signal that comes just before a read of Python's is seen only when it is over."""
    while os.name != "nt" and not select.select([sys.stdin], [], [], 0.05)[0]:
        pass
    sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--kill", choices=STAGES)
    parser.add_argument("--stop", choices=STAGES)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--hold", action="store_true")
    arguments = parser.parse_args()

    def reach(stage: str) -> None:
        say("stage", stage)
        if stage == arguments.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if stage == arguments.stop:
            wait_for_line()

    def build(path: Path) -> None:
        content = os.urandom(arguments.size)
        path.with_name("scratch").write_bytes(b"what the builder left")
        with path.open("wb") as file:
            file.write(content[: arguments.size // 2])
            file.flush()
            reach("half")
            file.write(content[arguments.size // 2 :])

    cache = EngineCache(arguments.folder, arguments.limit, on_stage=reach)
    waits: list[float] = []

    def note_wait(seconds: float) -> None:
        if not waits:
            say("wait")
        assert seconds >= (waits[-1] if waits else 0)
        waits.append(seconds)

    with cache.get_or_build(
        key_of(arguments.name), build, on_wait=note_wait, explain=lambda line: say("explain", line)
    ) as engine:
        assert Path(engine.path).read_bytes() == bytes(engine.data)
        say(engine.source, "kept" if engine.kept else "not kept", hashlib.sha256(engine.data).hexdigest())
        if arguments.hold:
            wait_for_line()


if __name__ == "__main__":
    main()
