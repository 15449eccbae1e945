"""A few rounds of what runs by hundreds by hand: kill -9, and power cuts; and that both see what goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from conftest import helpers_environment
from helpers.causal_bundle import write_causal_bundle
from helpers.served import home

from edgereel.jobs.files import VideosFolder
from edgereel.jobs.job import new_id
from edgereel.jobs.store import JobStore
from edgereel.tools.cut_power import Cuts, Known, look
from edgereel.tools.cut_power import table as cuts_table
from edgereel.tools.kill_server import Found, table

pytest.importorskip("starlette")


@pytest.fixture
def small(tmp_path):
    return write_causal_bundle(tmp_path / "small.reel")


def tool(tmp_path, name, *arguments):
    command = [sys.executable, "-m", f"edgereel.tools.{name}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**helpers_environment(), **home(tmp_path)})


def rows_of(table):
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {row[0]: row[1] for row in cells if len(row) == 2}


@pytest.mark.full
def test_nothing_is_lost_when_processes_are_killed(tmp_path, small):
    options = ["--rounds", 6, "--bundle", small, "--prompt", "a red ball", "--prompt", "the green square slides"]
    done = tool(tmp_path, "kill_server", *options, "--data", tmp_path / "data")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(done.stdout)
    assert int(rows["accepted"]) > 0
    assert rows["lost"] == rows["corrupt"] == rows["run twice to the end"] == "0"
    assert int(rows["completed"]) + int(rows["given up after three starts, and said so"]) == int(rows["accepted"])


@pytest.mark.full
def test_nothing_is_lost_when_the_power_is_cut(tmp_path, small):
    mounts = ["unshare", "--mount", "mount", "-o", "loop", "/dev/null", str(tmp_path)]
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None or "permi" in subprocess.run(
        mounts, capture_output=True, text=True
    ).stderr.lower():  # fmt: skip
        pytest.skip("needs root, mkfs.ext4 and the right to mount")
    done = tool(tmp_path, "cut_power", "--cuts", 4, "--bundle", small, "--prompt", "a red ball", "--scratch", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(done.stdout)
    assert rows["lost"] == rows["corrupt"] == "0"
    assert int(rows["jobs accepted before a cut, over all cuts"]) > 0
    lost, of = rows["for comparison, lines written without fsync"].removesuffix(" lost").split(" of ")
    assert 0 < int(lost) <= int(of), "a cut that loses nothing proves nothing"


def test_what_goes_wrong_is_seen(tmp_path):
    """A job that is gone, one that was completed and is not, one whose file is not whole, and files of nobody."""
    store, folder = JobStore(tmp_path / "jobs.db"), tmp_path / "videos"
    folder.mkdir()
    waiting, damaged = store.add("demo", {"prompt": "a"})[0].id, store.add("demo", {"prompt": "a"})[0].id
    for name in (damaged, gone := new_id()):
        (folder / name).mkdir()
        (folder / name / "video.mp4").write_bytes(b"no film")
    store.complete(damaged, {"num_frames": 17}, 7)
    store.close()
    lost = new_id()
    known = Known(dict.fromkeys((waiting, damaged, lost), ("a", 0)), {waiting, damaged})
    found = Cuts(cuts=1)
    look(tmp_path, known, found, {})
    assert (found.lost, found.undone, found.corrupt) == ([lost], [f"{waiting}: queued"], [damaged])
    assert not found.is_right
    assert found.strays == [], "files of no job were removed"
    assert not VideosFolder(folder).of(gone).folder.exists()
    assert f"| lost | 1: {lost} |" in cuts_table(found)


def test_every_wrong_is_wrong():
    assert Found().is_right
    assert not Cuts().is_right, "no cut proves nothing"
    for name in ("lost", "twice", "corrupt", "unsaid", "failed", "doubled", "strays"):
        found = Found()
        getattr(found, name).append("x")
        assert not found.is_right, name
        assert "1: x" in table(found)
