"""LTX-Video's checkpoints at export: single files in the authors' names, what is refused, modules beside diffusers' classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_ltx_transformer_checkpoint_to_diffusers,
    convert_ltx_vae_checkpoint_to_diffusers,
)
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from helpers.tiny_ltx import SCHEDULER, write_tiny_ltx
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

from edgereel.core.errors import CheckpointError
from edgereel.export import export_checkpoint
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.families.ltx.decoder import Decoder
from edgereel.export.families.ltx.layouts import VAE_095
from edgereel.export.families.ltx.modules import Denoiser
from edgereel.export.families.ltx.names import BLOCKS_090, BLOCKS_095, original_name, vae_naming
from edgereel.export.families.ltx.own_recipes import linear_quadratic
from edgereel.export.families.t5 import UnmaskedTextEncoder
from edgereel.export.parity import LIMITS, graph_differences, traced_module
from edgereel.runtime.sampling.recipes import schedule_of

LIMIT = 1e-5
WEIGHTS = "diffusion_pytorch_model.safetensors"


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.9.0's kind of VAE; relu in the text encoder, three heads."""
    folder = tmp_path_factory.mktemp("plain") / "checkpoint"
    return write_tiny_ltx(folder, seed=2, vae="0.9.0", heads=3, latent_channels=6, feed_forward="relu")


