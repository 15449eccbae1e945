"""Campaigns on a Ray that really runs: on this machine alone, and on two nodes of which one is killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEMO_REEL
from helpers.story_files import write_story
from helpers.traces import strangers

pytest.importorskip("ray")
pytest.importorskip("grpc")

pytestmark = pytest.mark.full
SHEET = "prompt: a {colour} ball {motion}\npictures: 5\naxes: {colour: [red, blue], motion: [rises, falls]}\n"
OPEN_TO_ALL = """
import sys
from edgereel.story.campaign import ray_connection
from edgereel.__main__ import main
ray_connection.PRIVATE["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
main()
"""


def matrix(folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "edgereel"), tracer: tuple[str, ...] = ()):
    path = write_story(folder / "ads.yaml", SHEET)
    options = ["matrix", str(path), "-o", str(folder / "ads"), "--bundle", str(DEMO_REEL), "--engine", "cpu"]
    return subprocess.run(
        [*tracer, sys.executable, *program, *options, *arguments],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def processes_of_ray() -> set[int]:
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_text() if folder.name.isdigit() else ""
        except OSError:
            continue
        if "ray::" in command or "/raylet" in command or "/gcs_server" in command:
            found.add(int(folder.name))
    return found


def test_a_local_ray_makes_all_rows_and_is_gone(tmp_path):
    before = processes_of_ray()
    done = matrix(tmp_path, "--on", "ray", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made_now"] == 4
    assert not processes_of_ray() - before
    (tmp_path / "here").mkdir()
    assert matrix(tmp_path / "here", "--threads", "1").returncode == 0
    for path in (tmp_path / "here" / "ads").glob("*.mp4"):
        assert path.read_bytes() == (tmp_path / "ads" / path.name).read_bytes()


def test_a_local_ray_looks_for_no_other_machine(tmp_path):
    """Its head asks cloud providers, by name and address, what machine this is, unless it is kept from that."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    tracer = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg,bind", "-o", str(trace))
    done = matrix(tmp_path, "--on", "ray", "--workers", "1", tracer=tracer)
    assert done.returncode == 0, done.stderr
    text = trace.read_text(errors="replace")
    assert 'inet_addr("127.0.0.1")' in text or "::ffff:127.0.0.1" in text
    assert strangers(text) == []


def test_a_ray_that_other_machines_reach_is_refused(tmp_path):
    before = processes_of_ray()
    done = matrix(tmp_path, "--on", "ray", program=("-c", OPEN_TO_ALL))
    assert done.returncode == 1
    assert "Ray listens on" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "ads").glob("*.mp4"))
    assert not processes_of_ray() - before


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    done = matrix(tmp_path, "--on", "ray://127.0.0.1:9")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "no Ray at ray://127.0.0.1:9 that can be used" in done.stderr


def test_a_node_that_is_killed_loses_no_row_and_none_is_made_twice():
    command = [sys.executable, "-m", "edgereel.tools.story_measurements", "ray", "--count", "12"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=1800, check=True).stdout)
    assert found["exit_code"] == 0
    assert found["processes_killed"] >= 2
    assert found["rows_made_when_killed"] < 12
    once = [found[name] for name in ("lines", "different_names", "whole_files", "files")]
    assert once == [12, 12, 12, 12]
    assert found["hidden_files_left"] == 0
