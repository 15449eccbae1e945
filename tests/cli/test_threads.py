"""A number of threads that the machine has no use for is refused by value, by every command that takes one, before any work."""

from __future__ import annotations

import sys

import pytest

from edgereel import cli
from edgereel.core.machine import THREADS_PER_CORE, machine_cores

COMMANDS = [
    ["generate", "a red ball bounces over the ocean"],
    ["decode", "missing.safetensors"],
    ["embed", "missing.txt"],
    ["continue", "missing.mp4", "a red ball bounces over the ocean"],
    ["live", "a red ball bounces over the ocean"],
    ["serve"],
    ["story", "make", "missing.yaml", "-o", "film.mp4"],
    ["story", "play", "missing.yaml"],
    ["story", "take", "missing.yaml", "scene"],
    ["story", "timeline", "missing.yaml", "-o", "film.otio"],
    ["matrix", "missing.yaml"],
    ["calibrate", "missing.reel", "--prompts", "missing.txt", "-o", "stats.safetensors"],
    ["quantize", "missing.reel", "-o", "new.reel"],
    ["compare", "missing.reel", "other.reel"],
    ["bench", "run"],
    ["bench", "soak"],
    ["bench", "mlperf"],
    ["bench", "live"],
    ["bench", "serve"],
]


def _name(command: list[str]) -> str:
    return " ".join(command[: 1 + (command[0] in ("bench", "story"))])


@pytest.mark.parametrize("command", COMMANDS, ids=_name)
@pytest.mark.parametrize("threads", [2**31, 10**20, THREADS_PER_CORE * machine_cores() + 1])
def test_too_many_threads(command, threads, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgereel", *command, "--threads", str(threads)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith(f"edgereel: {threads} threads are not possible: choose 1 to ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_command_that_takes_threads_is_tried():
    from typer.main import get_command

    def taking(command, name):
        for below, inner in getattr(command, "commands", {}).items():
            yield from taking(inner, f"{name} {below}".strip())
        if any(parameter.name == "threads" for parameter in command.params):
            yield name

    assert set(taking(get_command(cli.app), "")) == set(map(_name, COMMANDS))
