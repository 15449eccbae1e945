"""`plan`: what it shows while it works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import DEMO_REEL

pytestmark = pytest.mark.lean


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_plan_shows_that_it_is_being_made_on_a_terminal_only(tmp_path):
    import pty

    command = [sys.executable, "-m", "edgereel", "plan", DEMO_REEL, "--memory", "1MiB"]
    quiet = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert quiet.returncode == 1
    assert quiet.stderr.count("\n") == 1
    ours, theirs = pty.openpty()
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, timeout=60, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 2**16)
        except OSError:  # Linux's way of saying that the terminal is gone
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert ended.returncode == 1
    assert b"what fits in memory" in shown
