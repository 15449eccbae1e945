"""What `export` refuses, before it imports torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import DEMO_CHECKPOINT, DEMO_REEL
from helpers.command_line import refused

from edgereel.bundle.reader import open_bundle

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
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--transformer", "missing"], 1, "missing: no such folder or file"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--shift", "-3"], 2, "the shift is a number above 0"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--fused-as", "int8"], 2, "fused as 'int8' is unknown: choose fp32 or bf16"),
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


def test_what_people_should_know_goes_to_stderr(run, monkeypatch):
    """How a LoRA was read, above all; stdout stays one JSON object."""
    asked = []

    def export(options, *, on_progress, on_note):
        asked.append((options.loras, options.fused_as, options.shift))
        on_note("x.safetensors: no alpha found: fused at 1")
        return open_bundle(DEMO_REEL).manifest

    monkeypatch.setattr("edgereel.export.run_export", export)
    arguments = ["--lora", "x.safetensors:0.8:partial@2", "--fused-as", "bf16", "--shift", "5"]
    code, printed, told = run("export", DEMO_CHECKPOINT, "-o", "x.reel", "--json", *arguments)
    assert code == 0
    assert json.loads(printed)["output"] == "x.reel"
    assert "edgereel: x.safetensors: no alpha found: fused at 1" in told
    assert asked == [(["x.safetensors:0.8:partial@2"], "bf16", 5.0)]
