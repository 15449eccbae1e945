"""`generate` that is interrupted, or runs out of disk: what is there is kept, nothing half-written stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.command_line import PROMPT, QUICK
from helpers.small_disk import small_disk

pytestmark = pytest.mark.lean


INTERRUPTED = """
import os, signal, sys
from edgereel import cli
from edgereel.cli import terminal
stage, done = sys.argv.pop(1).split(":")
show = terminal.StageProgress.__call__
def interrupt(self, *call):
    show(self, *call)
    if call[:2] == (stage, int(done)):
        os.kill(os.getpid(), signal.SIGINT)
terminal.StageProgress.__call__ = interrupt
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("point", ["check:0", "text:1", "denoise:1", "decode:0", "decode:3"])
def test_ctrl_c_at_any_stage(tmp_path, point):
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"earlier")
    command = [sys.executable, "-c", INTERRUPTED, point, "generate", PROMPT, "-o", target, *QUICK]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "edgereel: interrupted\n")
    assert target.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_from_outside(tmp_path, guided_copy):
    """The signal comes while ONNX Runtime is at work on one of a thousand steps."""
    target = tmp_path / "out" / "clip.mp4"
    target.parent.mkdir()
    command = [sys.executable, "-m", "edgereel", "generate", PROMPT, "-o", target, "--bundle", guided_copy]
    process = subprocess.Popen(
        [*command, "--steps", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 60
        while "onnxruntime" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "edgereel: interrupted\n")
    assert list(target.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces of Linux")
@pytest.mark.parametrize(("frames", "kept"), [("5", True), ("65", False)], ids=["room for latents", "none"])
def test_a_full_disk(tmp_path, frames, kept):
    """What was sampled is kept where there is room for that; a video that is cut off never is."""
    inside = small_disk(tmp_path, "4k")
    target = tmp_path / "clip.mp4"
    more = ["--size", "64x64", "--frames", frames]
    command = [sys.executable, "-m", "edgereel", "generate", PROMPT, "-o", str(target), *QUICK, *more]
    script = f'"$@"; echo "$?" $(ls -A "{tmp_path}" | wc -l)'
    ended = subprocess.run(
        [*inside, "sh", "-c", script, "-", *command], capture_output=True, text=True, timeout=120, cwd="/"
    )
    latents = f". The latents are kept: edgereel decode {target.with_suffix('.safetensors')}" if kept else ""
    assert ended.stderr == f"edgereel: cannot write {target}: No space left on device{latents}\n"
    assert ended.stdout.split() == ["1", str(int(kept))]
