"""Two experts and few-step recipes against diffusers' WanPipeline with transformer_2, in float32.

Re-noising is diffusers' own too (`stochastic_sampling`), handed the noise that our seed stands for; only rCM's step in
float64, which diffusers does not have, is written out here, around diffusers' modules.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from diffusers.schedulers import scheduling_flow_match_euler_discrete
from helpers.experts import FEW, GUIDANCES, SHIFT, STEPS

import edgereel
from edgereel.core.errors import UsageError
from edgereel.runtime.sampling.noise import NoiseSource

LATENTS_LIMIT = 1e-3
FRAMES_LIMIT_DB = 60.0
PROMPT = "a red ball bounces over the ocean"
SIZE, FRAMES, SHAPE = (32, 32), 9, (1, 4, 3, 8, 8)
SEED = 7


class Listed(FlowMatchEulerDiscreteScheduler):
    """diffusers' Euler scheduler (stochastic_sampling: its re-noising) on given noise levels."""

    def __init__(self, sigmas: Any, stochastic: bool) -> None:
        super().__init__(shift=1.0, stochastic_sampling=stochastic)
        self.given = [float(sigma) for sigma in sigmas]

    def set_timesteps(self, num_inference_steps: Any = None, device: Any = None, **rest: Any) -> None:
        super().set_timesteps(sigmas=self.given, device=device)


class Rcm(Listed):
    """The step of TurboDiffusion's program: float64, from noise scaled by the first level (by the caller)."""

    def step(self, model_output: Any, timestep: Any, sample: Any, **rest: Any) -> tuple[torch.Tensor]:
        levels = torch.tensor([*self.given, 0.0], dtype=torch.float64)
        index = int((self.timesteps == timestep).nonzero()[0])
        clean = sample.double() - levels[index] * model_output.double()
        noise = torch.randn_like(sample, dtype=torch.float32).double()
        return ((1 - levels[index + 1]) * clean + levels[index + 1] * noise,)


