"""A folder of jobs' files after its server was ended by force."""

from __future__ import annotations

import os

import pytest

from edgereel.core.files import sweep, temporary_beside
from edgereel.jobs.files import VideosFolder
from edgereel.jobs.job import new_id

pytestmark = pytest.mark.lean


def test_what_is_half_written_goes_after_a_power_cut_too(tmp_path):
    """A machine that was started anew has another name in what it left, and the same number may be a process of today."""
    videos, kept, gone = VideosFolder(tmp_path), new_id(), new_id()
    for id in (kept, gone):
        (tmp_path / id).mkdir()
        (tmp_path / id / "video.mp4").write_bytes(b"film")
    now = temporary_beside(tmp_path / kept / "video.mp4")
    before = now.with_name(now.name.replace(f"-{os.getpid()}-", "-1-").replace(now.name.split("-")[1], "0123abcd"))
    for path in (now, before):
        path.write_bytes(b"half")
    sweep(tmp_path / kept)
    assert now.exists(), "who does not hold the lock leaves them"
    assert before.exists()
    assert videos.clean({kept}) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([kept, "video.mp4"])
