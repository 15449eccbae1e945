"""Is an NVIDIA card right, and is it fast? A quarter of an hour, one JSON line a test: what is wrong first, then what is slow.

    python -m edgereel.tools.gpu_check OUT [--engine cuda] [--minutes 15]
    python tools/gpu_check.py OUT

OUT: a folder; `results.jsonl` is written there line by line, so that nothing is lost where a driver hangs. All graphs are
the built-in model's or made here, seeded; nothing is downloaded. Tests that say what is wrong run before those that time.
Exit code 1 where something is wrong, 0 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edgereel.core.machine import find_gpus, read_machine
from edgereel.core.version import __version__
from edgereel.engines import ENGINES
from edgereel.tools.gpu_checks import checks
from edgereel.tools.gpu_checks.checks import Bench, Found, tried

GPU_ENGINES = ("rtx", "tensorrt", "cuda")


def main() -> int:
    """Run the checks that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for results.jsonl and the graphs that are made")
    parser.add_argument("--engine", action="append", choices=GPU_ENGINES, help="all that can run if left out")
    parser.add_argument("--minutes", type=float, default=15, help="tests that would begin later are left out")
    parser.add_argument("--tokens", type=int, default=checks.TOKENS_480P, help="tokens of the long block")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    return run_checks(asked.out, asked.engine, asked.minutes, asked.tokens)


def run_checks(out: Path, engines: list[str] | None, minutes: float, tokens: int) -> int:
    """Run all checks on these engines (None: those that can run here), print and keep a line of each; return the exit code."""
    ends = time.monotonic() + 60 * minutes
    written: list[dict[str, Any]] = []

    def say(line: dict[str, Any]) -> None:
        written.append(line)
        text = json.dumps(line)
        print(text, flush=True)
        with (out / "results.jsonl").open("a") as file:
            file.write(text + "\n")

    can = {name: ENGINES[name]().unavailable() for name in engines or GPU_ENGINES}
    gpus, problem = find_gpus()
    card = [f"{gpu.name}, {gpu.compute_capability}, driver {gpu.driver}" for gpu in gpus] or [problem or "none"]
    machine = read_machine()
    say({"test": "machine", "edgereel": __version__, "cards": card, "system": machine.system, "engines": can})
    usable = [name for name, reason in can.items() if reason is None]
    for first in (True, False):
        for engine in usable:
            bench = Bench(engine, out, _mark, tokens=tokens)
            for name, check in (_right if first else _fast)(bench):
                if time.monotonic() > ends:
                    say({"test": name, "engine": engine, "left_out": f"{minutes:g} minutes are over"})
                    continue
                found = tried(check)
                say({"test": name, "engine": engine, **found.facts, "wrong": found.wrong, "slow": found.slow})
    wrong = [f"{line['engine']}: {each}" for line in written for each in line.get("wrong", ())]
    slow = [f"{line['engine']}: {each}" for line in written for each in line.get("slow", ())]
    left_out = sum("left_out" in line for line in written)
    if not usable:
        wrong.append("no engine for a GPU can run here")
    say({"test": "wrong", "found": wrong})
    say({"test": "slow", "found": slow, "left_out": left_out})
    return 1 if wrong else 0


def _right(bench: Bench) -> list[tuple[str, Callable[[], Found]]]:
    """Return what says whether an engine is right, what is quick first."""
    return [
        ("demo float32", partial(checks.check_demo, bench, "float32")),
        ("demo float16", partial(checks.check_demo, bench, "float16")),
        ("block float32", partial(checks.check_block, bench, "float32")),
        ("block float16", partial(checks.check_block, bench, "float16")),
        ("block bfloat16", partial(checks.check_block, bench, "bfloat16")),
        ("long attention", partial(checks.check_long_attention, bench)),
        ("memory", partial(checks.check_memory, bench)),
    ]


def _fast(bench: Bench) -> list[tuple[str, Callable[[], Found]]]:
    """Return what says how fast an engine is."""
    return [
        ("clip", partial(checks.check_clip, bench)),
        ("speed float16", partial(checks.check_speed, bench)),
        ("convolutions", partial(checks.check_convolutions, bench)),
        ("speed static int8", partial(checks.check_speed, bench, "static int8")),
        ("speed static float8", partial(checks.check_speed, bench, "static float8")),
        ("speed int8 weights", partial(checks.check_speed, bench, "weights int8")),
    ]


def _mark(text: str) -> None:
    """Write a mark into the log of a stand-in for a card, where this runs on one; see tests/gpu_stand_ins/."""
    if path := os.environ.get("STAND_IN_LOG"):
        with Path(path).open("a") as file:
            file.write(f"mark\t{text}\n")


if __name__ == "__main__":
    sys.exit(main())
