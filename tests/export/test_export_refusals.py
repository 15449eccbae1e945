"""What cannot be exported: one clear line each, and nothing left behind."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_wan import write_tiny_wan
from safetensors.torch import load_file, save_file

from edgereel.core.errors import CheckpointError, MissingExtraError, OutputError, ParityError, UsageError
from edgereel.export import export_checkpoint
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.families.base import Trial
from edgereel.export.graphs import DataFile
from edgereel.export.parity import judge, relative_difference

DENOISER = "transformer/diffusion_pytorch_model.safetensors"
SHARD = "vae/diffusion_pytorch_model-00001-of-"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("whole") / "checkpoint", depth=1, vae_levels=2)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "checkpoint"
    return write_tiny_wan(folder, depth=1, vae_levels=2, sharded=True)


def edit(path: Path, **changes) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | changes), encoding="utf-8")


def retensor(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


class _Bomb:
    """Unpickling this ends the process: proof that nobody unpickles."""

    def __reduce__(self):
        return (sys.exit, (99,))


def pickle_weights(folder: Path) -> None:
    (folder / DENOISER).unlink()
    (folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))


def pickle_in_disguise(folder: Path) -> None:
    (folder / DENOISER).write_bytes(pickle.dumps(_Bomb()))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BROKEN = {
    "no index": (lambda f: (f / "model_index.json").unlink(), r"has no model_index\.json"),
    "invalid JSON": (lambda f: (f / "model_index.json").write_text("{"), r"model_index\.json: is not valid JSON"),
    "JSON list": (lambda f: (f / "vae/config.json").write_text("[]"), r"config\.json: holds a JSON list"),
    "unknown family": (
        lambda f: edit(f / "model_index.json", _class_name="CogVideoXPipeline"),
        r"CogVideoXPipeline.*unknown family.*known: WanPipeline",
    ),
    "null transformer": (
        lambda f: edit(f / "model_index.json", transformer=[None, None]),
        r"model_index\.json: no component transformer",
    ),
    "other text encoder": (
        lambda f: edit(f / "model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
        r"text_encoder is a T5EncoderModel.*UMT5EncoderModel",
    ),
    "no config": (lambda f: (f / "transformer/config.json").unlink(), r"config\.json: file is missing"),
    "impossible config": (lambda f: edit(f / "transformer/config.json", num_layers="two"), r"cannot build the model"),
    "no weights": (lambda f: (f / DENOISER).unlink(), r"transformer: has no diffusion_pytorch_model\.safetensors"),
    "pickle": (pickle_weights, r"diffusion_pytorch_model\.bin: pickled weights.*safe_serialization=True"),
    "pickle in disguise": (pickle_in_disguise, r"not a whole safetensors file"),
    "truncated": (lambda f: truncate(f / DENOISER), r"model\.safetensors: is not a whole safetensors file"),
    "wrong shape": (
        lambda f: retensor(f / DENOISER, lambda t: t.update({"proj_out.bias": torch.zeros(3)})),
        r"proj_out\.bias has shape \[3\], config\.json asks for \[16\]",
    ),
    "missing tensor": (
        lambda f: retensor(f / DENOISER, lambda t: t.pop("proj_out.bias")),
        r"tensor proj_out\.bias is missing",
    ),
    "unexpected tensor": (
        lambda f: retensor(f / DENOISER, lambda t: t.update(lora=torch.zeros(3))),
        r"tensor lora does not belong",
    ),
    "other depth": (lambda f: edit(f / "transformer/config.json", num_layers=2), r"blocks\.1\..*more\) is missing"),
    "integer weights": (
        lambda f: retensor(f / DENOISER, lambda t: t.update({"proj_out.bias": torch.zeros(16, dtype=torch.int8)})),
        r"proj_out\.bias is I8",
    ),
    "VAE of other latents": (
        lambda f: (shutil.rmtree(f / "vae"), shutil.move(write_tiny_wan(f / "x", latent_channels=8) / "vae", f)),
        r"in_channels is 4, but .* need 8",
    ),
    "lying scale": (lambda f: edit(f / "vae/config.json", scale_factor_spatial=8), r"scale by \(2, 2\)"),
    "unknown scheduler": (
        lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        r"unknown scheduler DDIMScheduler; known: UniPC",
    ),
    "noise prediction": (
        lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="epsilon"),
        r"prediction_type is epsilon",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer/tokenizer.json").unlink(), r"tokenizer\.json: file is missing"),
    "broken tokenizer": (lambda f: (f / "tokenizer/tokenizer.json").write_text("{}"), r"cannot be read as a tokenizer"),
    "own facts of the wrong type": (
        lambda f: (f / "edgereel.json").write_text('{"max_tokens": "many"}'),
        r"edgereel\.json: cannot go into the manifest",
    ),
    "boundary out of range": (
        lambda f: (
            shutil.copytree(f / "transformer", f / "transformer_2"),
            edit(
                f / "model_index.json", boundary_ratio=2, transformer_2=["diffusers", "WanTransformer3DModel"]
            ),
        ),
        r"boundary_ratio is 2",
    ),
}  # fmt: skip

BROKEN_SHARDS = {
    "shard missing": (lambda f: next(f.glob(f"{SHARD}*")).unlink(), r"vae/.*00001.*: shard is missing"),
    "shard truncated": (lambda f: truncate(next(f.glob(f"{SHARD}*"))), r"vae/.*00001.*: is not a whole safetensors"),
    "shard elsewhere": (
        lambda f: edit(f / "vae/diffusion_pytorch_model.safetensors.index.json", weight_map={"a": "../x.safetensors"}),
        r"names '\.\./x\.safetensors'",
    ),
    "no weight map": (
        lambda f: edit(f / "vae/diffusion_pytorch_model.safetensors.index.json", weight_map=None),
        r"has no weight_map",
    ),
}


def refuse(source: Path, damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = shutil.copytree(source, tmp_path / "checkpoint")
    damage(folder)
    output = tmp_path / "out" / "x.reel"
    output.parent.mkdir()
    with pytest.raises(CheckpointError, match=message) as caught:
        export_checkpoint(folder, output)
    assert "\n" not in str(caught.value)
    assert not list(output.parent.iterdir())


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoint(case, whole, tmp_path):
    refuse(whole, *BROKEN[case], tmp_path)


@pytest.mark.parametrize("case", BROKEN_SHARDS)
def test_broken_shards(case, sharded, tmp_path):
    refuse(sharded, *BROKEN_SHARDS[case], tmp_path)


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        export_checkpoint(tmp_path / "nowhere", tmp_path / "x.reel")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"replacement: has no config\.json; give the folder of a"),
        (lambda folder: edit(folder / "config.json", _class_name="UNet2DModel"), "is a UNet2DModel; the transformer"),
        (lambda folder: edit(folder / "config.json", ffn_dim=65), "config.json asks for"),
        (lambda folder: (folder / "edgereel.json").write_text("["), "is not valid JSON"),
        (lambda folder: (folder / "edgereel.json").write_text('{"recipes": [{}]}'), "cannot go into the manifest"),
    ],
)
def test_a_replacement_that_does_not_fit(damage, message, whole, tmp_path):
    replacement = shutil.copytree(whole / "transformer", tmp_path / "replacement")
    damage(replacement)
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(whole, tmp_path / "x.reel", transformer=replacement)
    assert [path.name for path in tmp_path.iterdir()] == ["replacement"]


def test_another_models_denoiser_cannot_replace(whole, tmp_path):
    other = write_tiny_wan(tmp_path / "other", depth=1, vae_levels=2, latent_channels=6)
    with pytest.raises(CheckpointError, match="in_channels is 6, but the vae and text encoder beside it need 4"):
        export_checkpoint(whole, tmp_path / "x.reel", transformer=other / "transformer")


def test_a_second_expert_cannot_be_replaced_where_there_is_one(whole, tmp_path):
    with pytest.raises(CheckpointError, match=r"no component transformer_2 that .* could replace"):
        export_checkpoint(whole, tmp_path / "x.reel", transformer_2=whole / "transformer")


def test_sharded_and_tied_weights_load_as_they_were_saved(whole, sharded):
    from edgereel.export.catalogue import open_family

    parts, shards = (open_family(open_checkpoint(folder)).parts for folder in (whole, sharded))
    for one, other in zip(parts, shards, strict=True):
        expected, found = one.load().state_dict(), other.load().state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("output", "options", "error", "message"),
    [
        ("x.onnx", {}, UsageError, r"ends with \.reel"),
        ("no/x.reel", {}, OutputError, "no: no such folder"),
        ("there.reel", {}, OutputError, r"there\.reel: is there already"),
        ("x.reel", {"precision": "int4"}, UsageError, "precision 'int4'"),
        ("x.reel", {"recipe": "magic"}, UsageError, "unknown recipe 'magic': choose from self-forcing, causvid-3, "),
        ("x.reel", {"max_tokens": 0}, UsageError, "max tokens is 0"),
    ],
)
def test_unusable_arguments(output, options, error, message, whole, tmp_path):
    (tmp_path / "there.reel").mkdir()
    with pytest.raises(error, match=message):
        export_checkpoint(whole, tmp_path / output, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.reel"]


def test_unwritable_place(whole, tmp_path, monkeypatch):
    def refuse_folder(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse_folder)
    with pytest.raises(OutputError, match="cannot write there"):
        export_checkpoint(whole, tmp_path / "x.reel")


@pytest.mark.parametrize(
    ("cause", "error", "message"),
    [
        (OSError(28, "No space left on device"), OutputError, "No space left"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (MemoryError(), MemoryError, None),
    ],
)
def test_a_failure_half_way_leaves_nothing(cause, error, message, whole, tmp_path, monkeypatch):
    def fail(_source, folder, _data):
        assert folder.parent == tmp_path
        (folder / "text_encoder.onnx").write_bytes(b"some")
        raise cause

    monkeypatch.setattr("edgereel.export.bundle.save_graph", fail)
    with pytest.raises(error, match=message):
        export_checkpoint(whole, tmp_path / "x.reel")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_computes_something_else_is_refused(whole, tmp_path, monkeypatch):
    """One weight in a thousand off by a tenth, as a wrong conversion might leave it."""
    add = DataFile.add

    def perturb(self, tensor, name):
        if tensor.dtype == torch.float32 and tensor.ndim == 2:
            tensor = tensor.clone()
            tensor.view(-1)[::1000] += 0.1
        return add(self, tensor, name)

    monkeypatch.setattr(DataFile, "add", perturb)
    steps = []
    with pytest.raises(ParityError, match=r"text_encoder: .* 1e-04 is allowed"):
        export_checkpoint(whole, tmp_path / "x.reel", on_progress=lambda *step: steps.append(step))
    assert steps == [("text_encoder", 0, 3), ("text_encoder", 1, 3), ("text_encoder", 2, 3)]
    assert not list(tmp_path.iterdir())


def test_relative_difference():
    ones = np.ones((2, 3), np.float32)
    assert relative_difference(ones, ones) == 0
    assert relative_difference(1.1 * ones, ones) == pytest.approx(0.1)
    assert relative_difference(np.full((2, 3), np.nan, np.float32), ones) == np.inf
    assert relative_difference(np.ones((2, 1), np.float32), ones) == np.inf


@pytest.mark.parametrize("worst", [2e-4, np.inf, np.nan])
def test_judge_refuses_what_is_over_the_limit_or_no_number(worst):
    trial = Trial("small", {}, np.zeros(1))
    with pytest.raises(ParityError, match="denoiser"):
        judge("denoiser", [0.0, worst], [trial, trial], 1e-4)


def test_missing_extra(tmp_path):
    """Without torch the package imports, and calling it says what to install."""
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from edgereel.core.errors import MissingExtraError\n"
        "from edgereel.export import export_checkpoint\n"
        "try: export_checkpoint('a', 'b.reel')\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'edgereel export needs torch, which is not installed: pip install "edgereel[export]"'
    assert issubclass(MissingExtraError, Exception)
