"""The demo's training: its fast whole-clip autoencoder equals diffusers', and every stage runs, stops and resumes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel

import edgereel
from edgereel.bundle.manifest import Recipe
from edgereel.demo.clips import split
from edgereel.demo.training import whole_clip
from edgereel.demo.training.checkpoint import write_checkpoint, write_student
from edgereel.demo.training.curves import plot_curves
from edgereel.demo.training.denoiser import Captions, cache_latents, train_denoiser, velocity_of
from edgereel.demo.training.distill import Samplings, Trajectories, student_levels, train_student
from edgereel.demo.training.muon import orthogonalise
from edgereel.demo.training.presets import PRESETS, Preset
from edgereel.demo.training.run_folder import RunFolder
from edgereel.demo.training.tokenizer import UNKNOWN, build_tokenizer
from edgereel.demo.training.trajectories import LEVELS, cache_trajectories, draw_batch, follow_teacher, load_teacher
from edgereel.demo.training.vae import train_decoder, train_vae
from edgereel.export import export_checkpoint

CPU = torch.device("cpu")


@pytest.mark.parametrize(("patch", "residual"), [(None, False), (2, False), (4, True)])
def test_whole_clip_autoencoder_equals_diffusers(patch: int | None, residual: bool) -> None:
    channels = 3 * (patch or 1) ** 2
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1] if residual else [1, 1, 2], num_res_blocks=1, temperal_downsample=[True, True],
        in_channels=channels, out_channels=channels, patch_size=patch, is_residual=residual,
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pictures = torch.rand(2, 3, 13, 32, 32) * 2 - 1
    with torch.no_grad():
        mean, _ = whole_clip.encode(vae, pictures)
        expected = vae.encode(pictures).latent_dist.mean
        assert torch.allclose(mean, expected, atol=1e-5)
        decoded = whole_clip.decode(vae, mean).clamp(-1, 1)
        assert torch.allclose(decoded, vae.decode(mean).sample, atol=1e-5)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((24, 60), (60, 24)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_tokenizer_knows_every_caption_word_and_nothing_else() -> None:
    tokenizer = build_tokenizer()
    assert UNKNOWN not in tokenizer.encode("A red Ball, bounces over the ocean!").tokens
    assert tokenizer.encode("a red dragon").tokens[2] == UNKNOWN
    assert tokenizer.encode("").tokens == ["</s>"]


def _smallest(preset: Preset) -> Preset:
    return replace(
        preset,
        width=32, height=32, frames=9, vae_window=5, vae_steps=4, decoder_steps=2, vae_batch=2, vae_pool=8, latent_clips=64,
        denoiser_steps=4, denoiser_batch=4, distill_trajectories=64, distill_steps=4, distill_batch=16,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_stage_runs_stops_resumes_and_the_checkpoint_opens_in_diffusers(name: str, tmp_path: Path) -> None:
    preset = _smallest(PRESETS[name])
    hurried = RunFolder(tmp_path / "run", stop_after=0.0)
    patient = RunFolder(tmp_path / "run")
    assert not train_vae(preset, hurried, CPU)
    assert train_vae(preset, patient, CPU)
    cache_latents(preset, patient, CPU)
    assert train_decoder(preset, patient, CPU)
    assert not train_denoiser(preset, hurried, CPU, compiled=False)
    assert train_denoiser(preset, patient, CPU, compiled=False)
    write_checkpoint(preset, patient, tmp_path / "checkpoint")
    plot_curves(patient, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    labels = json.loads((tmp_path / "checkpoint" / "edgereel.json").read_text())
    assert labels["defaults"]["width"] == 32
    pipeline = WanPipeline.from_pretrained(tmp_path / "checkpoint")
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        "a red ball rises", height=32, width=32, num_frames=9, num_inference_steps=2, max_sequence_length=24
    )
    assert video.frames[0].shape == (9, 32, 32, 3)


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished checkpoint of the smallest kind: random weights, the real recipe."""
    preset = _smallest(PRESETS["cpu"])
    run = RunFolder(tmp_path_factory.mktemp("teacher"))
    assert train_vae(preset, run, CPU)
    cache_latents(preset, run, CPU)
    assert train_denoiser(preset, run, CPU, compiled=False)
    write_checkpoint(preset, run, run.folder / "checkpoint")
    return run.folder / "checkpoint"


