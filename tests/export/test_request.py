"""What is asked of an export: every field may be left open, all is checked at once and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEMO_CHECKPOINT, DEMO_STUDENT

from edgereel.bundle.manifest import Recipe
from edgereel.core.errors import CheckpointError, UsageError
from edgereel.export import ExportOptions, Lora, export_checkpoint, run_export
from edgereel.export.catalogue import FAMILIES, family_of, published_recipes
from edgereel.export.layout import read_json

pytestmark = pytest.mark.lean


def test_what_is_left_open_is_completed(tmp_path):
    request = ExportOptions(str(DEMO_CHECKPOINT), tmp_path / "x.reel").complete()
    assert (request.checkpoint, request.output) == (DEMO_CHECKPOINT, tmp_path / "x.reel")
    assert (request.precision, request.max_tokens, request.recipe) == ("fp32", None, None)
    assert (request.loras, request.replaced, request.labels) == ((), {}, {})


def test_what_is_given_is_kept(tmp_path):
    lora = tmp_path / "style.safetensors"
    lora.touch()
    request = ExportOptions(
        DEMO_CHECKPOINT,
        tmp_path / "x.reel",
        precision="fp16",
        max_tokens=65_536,
        recipe="rcm",
        loras=[f"{lora}:0.5", lora],
        transformer=DEMO_STUDENT,
        license="CC0-1.0",
    ).complete()
    assert (request.precision, request.max_tokens, request.recipe) == ("fp16", 65_536, "rcm")
    assert request.loras == (Lora(lora, 0.5), Lora(lora))
    assert request.replaced == {"transformer": DEMO_STUDENT}
    assert request.labels == {"license": "CC0-1.0"}


@pytest.mark.parametrize("options", [{}, {"checkpoint": DEMO_CHECKPOINT}, {"output": "x.reel"}])
def test_a_request_without_its_two_paths(options):
    with pytest.raises(UsageError, match="needs a checkpoint folder and the name of the bundle"):
        ExportOptions(**options).complete()


def test_a_keyword_that_is_no_option():
    with pytest.raises(TypeError, match="tokens_max"):
        export_checkpoint(DEMO_CHECKPOINT, "x.reel", tokens_max=3)


def test_an_unknown_family_is_refused_at_the_door(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    with pytest.raises(CheckpointError, match=r"a CogVideoXPipeline checkpoint is of an unknown family; known: Wan"):
        ExportOptions(tmp_path, tmp_path / "x.reel").complete()


@pytest.mark.parametrize("pipeline", FAMILIES)
def test_families_have_recipes(pipeline):
    recipes = published_recipes(family_of(pipeline, Path()))
    assert recipes
    assert all(isinstance(recipe, Recipe) for recipe in recipes)


def test_checking_a_request_imports_neither_torch_nor_an_adapter(tmp_path):
    """In a process of its own, where importing torch is an error."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from edgereel.export import ExportOptions\n"
        f"request = ExportOptions({str(DEMO_CHECKPOINT)!r}, 'x.reel', recipe='rcm').complete()\n"
        "print(request.recipe, [name for name in sys.modules if name.endswith('.adapter')])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["rcm", "[]\n"]


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "style.safetensors")
    with pytest.raises(CheckpointError, match=r"style\.safetensors: is not a file; give the LoRA's"):
        ExportOptions(DEMO_CHECKPOINT, tmp_path / "x.reel", loras=[tmp_path / "style.safetensors"]).complete()
    os.mkfifo(tmp_path / "tokenizer_config.json")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: is not a file"):
        read_json(tmp_path / "tokenizer_config.json")


@pytest.mark.extras
def test_an_export_is_cancelled_where_progress_says_so(tmp_path):
    pytest.importorskip("torch")
    from edgereel.core.errors import Cancelled

    with pytest.raises(Cancelled, match="cancelled during text_encoder"):
        run_export(ExportOptions(DEMO_CHECKPOINT, tmp_path / "x.reel"), on_progress=lambda *_: False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", Lora(Path("a.safetensors"))),
        ("a.safetensors:0.8", Lora(Path("a.safetensors"), 0.8)),
        ("a.safetensors:-2e-1@2", Lora(Path("a.safetensors"), -0.2, 2)),
        ("a.safetensors@2", Lora(Path("a.safetensors"), 1.0, 2)),
        ("a.safetensors:0.8:partial", Lora(Path("a.safetensors"), 0.8, partial=True)),
        ("a.safetensors:partial@2", Lora(Path("a.safetensors"), 1.0, 2, partial=True)),
        (r"C:\loras\a.safetensors:partial", Lora(Path(r"C:\loras\a.safetensors"), partial=True)),
        ("there:2@2:partial", Lora(Path("there:2@2"), partial=True)),
        ("a.safetensors@1", Lora(Path("a.safetensors"))),
        (r"C:\loras\a.safetensors", Lora(Path(r"C:\loras\a.safetensors"))),
        (r"C:\loras\a.safetensors:3@2", Lora(Path(r"C:\loras\a.safetensors"), 3.0, 2)),
        ("C:a.safetensors", Lora(Path("C:a.safetensors"))),
        (Path("a:1"), Lora(Path("a:1"))),
        ("there:2@2", Lora(Path("there:2@2"))),
    ],
)
def test_how_a_lora_is_asked_for(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there:2@2").touch()
    assert Lora.of(text) == Lora.of(expected) == expected