@dataclass
class Both:
    """One checkpoint in both programs."""

    pipeline: WanPipeline
    reel: edgereel.Reel

    def theirs(self, scheduler: Any, guidances: list[float], start: Any, steps: int) -> tuple[Any, Any]:
        """Return diffusers' final latents and uint8 frames."""
        self.pipeline.scheduler = scheduler
        kept = {}

        def keep(pipeline: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
            kept["latents"] = tensors["latents"].numpy().copy()
            return {}

        video = self.pipeline(
            PROMPT,
            height=SIZE[1],
            width=SIZE[0],
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidances[0],
            guidance_scale_2=guidances[1],
            latents=torch.from_numpy(start.copy()),
            max_sequence_length=self.reel.bundle.manifest.text.max_tokens,
            callback_on_step_end=keep,
            output_type="np",
        ).frames[0]
        return kept["latents"], np.round(video * 255).astype(np.uint8)

    def ours(self, **settings: Any) -> tuple[Any, Any]:
        video = self.reel.generate(PROMPT, size=SIZE, frames=FRAMES, seed=SEED, **settings)
        return video.latents, np.stack(list(video))


def differences(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> tuple[float, float]:
    """Return (relative difference of latents, PSNR of frames in dB)."""
    assert ours[1].shape == theirs[1].shape
    assert ours[1].std() > 10, "frames without contrast would hide differences"
    relative = float(np.linalg.norm(ours[0] - theirs[0]) / np.linalg.norm(theirs[0]))
    error = float(np.square(ours[1].astype(np.float64) - theirs[1]).mean())
    return relative, 10 * np.log10(255**2 / max(error, 1e-9))


def equal(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> bool:
    relative, psnr = differences(ours, theirs)
    return relative <= LATENTS_LIMIT and psnr >= FRAMES_LIMIT_DB


@pytest.fixture(scope="module")
def both(experts_checkpoint: Path, experts_reel: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = WanPipeline.from_pretrained(experts_checkpoint, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    with edgereel.load(experts_reel) as reel:
        yield Both(pipeline, reel)


def undistilled(sampler: str) -> Any:
    if sampler == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)


def start_noise() -> np.ndarray[Any, np.dtype[np.float32]]:
    return NoiseSource(SEED).draw(SHAPE)


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_two_experts_with_a_guidance_each_equal_diffusers(both: Both, sampler: str) -> None:
    theirs = both.theirs(undistilled(sampler), GUIDANCES, start_noise(), STEPS)
    ours = both.ours(recipe=sampler)
    assert set(both.reel.report()) >= {"denoiser", "denoiser_2"}
    assert equal(ours, theirs), differences(ours, theirs)
    assert equal(
        both.ours(recipe=sampler, guidance=3.0), both.theirs(undistilled(sampler), [3.0, 3.0], start_noise(), STEPS)
    )


@pytest.mark.parametrize("wrong", [[2.5, 4.0], [4.0, 4.0], [2.5, 2.5]])
def test_the_comparison_notices_guidances_mixed_up(both: Both, wrong: list[float]) -> None:
    assert not equal(both.ours(recipe="unipc"), both.theirs(undistilled("unipc"), wrong, start_noise(), STEPS))


@pytest.mark.parametrize("boundary", [0.7, 0.95])
def test_the_comparison_notices_another_boundary(both: Both, boundary: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both.reel.bundle.manifest.recipe("unipc"), "boundary", boundary)
    assert not equal(both.ours(recipe="unipc"), both.theirs(undistilled("unipc"), GUIDANCES, start_noise(), STEPS))


def few_steps_of_diffusers(both: Both, name: str, monkeypatch: pytest.MonkeyPatch, seed: int = SEED) -> tuple[Any, Any]:
    """Run a published recipe with diffusers, its noise levels from the reference table."""
    sigmas = {
        "causvid-3": [1, 0.757, 0.522],
        "causvid-4": [1, 0.96, 8 / 9, 8 / 11],
        "fastwan": [1, 0.757, 0.522],
        "rcm": [np.tan(a) / (1 + np.tan(a)) for a in (np.arctan(80), 1.5, 1.4, 1.0)],
    }.get(name, [1, 0.9375, 5 / 6, 0.625])
    stream = NoiseSource(seed)
    start = stream.draw(SHAPE)

    def fresh(like: Any, **rest: Any) -> torch.Tensor:
        return torch.from_numpy(stream.draw(tuple(getattr(like, "shape", like))))

    # Which of the two the scheduler draws with depends on diffusers' version.
    monkeypatch.setattr(torch, "randn_like", fresh)
    monkeypatch.setattr(scheduling_flow_match_euler_discrete, "randn_tensor", fresh, raising=False)
    if name == "rcm":
        return both.theirs(Rcm(sigmas, False), [1.0, 1.0], sigmas[0] * start.astype(np.float64), len(sigmas))
    return both.theirs(Listed(sigmas, name != "lightx2v-4"), [1.0, 1.0], start, len(sigmas))


@pytest.mark.parametrize("name", FEW)
def test_few_step_recipes_equal_diffusers(both: Both, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = few_steps_of_diffusers(both, name, monkeypatch)
    ours = both.ours(recipe=name)
    assert equal(ours, theirs), differences(ours, theirs)


@pytest.mark.parametrize(("ours", "theirs"), [("lightx2v-4", "lightx2v-4-lcm"), ("self-forcing", "causvid-4")])
def test_the_comparison_notices_another_recipe(
    both: Both, ours: str, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not equal(both.ours(recipe=ours), few_steps_of_diffusers(both, theirs, monkeypatch))


@pytest.mark.parametrize("mistake", ["same noise", "scaled noise", "other timesteps"])
@pytest.mark.parametrize("name", ["self-forcing", "rcm"])
def test_the_comparison_notices_a_mistake(both: Both, name: str, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = few_steps_of_diffusers(both, name, monkeypatch)
    if mistake == "other timesteps":
        monkeypatch.setattr(both.reel.bundle.manifest.recipe(name), "train_timesteps", 990)
    else:
        first, draw = start_noise(), NoiseSource.draw
        drawn = []

        def wrong(source: NoiseSource, shape: tuple[int, ...]) -> Any:
            drawn.append(draw(source, shape))
            if mistake == "same noise":
                return first
            return drawn[-1] if len(drawn) == 1 else np.float32(1.02) * drawn[-1]

        monkeypatch.setattr(NoiseSource, "draw", wrong)
    assert not equal(both.ours(recipe=name), theirs)


def test_a_fixed_list_refuses_other_numbers_of_steps(both: Both) -> None:
    with pytest.raises(UsageError, match="self-forcing lists the noise levels of 4 steps, so 5 are not possible"):
        both.ours(recipe="self-forcing", steps=5)
