"""The runtime runs where the packages of export are not installed.

Each test runs in a process in which importing those packages fails, as it does where they are missing. That says more than
looking afterwards whether torch was imported: an import inside `try`, one that is made in a rare branch, and one by a
library of ours that would use torch if it were there (as some do) are all put to the test too, and a runtime that only
works because such a library found torch does not pass.
"""

from __future__ import annotations

import subprocess
import sys

import av
import pytest
from conftest import DEMO_REEL

pytestmark = pytest.mark.lean

EXPORT_ONLY = ["torch", "diffusers", "transformers", "onnx", "onnxscript", "accelerate"]
PROMPT = "a red ball bounces over the ocean"


def edgereel_without(blocked, *arguments):
    """Run the command line where importing the blocked packages fails."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
from edgereel.__main__ import main
main()
"""
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("onnx_too", [False, True], ids=["lowered", "onnx missing too"])
def test_a_clip_is_made_and_saved(tmp_path, onnx_too):
    """onnx comes with the cpu extra and lowers graphs; where it is missing they run as they are, and the record says so."""
    target = tmp_path / "clip.mp4"
    blocked = [name for name in EXPORT_ONLY if onnx_too or name != "onnx"]
    ended = edgereel_without(
        blocked, "generate", PROMPT, "-o", str(target), "--bundle", str(DEMO_REEL), "--steps", "2", "--json"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("onnx is not installed" in ended.stdout) is onnx_too
    with av.open(str(target)) as container:
        assert len(list(container.decode(video=0))) == 17


@pytest.mark.parametrize("arguments", [["inspect"], ["verify"], ["--help"]])
def test_other_commands(arguments):
    bundle = [] if arguments == ["--help"] else [str(DEMO_REEL)]
    ended = edgereel_without([*EXPORT_ONLY, "onnxruntime"], *arguments, *bundle)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_without_an_onnxruntime(tmp_path):
    ended = edgereel_without(
        ["onnxruntime"], "generate", PROMPT, "-o", str(tmp_path / "clip.mp4"), "--bundle", str(DEMO_REEL)
    )
    expected = 'edgereel: the cpu engine needs onnxruntime, which is not installed: pip install "edgereel[cpu]"\n'
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", EXPORT_ONLY[:4])
def test_export_without_its_packages(tmp_path, package):
    ended = edgereel_without([package], "export", str(tmp_path), "-o", str(tmp_path / "out.reel"))
    assert ended.returncode == 1
    assert ended.stderr.endswith('pip install "edgereel[export]"\n')
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_doctor_runs_where_nothing_else_does():
    ended = edgereel_without([*EXPORT_ONLY, "onnxruntime", "numpy", "av", "tokenizers"], "doctor")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "ready to make videos" in ended.stdout  # the packages are there for the process that it starts