@pytest.fixture(params=["0.9.5", "0.9.0"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("ltx_checkpoint" if request.param == "0.9.5" else "plain")
    return folder


@torch.no_grad()
def test_modules_compute_what_diffusers_classes_do(checkpoint: Path) -> None:
    """Before anything is traced, fresh inputs each time."""
    text = T5EncoderModel.from_pretrained(checkpoint / "text_encoder")
    ids = torch.randint(0, 60, (2, 30))
    assert relative(UnmaskedTextEncoder(text, torch.float32)(ids), text(ids).last_hidden_state) < LIMIT
    model = LTXVideoTransformer3DModel.from_pretrained(checkpoint / "transformer")
    latents, embeds = torch.randn(2, model.config.in_channels, 3, 2, 4), torch.randn(2, 5, 24)
    times, rate = torch.tensor([700.0, 30.0]), torch.tensor([24.0, 24.0])
    packed = LTXPipeline._pack_latents(latents)
    expected = model(packed, embeds, times, None, 3, 2, 4, (8 / 24, 32, 32), return_dict=False)[0]
    denoiser = Denoiser(model, torch.float32, (8, 32), first_frame_is_short=False)
    found = denoiser(latents, times[:, None].expand(2, 3), embeds, rate)
    assert relative(LTXPipeline._pack_latents(found), expected) < LIMIT
    vae = AutoencoderKLLTXVideo.from_pretrained(checkpoint / "vae")
    noise = torch.randn_like(latents)
    scaled = latents * vae.latents_std.view(1, -1, 1, 1, 1) + vae.latents_mean.view(1, -1, 1, 1, 1)
    level = None
    given = [latents]
    if vae.config.timestep_conditioning:
        scaled, level = 0.975 * scaled + 0.025 * noise, torch.full((2,), 0.05)
        given.append(noise)
    frames = vae.decode(scaled, level, return_dict=False)[0].clamp(-1, 1)
    assert relative(Decoder(vae, torch.float32, 0.05, 0.025)(*given), frames) < LIMIT


@torch.no_grad()
def test_modules_in_half_precision_stay_within_their_limit(checkpoint: Path) -> None:
    for part in open_family(open_checkpoint(checkpoint)).parts:
        module = part.load()
        trials = part.trials(module)
        (source,) = part.graphs(module, torch.float16)
        assert max(graph_differences(traced_module(source), trials)) < LIMITS["fp16"], part.name


def original_file(checkpoint: Path, path: Path, blocks: dict[str, int]) -> Path:
    """Write transformer and VAE of a checkpoint as one file in the authors' names."""
    name = vae_naming(blocks, "vae.")
    transformer, vae = (load_file(checkpoint / part / WEIGHTS) for part in ("transformer", "vae"))
    tensors = {f"model.diffusion_model.{original_name(key)}": value for key, value in transformer.items()}
    tensors |= {name(key): value for key, value in vae.items()}
    tensors["vae.per_channel_statistics.channel"] = torch.zeros(8)
    save_file(tensors, path)
    return path


def test_the_authors_names_are_those_that_diffusers_converts(checkpoint: Path, tmp_path: Path) -> None:
    conditioned = json.loads((checkpoint / "vae" / "config.json").read_text())["timestep_conditioning"]
    tensors = load_file(
        original_file(checkpoint, tmp_path / "x.safetensors", BLOCKS_095 if conditioned else BLOCKS_090)
    )
    if conditioned:  # which diffusers tells by a width of the encoder
        tensors["vae.encoder.conv_out.conv.weight"] = torch.zeros(1, 2048)
    vae = convert_ltx_vae_checkpoint_to_diffusers(tensors)
    assert set(vae) == set(load_file(checkpoint / "vae" / WEIGHTS))
    transformer = convert_ltx_transformer_checkpoint_to_diffusers(tensors)
    assert set(transformer) == set(load_file(checkpoint / "transformer" / WEIGHTS))


def with_other_weights(ltx_checkpoint: Path, folder: Path) -> Path:
    """Return a checkpoint with the same text encoder, another transformer and another VAE."""
    other = write_tiny_ltx(folder, seed=9, depth=1)
    shutil.rmtree(other / "text_encoder")
    shutil.copytree(ltx_checkpoint / "text_encoder", other / "text_encoder")
    return other


def test_a_single_file_holds_what_the_folder_does(ltx_checkpoint: Path, tmp_path: Path) -> None:
    """It replaces transformer and VAE of a folder that has other ones: every weight and every fact is the folder's."""
    file = original_file(ltx_checkpoint, tmp_path / "ltxv-2b.safetensors", BLOCKS_095)
    other = with_other_weights(ltx_checkpoint, tmp_path / "other")
    opened = open_checkpoint(other, {"transformer": file})
    found, expected = open_family(opened), open_family(open_checkpoint(ltx_checkpoint))
    assert any(note.endswith("the vae in it is taken, too") for note in opened.notes)
    assert replace(found.facts, tokenizer=expected.facts.tokenizer) == expected.facts
    for part, other_part in zip(found.parts, expected.parts, strict=True):
        ours, theirs = part.load().state_dict(), other_part.load().state_dict()
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), name


@pytest.mark.full
def test_a_single_file_gives_the_bundle_of_the_folder(ltx_checkpoint: Path, ltx_reel: Path, tmp_path: Path) -> None:
    """As above to the end: bundles are equal to the last bit."""
    file = original_file(ltx_checkpoint, tmp_path / "ltxv-2b.safetensors", BLOCKS_095)
    other = with_other_weights(ltx_checkpoint, tmp_path / "other")
    export_checkpoint(other, tmp_path / "ltx.reel", max_tokens=16, transformer=file)
    found, expected = (json.loads((reel / "reel.json").read_text()) for reel in (tmp_path / "ltx.reel", ltx_reel))
    for manifest in (found, expected):  # measured, so that the order of a sum may show
        del manifest["parity"], manifest["digest"], manifest["files"]["MODEL_CARD.md"]
    assert found == expected


def test_a_file_of_a_later_release_brings_its_own_kind_of_vae(plain: Path, tmp_path: Path) -> None:
    """A folder of 0.9.0, a file of 0.9.5: the VAE is the published one of 0.9.5, all of whose layers this file does not have."""
    small = write_tiny_ltx(tmp_path / "small", latent_channels=6, heads=3)
    file = original_file(small, tmp_path / "x.safetensors", BLOCKS_095)
    with pytest.raises(CheckpointError, match=r"x.safetensors: tensor .* is missing") as raised:
        open_family(open_checkpoint(plain, {"transformer": file}))
    assert "\n" not in str(raised.value)
    assert VAE_095["timestep_conditioning"]


def _inject(folder: Path) -> None:
    shutil.rmtree(folder)
    write_tiny_ltx(folder, vae="0.9.1")


def _edit(place: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / place
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_inject, r"vae/config.json: decoder_inject_noise is set, as in LTX-Video 0.9.1"),
        (_edit("vae/config.json", decoder_causal=True), "decoder_causal is True"),
        (
            _edit("vae/config.json", spatial_compression_ratio=16),
            r"compression are \(8, 16\), but the decoder's layers",
        ),
        (_edit("transformer/config.json", patch_size=2), "patch_size is 2; edgereel implements 1"),
        (_edit("vae/config.json", unheard_of=1), "unheard_of is no setting of AutoencoderKLLTXVideo"),
        (_edit("scheduler/scheduler_config.json", time_shift_type="linear"), "time_shift_type is linear"),
        (_edit("scheduler/scheduler_config.json", _class_name="LCMScheduler"), "unknown scheduler LCMScheduler"),
        (_edit("text_encoder/config.json", d_model=32), "tensor .* has shape"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(
    ltx_checkpoint: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(ltx_checkpoint, tmp_path / "checkpoint"))
    change(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_family(open_checkpoint(folder))
    assert "\n" not in str(raised.value)


def test_with_a_recipe_the_scheduler_is_not_needed(ltx_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ltx_checkpoint, tmp_path / "checkpoint"))
    _edit("scheduler/scheduler_config.json", _class_name="LCMScheduler")(folder)
    opened = open_checkpoint(folder, recipe="ltx-0.9.8-distilled")
    assert open_family(opened).facts.recipes == []
    assert any("only the recipe ltx-0.9.8-distilled is kept" in note for note in opened.notes)


def test_noise_levels_are_those_of_both_pipelines(ltx_checkpoint: Path) -> None:
    (recipe,) = open_family(open_checkpoint(ltx_checkpoint)).facts.recipes
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    for tokens, steps in ((30, 50), (1024, 8), (2816, 20), (6000, 3)):
        mu = calculate_shift(
            tokens, *(SCHEDULER[key] for key in ("base_image_seq_len", "max_image_seq_len")), 0.95, 2.05
        )
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        found = schedule_of(recipe, None, steps, tokens)
        np.testing.assert_allclose(found.sigmas, scheduler.sigmas.numpy(), atol=1e-6)
        np.testing.assert_allclose(found.timesteps, scheduler.timesteps.numpy(), atol=1e-3)
    for steps in (2, 8, 50):
        np.testing.assert_allclose(linear_quadratic(steps), linear_quadratic_schedule(steps).numpy(), atol=1e-6)