@pytest.fixture(scope="module")
def student_folder(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder, and its curves; every stage was stopped at once and then gone on with."""
    preset, folder = _smallest(PRESETS["cpu"]), tmp_path_factory.mktemp("distilled")
    teacher = load_teacher(teacher_folder, CPU)
    hurried, patient = RunFolder(folder / "run", stop_after=0.0), RunFolder(folder / "run")
    assert not cache_trajectories(preset, hurried, teacher, velocity_of, CPU)
    assert cache_trajectories(preset, patient, teacher, velocity_of, CPU)
    assert not train_student(preset, hurried, teacher, velocity_of, CPU)
    assert train_student(preset, patient, teacher, velocity_of, CPU)
    write_student(preset, patient, folder / "student")
    plot_curves(patient, folder / "curves.png")
    return folder / "student"


def test_a_student_is_distilled_and_says_how_it_is_sampled(student_folder: Path) -> None:
    recipes = [
        Recipe.model_validate(recipe)
        for recipe in json.loads((student_folder / "edgereel.json").read_text())["recipes"]
    ]
    assert [recipe.steps for recipe in recipes] == [4, 1, 2, 8]
    assert {recipe.guidance for recipe in recipes} == {1.0}
    assert WanTransformer3DModel.from_pretrained(student_folder).config.in_channels


@pytest.mark.full
def test_a_student_is_exported_in_its_teachers_place(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    manifest = export_checkpoint(teacher_folder, tmp_path / "x.reel", transformer=student_folder)
    assert [recipe.steps for recipe in manifest.recipes] == [4, 1, 2, 8]
    with edgereel.load(tmp_path / "x.reel") as reel:
        for steps in (1, 2, 4, 8):
            assert np.isfinite(reel.generate("a red ball rises", steps=steps).latents).all()


def test_a_trajectory_is_the_teachers_sampling(teacher_folder: Path) -> None:
    """Against diffusers' pipeline at as many steps; its UniPC truncates timesteps, which moves the end a little."""
    preset = _smallest(PRESETS["cpu"])
    teacher = load_teacher(teacher_folder, CPU)
    captions = Captions(preset, split()[0])
    ids, noise = (tensor[:2] for tensor in draw_batch(preset, captions, 0))
    path = follow_teacher(teacher, velocity_of, ids, captions.empty, noise)
    assert path.shape == (2, LEVELS, *noise.shape[1:])
    pipeline = WanPipeline.from_pretrained(teacher_folder)
    pipeline.set_progress_bar_config(disable=True)
    for index in range(2):
        prompt = pipeline.tokenizer.decode(ids[index], skip_special_tokens=True)
        end = pipeline(
            prompt, height=32, width=32, num_frames=9, num_inference_steps=2 * LEVELS, guidance_scale=4.0,
            latents=noise[index : index + 1], max_sequence_length=24, output_type="latent",
        ).frames  # fmt: skip
        assert torch.linalg.norm(path[index, -1] - end) < 0.05 * torch.linalg.norm(end)


def test_a_student_that_follows_its_teacher_has_nothing_to_learn(teacher_folder: Path, tmp_path: Path) -> None:
    """Samplings that take the velocities they want arrive where the teacher does, at each number of steps."""
    preset = _smallest(PRESETS["cpu"])
    run = RunFolder(tmp_path)
    teacher = load_teacher(teacher_folder, CPU)
    assert cache_trajectories(preset, run, teacher, velocity_of, CPU)
    generator = torch.Generator().manual_seed(1)
    trajectories = Trajectories.load(preset, run)
    samplings = Samplings(trajectories, 16, teacher.shift, generator)
    assert set(samplings.stride.tolist()) <= {8, 4, 2, 1}
    for _ in range(12):
        path, level, stride = samplings.path.clone(), samplings.level.clone(), samplings.stride.clone()
        samplings.advance(samplings.wanted(), generator)
        going_on = level + stride < LEVELS
        reached = trajectories.latents[path, level + stride].float()
        assert torch.allclose(samplings.latents[going_on], reached[going_on], atol=1e-5)
    for steps in (1, 2, 4, 8):
        sigmas, timesteps = student_levels(steps, teacher.shift)
        assert len(sigmas) == len(timesteps) == steps
        assert sigmas == pytest.approx([3 * t / (1 + 2 * t) for t in 1 - np.arange(steps) / steps], abs=1e-5)
        assert timesteps == pytest.approx([500 * (a + b) for a, b in pairwise([*sigmas, 0])], abs=1e-2)


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    preset = _smallest(PRESETS["cpu"])
    train_vae(preset, RunFolder(tmp_path / "whole"), CPU)
    part = RunFolder(tmp_path / "parts")

    class AfterTwo(RunFolder):
        calls = 0

        def out_of_time(self) -> bool:
            self.calls += 1
            return self.calls > 2

    assert not train_vae(preset, AfterTwo(tmp_path / "parts"), CPU)
    assert train_vae(preset, part, CPU)
    whole, parts = RunFolder(tmp_path / "whole").load("vae"), part.load("vae")
    assert whole is not None
    assert parts is not None
    for key, value in whole["model"].items():
        assert torch.allclose(value, parts["model"][key], atol=1e-6), key


def test_state_survives_a_crash_between_saves_and_no_file_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    run.save("stage", {"step": 1, "model": torch.zeros(6 * 2**20)})
    assert max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 16 * 2**20

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    for moment in ("write_bytes", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, moment, crash)
            with pytest.raises(KeyboardInterrupt):
                run.save("stage", {"step": 2})
        state = run.load("stage")
        assert state is not None
        assert state["step"] == 1
    run.save("stage", {"step": 3})
    state = run.load("stage")
    assert state is not None
    assert state["step"] == 3


def test_a_signal_ends_the_piece_with_its_state_saved(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = RunFolder(tmp_path)
    try:
        run.stop_on_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        assert not train_vae(_smallest(PRESETS["cpu"]), run, CPU)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert run.load("vae") is None
    run = RunFolder(tmp_path)
    assert train_vae(_smallest(PRESETS["cpu"]), run, CPU)
