"""Closed and full output streams: the work is done, one line says what was lost, and the exit code is 1, never 120."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import DEMO_REEL

from edgereel import cli

posix = pytest.mark.skipif(os.name == "nt", reason="redirections of a shell of POSIX")
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
PROMPT = "a red ball bounces over the ocean"
CLOSED = "edgereel: cannot write to stdout: it is closed\n"
FULL = "edgereel: cannot write to stdout: No space left on device\n"
INSPECT = ["inspect", "--json", str(DEMO_REEL)]  # more than fits into a buffer
MISSING = ["inspect", "missing.reel"]
REFUSED = "edgereel: missing.reel: no such bundle folder\n"


def run(redirections, arguments, folder, unbuffered=False):
    """Run a command with a shell's redirections; return its exit code and what came through on stderr and stdout."""
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "edgereel", *arguments]
    environment = {**os.environ, "NO_COLOR": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr, done.stdout


@posix
@pytest.mark.parametrize(
    ("redirections", "arguments", "code", "said"),
    [
        (">&-", INSPECT, 1, CLOSED),
        (">&-", ["--version"], 1, CLOSED),
        (">&-", MISSING, 2, REFUSED),
        ("<&- >&-", ["cache", "ls"], 1, CLOSED),
        pytest.param(">/dev/full", INSPECT, 1, FULL, marks=full),
        pytest.param(">/dev/full", ["cache", "ls"], 1, FULL, marks=full),  # less than fits
        pytest.param(">/dev/full", ["--help"], 1, FULL, marks=full),
        pytest.param(">/dev/full", MISSING, 2, REFUSED, marks=full),
        (">&- 2>&-", INSPECT, 1, ""),
        pytest.param(">/dev/full 2>/dev/full", INSPECT, 1, "", marks=full),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, list) else None,
)
def test_stdout_that_cannot_be_written(tmp_path, redirections, arguments, code, said):
    assert run(redirections, arguments, tmp_path) == (code, said, "")
    assert list(tmp_path.iterdir()) == []


@posix
@full
@pytest.mark.parametrize("arguments", [INSPECT, ["--version"]], ids=["inspect", "version"])
def test_an_unbuffered_stdout_on_a_full_disk(tmp_path, arguments):
    assert run(">/dev/full", arguments, tmp_path, unbuffered=True) == (1, FULL, "")


@posix
@pytest.mark.parametrize("redirection", ["2>&-", pytest.param("2>/dev/full", marks=full)])
def test_stderr_that_cannot_be_written(tmp_path, redirection):
    code, _, out = run(redirection, INSPECT, tmp_path)
    assert (code, out) == (0, run("", INSPECT, tmp_path)[2])
    code, _, out = run(redirection, MISSING, tmp_path)
    assert (code, out) == (2, "")


@posix
@pytest.mark.parametrize("redirections", [">&-", "<&- >&- 2>&-", pytest.param(">/dev/full", marks=full)])
def test_the_video_is_made_and_nothing_is_printed_into_it(tmp_path, redirections):
    small = ["--steps", "1", "--size", "32x32", "--frames", "5"]
    made = ["generate", PROMPT, "-o", "a.mp4", *small, "--bundle", str(DEMO_REEL)]
    code, said, _ = run(redirections, made, tmp_path)
    assert code == 1
    assert said == {">&-": CLOSED, ">/dev/full": FULL}.get(redirections, "")
    one = (tmp_path / "a.mp4").read_bytes()
    assert run("", made, tmp_path)[0] == 0
    assert one == (tmp_path / "a.mp4").read_bytes()


def test_a_windowed_program_has_no_streams(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["edgereel", *INSPECT])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert sys.stdout is None
    assert capsys.readouterr().err == CLOSED
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1


@posix
def test_a_reader_that_has_read_enough_is_told_nothing(tmp_path):
    done = subprocess.run(
        ["sh", "-c", '{ "$@"; echo $? >code; } | true', "sh", sys.executable, "-m", "edgereel", *INSPECT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stderr, (tmp_path / "code").read_text()) == ("", "1\n")
