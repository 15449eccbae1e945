"""Causal denoisers as their authors publish them: found, exported, and made into clips chunk by chunk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from helpers.block_causal import block_causal
from helpers.exported_parts import relative
from helpers.tiny_wan import write_tiny_wan
from safetensors.torch import load_file, save_file

import edgereel
from edgereel.core.errors import CheckpointError, UsageError
from edgereel.export import export_checkpoint
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.families.wan.lora import original_name

LIMIT = 1e-5
CHUNK, SIDE = 3, 16
LEVELS = (1000, 750, 500, 250)
SHIFT = 5.0
AUTHORS = {
    "_class_name": "WanModel", "model_type": "t2v", "patch_size": [1, 2, 2], "text_len": 512, "in_dim": 4, "out_dim": 4,
    "dim": 24, "num_heads": 2, "ffn_dim": 64, "freq_dim": 32, "text_dim": 32, "num_layers": 1, "window_size": [-1, -1],
    "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
}  # fmt: skip
"""`config.json` as Wan's authors write it, of the tiny transformer."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Wan 2.1 1.3B's shape, tiny."""
    return write_tiny_wan(tmp_path_factory.mktemp("base") / "checkpoint", seed=51, vae_levels=3, depth=1, res_blocks=1)


@pytest.fixture(scope="module")
def published(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distilled denoiser with the authors' configuration and names of tensors, as their wrapper writes them.

    Its context is float32, since float16 is too coarse to compare.
    """
    other = write_tiny_wan(tmp_path_factory.mktemp("other") / "checkpoint", seed=52, vae_levels=3, depth=1)
    folder = tmp_path_factory.mktemp("published") / "self-forcing"
    folder.mkdir()
    shutil.copy(other / "transformer" / "config.json", folder.parent / "diffusers.json")
    (folder / "config.json").write_text(json.dumps(AUTHORS), encoding="utf-8")
    tensors = load_file(other / "transformer" / "diffusion_pytorch_model.safetensors")
    renamed = {original_name(name): tensor for name, tensor in tensors.items()}
    wrapped = {f"model.{name}": tensor for name, tensor in renamed.items()}
    save_file(wrapped, folder / "diffusion_pytorch_model.safetensors")
    back = convert_wan_transformer_to_diffusers(dict(renamed))
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    stream = {"chunk": CHUNK, "window": 6, "positions": "window", "context_type": "float32"}
    (folder / "edgereel.json").write_text(json.dumps({"stream": stream}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reel(base: Path, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("streams") / "tiny.reel"
    export_checkpoint(base, path, transformer=published, recipe="self-forcing", max_tokens=12)
    with edgereel.load(path) as opened:
        yield opened


def test_the_manifest_tells_of_chunks_context_and_encoder(reel: Any) -> None:
    manifest = reel.bundle.manifest
    assert (manifest.stream.chunk, manifest.stream.window, manifest.stream.sink) == (CHUNK, 6, 0)
    assert manifest.roles.denoiser[0].timestep_of_each_frame
    assert manifest.roles.denoiser[0].context == ["context_00", "context_01"]
    assert manifest.roles.encoder_first is not None
    assert manifest.recipes[0].name == "self-forcing"


@torch.no_grad()
def test_clips_are_made_as_self_forcing_makes_them(reel: Any, base: Path, published: Path) -> None:
    """Chunk by chunk: four steps, each a whole prediction of the clean chunk and noise anew; then remembered."""
    stored = load_file(published / "diffusion_pytorch_model.safetensors")
    tensors = convert_wan_transformer_to_diffusers(
        {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    )
    config = json.loads((published.parent / "diffusers.json").read_text(encoding="utf-8"))
    model: Any = WanTransformer3DModel.from_config(config)
    model.load_state_dict(tensors)
    video = reel.generate("a red ball", seed=9, frames=1 + 4 * (3 * CHUNK - 1), size=(SIDE, SIDE))
    pipeline: Any = WanPipeline.from_pretrained(base)
    words, _ = pipeline.encode_prompt("a red ball", do_classifier_free_guidance=False, max_sequence_length=12)
    random = np.random.RandomState(np.random.MT19937(9))
    shape = (1, 4, CHUNK, SIDE // 4, SIDE // 4)
    done = torch.zeros(1, 4, 0, SIDE // 4, SIDE // 4)
    for index in range(3):
        sigmas = [SHIFT * t / (1 + (SHIFT - 1) * t) for t in (level / 1000 for level in LEVELS)]
        x = torch.from_numpy(random.standard_normal(shape).astype(np.float32))
        for step, sigma in enumerate(sigmas):
            clean = x - sigma * _prediction(model, done, x, 1000 * sigma, words)
            if step + 1 < len(sigmas):
                noise = torch.from_numpy(random.standard_normal(shape).astype(np.float32))
                x = (1 - sigmas[step + 1]) * clean + sigmas[step + 1] * noise
        done = torch.cat([done, clean], dim=2)
        assert relative(video.latents[:, :, : done.shape[2]], done) < 1e-4, index


def _prediction(model: Any, done: Any, noisy: Any, level: float, words: Any) -> Any:
    """Return the prediction for noise behind clean chunks, of which two at most are in sight of any other."""
    frames = done.shape[2] + noisy.shape[2]
    of_frame = torch.arange(frames) // CHUNK
    behind = of_frame[:, None] - of_frame[None, :]
    visible = (behind >= 0) & (behind <= 2)
    levels = torch.tensor([0.0] * done.shape[2] + [level] * noisy.shape[2])
    return block_causal(model, torch.cat([done, noisy], dim=2), levels, words, visible)[:, :, done.shape[2] :]


def test_a_published_stream_is_chosen_by_name(base: Path) -> None:
    checkpoint = open_checkpoint(base)
    checkpoint.overrides["stream"] = "longlive"
    stream = open_family(checkpoint).facts.stream
    assert stream is not None
    assert (stream.chunk, stream.window, stream.sink, stream.positions) == (3, 9, 3, "clip")


def test_what_cannot_be_a_stream_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown stream 'magic': choose from self-forcing, causvid, longlive"):
        export_checkpoint(base, tmp_path / "x.reel", stream="magic")
    for stream, message in (
        ("magic", r"edgereel\.json: cannot go into the manifest: unknown stream 'magic'"),
        ({"chunk": 0, "window": 2}, r"edgereel\.json: cannot go into the manifest: .*chunk"),
        ({"chunk": 1, "window": 2, "context_type": "int4"}, "context_type is 'int4': choose float32 or float16"),
        (7, "cannot go into the manifest"),
    ):
        checkpoint = open_checkpoint(base)
        checkpoint.overrides["stream"] = stream
        with pytest.raises(CheckpointError, match=message):
            open_family(checkpoint)
    checkpoint = open_checkpoint(base)
    checkpoint.overrides["stream"] = "self-forcing"
    checkpoint.index["boundary_ratio"] = 0.9
    checkpoint.index["transformer_2"] = checkpoint.index["transformer"]
    shutil.copytree(base / "transformer", base / "transformer_2")
    with pytest.raises(CheckpointError, match="a stream needs one denoiser"):
        open_family(checkpoint)
