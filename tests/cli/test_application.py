"""How the command line begins and ends: help, version, failures of the machine, streams that are not as usual."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer
from conftest import DEMO_REEL
from helpers.command_line import PROMPT, refused

from edgereel.cli import app, application
from edgereel.core.version import __version__

pytestmark = pytest.mark.lean


def test_help_and_version(run):
    assert run("--version") == (0, f"edgereel {__version__}\n", "")
    for arguments in ([], ["--help"], ["generate", "--help"]):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        assert "Usage" in out


def test_an_unknown_command(run):
    refused(run("frobnicate"), 2, "No such command")
    refused(run("generat"), 2, "Did you mean 'generate'?")


def test_one_command_is_built_alone_as_it_is_among_all():
    everything = typer.main.get_command(app)
    for name, command in everything.commands.items():
        one = typer.main.get_command(application._with_one_command(name))
        assert list(one.commands) == [name]
        assert [each.opts for each in one.commands[name].params] == [each.opts for each in command.params]
    assert application._with_one_command("--help") is app


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            MemoryError("cannot allocate 9 TiB"),
            "not enough memory: try a smaller size or fewer frames (cannot allocate 9 TiB)",
        ),
        (OSError(5, "Input/output error", "clip\n.mp4"), r"[Errno 5] Input/output error: 'clip\n.mp4'"),
    ],
)
def test_failures_of_the_machine_are_one_line(run, monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("edgereel.runtime.batch.run_jobs", fail)
    refused(run("generate", PROMPT), 1, line)


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_reader_that_goes_away(tmp_path):
    """What is printed into a closed pipe ends the run without a word, as other tools do."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgereel", "inspect", "--json", str(DEMO_REEL)]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_output_that_the_terminal_cannot_show(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "edgereel", "inspect", "été.reel"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (ended.returncode, ended.stderr) == (2, "edgereel: \\xe9t\\xe9.reel: no such bundle folder\n")


def test_a_smaller_clip_is_no_advice_where_none_is_made(run, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("cannot allocate 9 TiB")

    monkeypatch.setattr("edgereel.bundle.reader.verify_bundle", fail)
    refused(run("verify"), 1, "not enough memory (cannot allocate 9 TiB)")
