"""The whole way from prompt to frames, against diffusers' own pipeline on the same weights and noise, in float32."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEMO_CHECKPOINT, DEMO_STUDENT
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

import edgereel
from edgereel.runtime.sampling import samplers, schedules

LATENTS_LIMIT = 1e-3
FRAMES_LIMIT_DB = 60.0
STEPS = 5
SHIFT = 3.0
GUIDANCE = 4.0

DEMO_PROMPTS = (
    "a red ball bounces over the ocean",
    "in the forest a white star is growing",
    "an orange ring slides left among the stars",
)
RANDOM_PROMPTS = ("a red ball bounces over the ocean", "the green square slides", "a ball over a square")


class Pair:
    """One checkpoint in both programs."""

    def __init__(
        self, checkpoint: Path, reel: edgereel.Reel, sizes: list[tuple[int, int]], prompts: tuple[str, ...]
    ) -> None:
        self.pipeline = WanPipeline.from_pretrained(checkpoint).to(torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.reel = reel
        self.sizes = sizes
        self.prompts = prompts

    def noise(
        self, size: tuple[int, int], frames: int, seed: int | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        latent = self.reel.bundle.manifest.latent
        width, height = size
        shape = (
            1,
            latent.channels,
            1 + (frames - 1) // latent.temporal_scale,
            height // latent.spatial_scale,
            width // latent.spatial_scale,
        )
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    def theirs(self, prompt: str, noise: Any, sampler: str, frames: int, size: tuple[int, int]) -> tuple[Any, Any]:
        """Return diffusers' final latents and uint8 frames."""
        scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        if sampler == "unipc":
            scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT, num_train_timesteps=1000
            )
        return self.sample(prompt, noise, scheduler, frames, size, STEPS, GUIDANCE)

    def sample(
        self, prompt: str, noise: Any, scheduler: Any, frames: int, size: tuple[int, int], steps: int, guidance: float
    ) -> tuple[Any, Any]:
        """Return the same with any scheduler."""
        self.pipeline.scheduler = scheduler
        kept = {}

        def keep(pipeline: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
            kept["latents"] = tensors["latents"].numpy().copy()
            return {}

        width, height = size
        video = self.pipeline(
            prompt,
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=torch.from_numpy(noise.copy()),
            max_sequence_length=self.reel.bundle.manifest.text.max_tokens,
            callback_on_step_end=keep,
            output_type="np",
        ).frames[0]
        return kept["latents"], np.round(video * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def demo_pair(teacher_reel: Path) -> Any:
    with edgereel.load(teacher_reel) as reel:
        yield Pair(DEMO_CHECKPOINT, reel, [(64, 64), (96, 48)], DEMO_PROMPTS)


@pytest.fixture(scope="module")
def student_pair() -> Any:
    with edgereel.load() as reel:
        pair = Pair(DEMO_CHECKPOINT, reel, [(64, 64)], DEMO_PROMPTS)
        pair.pipeline.transformer = WanTransformer3DModel.from_pretrained(DEMO_STUDENT).to(torch.float32)
        yield pair


@pytest.fixture(scope="module")
def random_pair(random_checkpoint: Path, random_reel: Path) -> Any:
    with edgereel.load(random_reel) as reel:
        yield Pair(random_checkpoint, reel, [(32, 32), (48, 16)], RANDOM_PROMPTS)


def compare(
    pair: Pair, prompt: str, sampler: str, size: tuple[int, int], frames: int, seed: int | None = None, **ours: Any
) -> tuple[float, float]:
    """Return (relative difference of latents, PSNR of frames in dB); `ours` overrides what edgereel is told.

    seed: of the noise, None for noise that was never seen before.
    """
    noise = pair.noise(size, frames, seed)
    theirs = pair.theirs(prompt, noise, sampler, frames, size)
    settings = {"steps": STEPS, "guidance": GUIDANCE, "sampler": sampler, "latents": noise, **ours}
    video = pair.reel.generate(settings.pop("our_prompt", prompt), **settings)
    return differences(video, theirs)


def differences(video: edgereel.Video, theirs: tuple[Any, Any]) -> tuple[float, float]:
    """Return (relative difference of latents, PSNR of frames in dB)."""
    their_latents, their_frames = theirs
    our_frames = np.stack(list(video))
    assert our_frames.shape == their_frames.shape
    relative = float(np.linalg.norm(video.latents - their_latents) / np.linalg.norm(their_latents))
    error = float(np.square(our_frames.astype(np.float64) - their_frames).mean())
    return relative, 10 * np.log10(255**2 / max(error, 1e-9))


# The demo makes whole chunks of 17 pictures: a shorter clip is the beginning of one. Its teacher's export takes a minute.
@pytest.mark.parametrize(
    ("which", "frames"),
    [pytest.param("demo_pair", 17, marks=pytest.mark.full), ("random_pair", 9), ("random_pair", 17)],
)
@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("prompt", [0, 1, 2])
@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_latents_and_frames_equal_diffusers(
    which: str, sampler: str, prompt: int, size: int, frames: int, request: pytest.FixtureRequest
) -> None:
    pair: Pair = request.getfixturevalue(which)
    relative, psnr = compare(pair, pair.prompts[prompt], sampler, pair.sizes[size], frames)
    assert relative <= LATENTS_LIMIT
    assert psnr >= FRAMES_LIMIT_DB


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_the_built_in_student_equals_diffusers(student_pair: Pair, prompt: int, steps: int) -> None:
    """At its own noise levels, which diffusers' Euler scheduler takes as lists."""
    levels = student_pair.reel.bundle.manifest.recipe(f"{steps}-step")
    assert levels is not None
    noise = student_pair.noise((64, 64), 17)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    set_timesteps = scheduler.set_timesteps
    scheduler.set_timesteps = lambda _, device=None: set_timesteps(sigmas=levels.sigmas, timesteps=levels.timesteps)
    theirs = student_pair.sample(DEMO_PROMPTS[prompt], noise, scheduler, 17, (64, 64), steps, 1.0)
    video = student_pair.reel.generate(DEMO_PROMPTS[prompt], steps=steps, latents=noise)
    relative, psnr = differences(video, theirs)
    assert relative <= LATENTS_LIMIT
    assert psnr >= FRAMES_LIMIT_DB


def _untruncated(steps: int, shift: float, train_timesteps: int = 1000) -> schedules.Schedule:
    right = schedules.unipc_schedule(steps, shift, train_timesteps)
    return replace(right, timesteps=(right.sigmas[:-1] * train_timesteps).astype(np.float32))


def _guidance_off(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"guidance": 1.2 * GUIDANCE}


def _another_prompt(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"our_prompt": pair.prompts[1]}


def _timesteps_not_truncated(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(samplers.SAMPLERS, "unipc", samplers.SAMPLERS["unipc"]._replace(schedule=_untruncated))
    return {}


@pytest.mark.parametrize("mistake", [_guidance_off, _another_prompt, _timesteps_not_truncated])
@pytest.mark.parametrize("which", [pytest.param("demo_pair", marks=pytest.mark.full), "random_pair"])
def test_the_comparison_notices_a_mistake(
    which: str,
    mistake: Callable[[Pair, pytest.MonkeyPatch], dict[str, Any]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For the same noise each time: how much a mistake does depends on it."""
    pair: Pair = request.getfixturevalue(which)
    relative, psnr = compare(pair, pair.prompts[0], "unipc", pair.sizes[0], 17, seed=0, **mistake(pair, monkeypatch))
    assert relative > LATENTS_LIMIT or psnr < FRAMES_LIMIT_DB


def test_the_reference_cleans_prompts_with_ftfy() -> None:
    assert importlib.util.find_spec("ftfy") is not None
