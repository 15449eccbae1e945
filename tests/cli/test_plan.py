"""`plan`: what it shows while it works."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--engine", "cpu"], "the cpu engine compiles nothing that could be explained"),
        (["--engine", "cuda", "--compute-capability", "8.9"], "the cuda engine compiles nothing"),
        (["--dry-run", "--target", "cuda"], "leave one out"),
        (["--memory", "8GiB"], "--target and --memory are not for --explain"),
        (["--engine", "rtx", "--compute-capability", "9.0"], "8.6, 8.9, 12.0 and newer, not 9.0"),
        (["--engine", "rtx", "--compute-capability", "new"], "write it as NVIDIA does"),
        (["--engine", "rtx", "--compute-capability", "8.9", "--compute", "int8"], "--compute int8"),
        (["--engine", "tensorrt", "--compute-capability", "8.9"], "for the card that is there alone"),
    ],
)
def test_what_cannot_be_explained_says_why(run, options, reason):
    code, out, err = run("build", DEMO_REEL, "--explain", *options)
    assert code in (1, 2)
    assert out == ""
    assert reason in err
    assert err.count("\n") == 1


def test_each_graph_is_explained_as_it_would_be_opened(run, monkeypatch):
    from edgereel import engines
    from edgereel.engines.compiled.facts import CompiledAttention, CompiledGraph
    from edgereel.engines.fake import FakeEngine

    asked = []

    class Compiler(FakeEngine):
        def explain(self, graph_path, options, card):
            asked.append((graph_path.stem, dict(options.shapes), options.pictures, options.compute, card))
            attention = (CompiledAttention("mha", "bfloat16", "float32", "float32", 12),)
            return CompiledGraph("a compiler", "sm89", 0, attention, (), (), (), None)

    monkeypatch.setitem(engines.ENGINES, "rtx", lambda: Compiler({}))
    options = ("--explain", "--engine", "rtx", "--compute-capability", "8.9", "--size", "64x64", "--frames", "17")
    code, out, _ = run("build", DEMO_REEL, *options)
    assert code == 0
    assert "graph        denoiser: 0 kernels for 0 nodes, a compiler for sm89" in out
    assert "12 x mha: bfloat16, scores summed in float32, output in float32" in out
    by_name = {name: rest for name, *rest in asked}
    assert by_name["decoder_next"][1:] == [True, "float16", (8, 9)]
    assert by_name["denoiser"][0]["latents"][:3] == (1, 24, 5)
    code, out, _ = run("build", DEMO_REEL, *options, "--json")
    assert json.loads(out)["graphs"]["denoiser"]["attention"][0]["count"] == 12
