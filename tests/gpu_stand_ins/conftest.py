"""Where the stand-ins are: `make test-gpu-stand-ins` builds them and says so; without them these tests are skipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PLACES = os.environ.get("EDGEREEL_STAND_INS", "")
VERSIONS = ("1.26.0", "1.31.1")
"""Of onnxruntime-gpu: the oldest that is supported, and the current one."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended, and the log of its card by mark."""

    code: int
    out: str
    error: str
    log: dict[str, Any]


@pytest.fixture(scope="session", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    if not PLACES:
        pytest.skip("there are no stand-ins: make test-gpu-stand-ins")
    return str(request.param)


@pytest.fixture(scope="session")
def started(version: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ended]:
    """Return what runs a Python command line on a stand-in of this version, to its end."""
    from gpu_stand_ins.build import build
    from gpu_stand_ins.stand_in import environment, read_log

    place = build(version, Path(PLACES))

    def start(*arguments: object, **card: int) -> Ended:
        folder = tmp_path_factory.mktemp("card")
        log = folder / "log"
        log.touch()
        environ = {**environment(place, log, **card), "EDGEREEL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environ, timeout=1200)
        return Ended(ended.returncode, ended.stdout, ended.stderr, read_log(log))

    return start


@pytest.fixture(scope="session")
def wan_reel(made_once: Callable[..., Path]) -> Path:
    """Wan 2.1 1.3B's widths, 2 of 30 blocks, random weights; EDGEREEL_STAND_INS_REEL names one that is there already."""
    if given := os.environ.get("EDGEREEL_STAND_INS_REEL"):
        return Path(given)
    from edgereel.export import export_checkpoint
    from edgereel.tools.step_bench.random_wan import write_random_wan

    def make(reel: Path) -> None:
        export_checkpoint(write_random_wan(reel.with_name("checkpoint"), layers=2), reel)

    return made_once("wan2.reel", make)


@pytest.fixture(scope="session")
def wan(started: Callable[..., Ended], wan_reel: Path) -> tuple[Ended, dict[str, dict[str, int]]]:
    """Four steps and six latent frames of 832x480, 81 frames, in float16; and what was planned, in bytes."""
    ended = started(HERE / "run_wan.py", wan_reel, 832, 480, 81, "float16", 4, 6, memory=80 * 2**30)
    assert ended.code == 0, ended.error
    return ended, json.loads(ended.out.splitlines()[-1])
