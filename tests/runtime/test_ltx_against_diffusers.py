"""LTX-shaped checkpoints from prompt to frames, against diffusers' own pipelines on the same weights and noise, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTXConditionPipeline, LTXPipeline
from diffusers.pipelines.ltx import pipeline_ltx, pipeline_ltx_condition
from helpers.tiny_ltx import write_tiny_ltx
from safetensors import safe_open
from safetensors.numpy import save_file

import edgereel
from edgereel.core.errors import UsageError
from edgereel.export import export_checkpoint
from edgereel.export.families.ltx.recipes import LTX_RECIPES
from edgereel.runtime.latents_file import read_video, write_latents
from edgereel.runtime.sampling.noise import NoiseSource
from edgereel.runtime.text.embedder import Prompt

LATENTS_LIMIT = 1e-3
FRAMES_LIMIT_DB = 60.0
PROMPT, LONGER, NEGATIVE = "a red ball", "the green square slides over a ball over the ocean", "the square"
MAX_TOKENS = 16
SMALL: dict[str, Any] = {"size": (64, 64), "frames": 9, "steps": 2, "guidance": 1.0}
Array = np.ndarray[Any, Any]


class Pair:
    """One checkpoint in both programs."""

    def __init__(self, checkpoint: Path, reel: Path, kind: Any = LTXPipeline) -> None:
        self.pipeline = kind.from_pretrained(checkpoint).to(torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.reel = edgereel.load(reel, cache=False)

    @staticmethod
    def of(folder: Path, kind: Any = LTXPipeline, **options: Any) -> Pair:
        """Return the pair of a checkpoint with these options."""
        checkpoint = write_tiny_ltx(folder / "checkpoint", **options)
        export_checkpoint(checkpoint, folder / "ltx.reel", max_tokens=MAX_TOKENS)
        return Pair(checkpoint, folder / "ltx.reel", kind)

    def theirs(self, prompt: str, video: edgereel.Video, noise: Array, **settings: Any) -> tuple[Array, Array]:
        """Return diffusers' final latents, unpacked, and uint8 frames, with the noise that a video began with."""
        kept = {}

        def keep(pipeline: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
            kept["latents"] = tensors["latents"]
            return {}

        drawn = iter([torch.from_numpy(noise), *([] if video.noise is None else [torch.from_numpy(video.noise)])])
        modules = (pipeline_ltx, pipeline_ltx_condition)
        with pytest.MonkeyPatch.context() as patch:
            for module in modules:
                patch.setattr(module, "randn_tensor", lambda *_, **__: next(drawn).clone())
            same = {
                "height": video.request.height,
                "width": video.request.width,
                "num_frames": video.request.frames,
                "frame_rate": float(video.request.fps),
                "num_inference_steps": video.request.steps,
                "guidance_scale": video.request.guidances[0],
                "max_sequence_length": MAX_TOKENS,
                "decode_timestep": 0.05,
                "decode_noise_scale": 0.025,
                "callback_on_step_end": keep,
                "output_type": "np",
            }
            frames = self.pipeline(prompt=prompt, **(same | settings)).frames[0]
        latents = LTXPipeline._unpack_latents(kept["latents"], *video.latents.shape[2:])
        return latents.numpy(), np.round(frames * 255).astype(np.uint8)

    def differences(
        self, prompt: str, *, their_prompt: str | None = None, theirs: dict[str, Any] | None = None, **settings: Any
    ) -> tuple[float, float]:
        """Return (relative difference of latents, PSNR of frames in dB). settings: edgereel's; theirs: diffusers' other ones."""
        video = self.reel.generate(prompt, **settings)
        noise = NoiseSource(video.request.seed).draw(video.latents.shape)
        negative = {"negative_prompt": settings.get("negative_prompt", "")}
        their_latents, their_frames = self.theirs(their_prompt or prompt, video, noise, **negative, **(theirs or {}))
        frames = np.stack(list(video))
        assert frames.shape == their_frames.shape
        relative = float(np.linalg.norm(video.latents - their_latents) / np.linalg.norm(their_latents))
        error = float(np.square(frames.astype(np.float64) - their_frames).mean())
        return relative, 10 * np.log10(255**2 / max(error, 1e-9))


@pytest.fixture(scope="module")
def conditioned(ltx_checkpoint: Path, ltx_reel: Path) -> Any:
    """0.9.5's kind: a decoder that takes a timestep and noise."""
    pair = Pair(ltx_checkpoint, ltx_reel)
    with pair.reel:
        yield pair


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """0.9.0's kind: another decoder, without noise; other depth, heads and channels, relu in the text encoder."""
    options = {"vae": "0.9.0", "depth": 1, "heads": 3, "latent_channels": 6, "feed_forward": "relu"}
    pair = Pair.of(tmp_path_factory.mktemp("plain"), seed=2, **options)
    with pair.reel:
        yield pair


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The class of 0.9.5 and later, whose first latent frame is one picture long; two resnets a level."""
    options = {"pipeline": "LTXConditionPipeline", "decoder_layers": 2, "scheduler": {"shift": 1.0}}
    pair = Pair.of(tmp_path_factory.mktemp("of_pictures"), LTXConditionPipeline, seed=3, depth=1, **options)
    with pair.reel:
        yield pair


def check(relative: float, psnr: float) -> None:
    assert relative <= LATENTS_LIMIT
    assert psnr >= FRAMES_LIMIT_DB


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        (PROMPT, {"size": (64, 96), "frames": 17, "steps": 4, "guidance": 1.0}),
        (LONGER, {"size": (64, 96), "frames": 17, "steps": 4, "guidance": 1.0}),
        (PROMPT, {"size": (96, 32), "frames": 9, "steps": 3, "fps": 30, "negative_prompt": NEGATIVE}),
        (LONGER, {"size": (32, 64), "frames": 1, "steps": 2, "seed": 7}),
    ],
)
def test_latents_and_frames_equal_diffusers(conditioned: Pair, prompt: str, settings: dict[str, Any]) -> None:
    """With the checkpoint's own scheduler, whose shift depends on the clip's size."""
    check(*conditioned.differences(prompt, **settings))


@pytest.mark.full
@pytest.mark.parametrize("prompt", [PROMPT, LONGER])
def test_a_decoder_without_noise_equals_diffusers(plain: Pair, prompt: str) -> None:
    check(*plain.differences(prompt, size=(64, 64), frames=25, steps=3, fps=16, seed=5))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers', of its own timesteps
def test_the_condition_pipeline_without_a_picture_equals_diffusers(of_pictures: Pair) -> None:
    check(*of_pictures.differences(PROMPT, size=(64, 64), frames=17, negative_prompt=NEGATIVE))


@pytest.mark.parametrize("name", [recipe.name for recipe in LTX_RECIPES])
def test_published_recipes_sample_as_their_authors_do(conditioned: Pair, name: str) -> None:
    """The steps of LTX-Video's schedulers/rf.py, by hand: Euler, or to x0 and back up with fresh noise (stochastic sampling)."""
    recipe = next(each for each in LTX_RECIPES if each.name == name)
    manifest = conditioned.reel.bundle.manifest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "recipes", [recipe])
        video = conditioned.reel.generate(PROMPT, size=(64, 64), frames=9, seed=3)
    source = NoiseSource(3)
    latents = torch.from_numpy(source.draw(video.latents.shape))
    embeds = conditioned.pipeline.encode_prompt(
        PROMPT, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
    )
    assert recipe.sigmas is not None
    for sigma, lower in pairwise([*recipe.sigmas, 0.0]):
        with torch.no_grad():
            velocity = conditioned.pipeline.transformer(
                LTXPipeline._pack_latents(latents),
                embeds[0],
                torch.tensor([1000 * sigma]),
                embeds[1],
                *latents.shape[2:],
                (8 / 25, 32, 32),
                return_dict=False,
            )[0]
        velocity = LTXPipeline._unpack_latents(velocity, *latents.shape[2:])
        if recipe.sampler == "euler":
            latents = latents - (sigma - lower) * velocity
        else:
            clean = latents - sigma * velocity
            noise = torch.from_numpy(source.draw(video.latents.shape)) if lower else 0.0
            latents = (1 - lower) * clean + lower * noise
    assert np.linalg.norm(video.latents - latents.numpy()) <= LATENTS_LIMIT * np.linalg.norm(video.latents)
    assert video.noise is not None
    np.testing.assert_array_equal(video.noise, source.draw(video.latents.shape))


