"""No command looks for another machine, or writes a file outside of the cache folder and what it was asked to write.

Each runs in a network namespace of its own, with every socket's use noted. `make test-offline` runs these.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEMO_CHECKPOINT, DEMO_REEL

pytestmark = [pytest.mark.lean, pytest.mark.full, pytest.mark.offline]

PROMPT = "a red ball bounces over the ocean"
SMALL = ["--steps", "1", "--size", "32x32", "--frames", "5"]
BENCH = ["--steps", "1", "--sizes", "32x32", "--frames", "5", "--min-runs", "1", "--cold-runs", "1", "--threads", "1"]
REEL = str(DEMO_REEL)
COMMANDS: dict[str, tuple[list[str], str]] = {
    # command line, the package it needs
    "generate": (["generate", PROMPT, "-o", "a.mp4", *SMALL, "--keep-latents"], ""),
    "decode": (["decode", "kept.safetensors", "-o", "b.mp4"], ""),
    "embed": (["embed", "prompts.txt"], ""),
    "plan": (["plan"], ""),
    "build": (["build", "--dry-run", "--target", "cuda"], ""),
    "doctor": (["doctor"], ""),
    "inspect": (["inspect"], ""),
    "verify": (["verify"], ""),
    "export": (["export", str(DEMO_CHECKPOINT), "-o", "x.reel"], "torch"),
    "calibrate": (["calibrate", REEL, "--prompts", "prompts.txt", "-o", "stats", *SMALL], "ml_dtypes"),
    "quantize": (["quantize", REEL, "-o", "q.reel", "--precision", "int8", "--no-compare"], "ml_dtypes"),
    "compare": (["compare", REEL, REEL, "--prompts", "prompts.txt", "--steps", "1", "--report", "page.html"], ""),
    "bench run": (["bench", "run", "-o", "report", *BENCH], "psutil"),
    "bench soak": (["bench", "soak", "-o", "soak", "--clips", "16"], "psutil"),
    "bench mlperf": (
        ["bench", "mlperf", "-o", "mlperf", "--min-duration", "1", "--min-queries", "1"],
        "mlperf_loadgen",
    ),
    "bench diff": (["bench", "diff", "missing", "missing"], ""),
    "cache ls": (["cache", "ls"], ""),
    "cache rm": (["cache", "rm", "--all"], ""),
    "cache verify": (["cache", "verify"], ""),
}
MADE = {"a.mp4", "a.safetensors", "b.mp4", "x.reel", "stats", "q.reel", "page.html", "report", "soak", "mlperf"}
_ADDRESS = re.compile(r"sa_family=(AF_INET6?),.*?(?:inet_addr\(\"([^\"]*)\"\)|inet_pton\(AF_INET6, \"([^\"]*)\")")


def strangers(trace: str) -> list[str]:
    """Return the lines of strace that name another machine's address."""
    found = []
    for line in trace.splitlines():
        match = _ADDRESS.search(line)
        if match is not None and not (match[2] or match[3]).startswith(("127.", "::1")):
            found.append(line)
    return found


def isolated(*command: str) -> list[str]:
    return ["unshare", "--map-root-user", "--net", *command]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for tool in ("unshare", "strace"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    tried = subprocess.run(isolated("strace", "-f", "-qq", "-o", os.devnull, "true"), capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no network namespace can be made or traced here: {tried.stderr.strip()}")


def run(arguments: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run a program in a namespace, with a home of its own; return how it ended and what its sockets were used for."""
    from edgereel.core.offline import SWITCHES

    (folder / "home").mkdir(exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES and not name.startswith("XDG_")}
    environment = {**kept, "HOME": str(folder / "home"), "EDGEREEL_CACHE": str(folder / "cache")}
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg,bind", "-o", str(folder / "trace")]
    done = subprocess.run(
        isolated(*trace, sys.executable, *arguments),
        cwd=folder / "work",
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    return done, (folder / "trace").read_text(errors="replace")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_leaves_this_machine_or_its_own_folders(name: str, tmp_path: Path) -> None:
    arguments, needed = COMMANDS[name]
    if needed:
        pytest.importorskip(needed)
    work = tmp_path / "work"
    work.mkdir()
    (work / "prompts.txt").write_text(f"{PROMPT}\n")
    if name == "decode":
        run(["-m", "edgereel", *COMMANDS["generate"][0]], tmp_path)
        (work / "a.safetensors").rename(work / "kept.safetensors")
        (work / "a.mp4").unlink()
    done, trace = run(["-m", "edgereel", *arguments], tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if name == "bench diff" else done.returncode if "bench" in name else 0), done.stderr
    assert strangers(trace) == []
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []
    assert {path.name for path in work.iterdir()} - {"prompts.txt", "kept.safetensors"} <= MADE


def test_every_command_is_tried() -> None:
    from typer.main import get_command

    from edgereel.cli import app

    def names(command: object, above: str = "") -> list[str]:
        below = getattr(command, "commands", None)
        if below is None:
            return [above]
        return [found for name, inner in below.items() for found in names(inner, f"{above} {name}".strip())]

    assert set(names(get_command(app))) == set(COMMANDS)


def test_a_program_that_does_look_for_another_machine_is_found(tmp_path: Path) -> None:
    program = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for address in ('192.0.2.1', '127.0.0.1'):\n"
        "    try: s.connect((address, 53))\n"
        "    except OSError: pass"
    )
    _, trace = run(["-c", program], tmp_path)
    assert len(strangers(trace)) == 1
    assert "192.0.2.1" in strangers(trace)[0]
