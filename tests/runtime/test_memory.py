"""Decoding takes the same memory however long the clip is, and a run no more than was planned."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import DEMO_REEL

pytestmark = pytest.mark.lean

SIDE = 192
# The peak is read from /proc: that of getrusage would be the parent's at the time of the fork, where it was higher.
DECODE = """
import json, sys
import numpy as np
import edgereel
from edgereel.bundle.geometry import latent_shape
from edgereel.runtime.request import OpenRequest

bundle, target, frames, side = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with edgereel.load(bundle, engine="cpu", threads=1) as reel:
    manifest = reel.bundle.manifest
    shape = latent_shape(manifest.latent, side, side, frames)
    latents = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    request = OpenRequest("a", latents=latents).complete(manifest)
    reel.video(request, latents, None).save(target)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": int(peak.split()[1]) * 1024, "frames": request.frames}))
"""
RUN = """
import sys
from edgereel import cli
try:
    cli.main()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024)
"""


def decode(target, frames):
    """Return the peak of resident memory, in bytes, of decoding and writing a clip of that many frames."""
    command = [sys.executable, "-c", DECODE, str(DEMO_REEL), str(target), str(frames), str(SIDE)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    result = json.loads(ended.stdout)
    assert result["frames"] == frames
    return result["peak"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_129_frames_peak_within_a_tenth_of_17(tmp_path):
    short, long = decode(tmp_path / "short.mp4", 17), decode(tmp_path / "long.mp4", 129)
    all_at_once = (129 - 17) * SIDE * SIDE * 3 * 4
    assert all_at_once > 0.2 * short, "the clip is too small for this test to notice frames being kept"
    assert long < 1.1 * short, f"{long / 1e6:.0f} MB for 129 frames, {short / 1e6:.0f} MB for 17"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("bundle", "memory", "held"),
    [("words_reel", "250MiB", "streamed"), ("demo", "250MiB", "swapped"), ("demo", "400MiB", "resident")],
)
def test_a_run_keeps_to_its_plan(tmp_path, request, bundle, memory, held):
    """As a process of its own; the plan's share for Python and libraries is the same for every clip."""
    settings = [
        "--size",
        "256x256",
        "--frames",
        "65",
        "--steps",
        "1",
        "--memory",
        memory,
        "--json",
        "--threads",
        "2",
        "--engine",
        "cpu",
    ]
    path = DEMO_REEL if bundle == "demo" else request.getfixturevalue(bundle)
    settings += ["-o", str(tmp_path / "clip.mp4"), "--bundle", str(path)]
    command = [sys.executable, "-c", RUN, "generate", "a red ball", *settings]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    plan, peak = (json.loads(line) for line in ended.stdout.strip().rsplit("\n", 1))
    plan = plan["memory"]["plan"]
    assert plan["components"]["denoiser"]["placement"] == held
    assert 0.5 * plan["peak"] < peak <= plan["peak"], f"{peak / 2**20:.0f} MiB of {plan['peak'] / 2**20:.0f}"