def _another_speed(pair: Pair) -> tuple[float, float]:
    return pair.differences(PROMPT, **SMALL, theirs={"frame_rate": 12.0})


def _untrimmed(pair: Pair) -> tuple[float, float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair.reel.bundle.manifest.text, "trim", False)
        return pair.differences(PROMPT, **SMALL)


def _other_noise_at_the_end(pair: Pair) -> tuple[float, float]:
    return pair.differences(PROMPT, **SMALL, theirs={"decode_noise_scale": 0.1})


@pytest.mark.parametrize("mistake", [_another_speed, _untrimmed, _other_noise_at_the_end])
def test_the_comparison_notices_a_mistake(conditioned: Pair, mistake: Callable[[Pair], tuple[float, float]]) -> None:
    relative, psnr = mistake(conditioned)
    assert relative > LATENTS_LIMIT or psnr < FRAMES_LIMIT_DB


def test_windows_give_the_pictures_of_the_whole(conditioned: Pair) -> None:
    """A plan with windows, as a small budget makes it, changes nothing but memory: here for 8 latent frames."""
    reel = conditioned.reel
    video = reel.generate(PROMPT, size=(64, 32), frames=57, steps=1, guidance=1.0)
    whole = np.stack(list(video))
    plan = reel.graphs.plan
    assert plan is not None
    assert plan.window is None
    needed = [plan.sizes_of("decoder").activations]
    for window in plan.sizes.windows:
        lower = replace(plan, window=window)
        reel.graphs.plans[plan.sizes.key] = lower
        np.testing.assert_array_equal(np.stack(list(video)), whole)
        assert {"decoder front", "decoder rear"} <= set(reel.report())
        needed.append(lower.sizes_of("decoder").activations)
    assert len(needed) > 3
    assert needed[1:] == sorted(needed[1:], reverse=True)
    reel.graphs.plans[plan.sizes.key] = plan


def test_kept_latents_decode_to_the_same_pictures(conditioned: Pair, tmp_path: Path) -> None:
    """The noise that the decoder takes is kept beside them."""
    video = conditioned.reel.generate(PROMPT, **SMALL)
    path = write_latents(tmp_path / "clip.safetensors", video, conditioned.reel.bundle)
    again = read_video(path, conditioned.reel)
    np.testing.assert_array_equal(np.stack(list(again)), np.stack(list(video)))
    save_file({"latents": video.latents}, tmp_path / "cut.safetensors", safe_open(path, "numpy").metadata())
    with pytest.raises(UsageError, match="the noise that goes with the latents does not fit the decoder"):
        read_video(tmp_path / "cut.safetensors", conditioned.reel)


def test_embeddings_are_cached_as_long_as_the_prompt(ltx_reel: Path) -> None:
    with edgereel.load(ltx_reel) as reel:
        first = reel.embedder.embed([Prompt(PROMPT), Prompt(LONGER)], None)
        again = reel.embedder.embed([Prompt(PROMPT), Prompt(LONGER)], None)
        assert reel.embedder.cached == 2
        assert [tensor.shape[1] for tensor in first] == [4, 11]
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
