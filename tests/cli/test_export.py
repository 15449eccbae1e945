"""What `export` refuses, before it imports torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import DEMO_CHECKPOINT, DEMO_REEL
from helpers.command_line import refused

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["nowhere", "-o", "x.reel"], 1, "nowhere: no such folder; give a checkpoint"),
        ([DEMO_REEL, "-o", "x.reel"], 1, "has no model_index.json"),
        ([DEMO_CHECKPOINT, "-o", "x.onnx"], 2, "ends with .reel"),
        ([DEMO_CHECKPOINT, "-o", DEMO_REEL], 1, "is there already"),
        ([DEMO_CHECKPOINT, "-o", "no/x.reel"], 1, "no: no such folder"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--recipe", "magic"], 2, "unknown recipe 'magic': choose from self-forcing"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--lora", "missing.safetensors:0.5"], 1, "no such LoRA file"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--lora", "a.safetensors:much"], 2, "scale 'much' is not a number"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--transformer", "missing"], 1, "missing: has no config.json"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--precision", "int4"], 2, "choose fp32 or fp16"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--max-tokens", "70000"], 2, "max tokens is 70000"),
    ],
    ids=lambda value: " ".join(map(str, value[-2:])) if isinstance(value, list) else "",
)
@pytest.mark.extras
def test_arguments_of_export_are_checked_before_torch_is_imported(run, monkeypatch, arguments, code, part):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "edgereel.export.bundle", None)  # importing it is an error from here on
    refused(run("export", *arguments), code, part)


@pytest.mark.extras
def test_refusing_an_export_does_not_import_torch(tmp_path):
    pytest.importorskip("torch")
    program = "import sys\nfrom edgereel import cli\ntry: cli.main()\nexcept SystemExit: print('torch' in sys.modules, end='')"
    command = [sys.executable, "-c", program, "export", DEMO_CHECKPOINT, "-o", "x.reel", "--recipe", "magic"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.stdout == "False"
    assert "unknown recipe" in ended.stderr
