"""Wan 2.2 TI2V-5B at its real size, random weights: whether it can be exported here, and what that takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import helpers_environment
from helpers.large_wan import write_large_wan

from edgereel.bundle.reader import open_bundle

MOST_MEMORY = 20e9
EXPORT = """
import json, resource, sys, time
from edgereel.export import export_checkpoint
started = time.perf_counter()
manifest = export_checkpoint(sys.argv[1], sys.argv[2])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
parity = {name: proof.relative for name, proof in manifest.parity.items()}
print(json.dumps({"peak": peak, "seconds": time.perf_counter() - started, "parity": parity}))
"""


@pytest.mark.full
def test_ti2v_5b_exports_in_20_gigabytes(tmp_path: Path) -> None:
    """A step of the denoiser at small sizes equals diffusers': that is what each export proves before it writes."""
    checkpoint = write_large_wan(Path(os.environ.get("EDGEREEL_TEST_LARGE", tmp_path)) / "checkpoint", seed=5)
    bundle = tmp_path / "large.reel"
    program = [sys.executable, "-c", EXPORT, str(checkpoint), str(bundle)]
    done = subprocess.run(program, env=helpers_environment(), capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["peak"] < MOST_MEMORY
    assert figures["parity"]["denoiser"] <= 1e-4
    roles = open_bundle(bundle).manifest.roles
    assert roles.denoiser[0].timestep_of_each_frame
    assert roles.encoder_first is not None
