"""LTX-shaped checkpoints from prompt to frames, against diffusers' own pipelines on the same weights and noise, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTXConditionPipeline, LTXPipeline
from diffusers.pipelines.ltx import pipeline_ltx, pipeline_ltx_condition
from helpers.tiny_ltx import write_tiny_ltx

import edgereel
from edgereel.export import export_checkpoint
from edgereel.runtime.sampling.noise import NoiseSource

LATENTS_LIMIT = 1e-3
FRAMES_LIMIT_DB = 60.0
PROMPT, LONGER, NEGATIVE = "a red ball", "the green square slides over a ball over the ocean", "the square"
MAX_TOKENS = 16
Array = np.ndarray[Any, Any]


class Pair:
    """One checkpoint in both programs."""

    def __init__(self, checkpoint: Path, folder: Path, kind: Any = LTXPipeline) -> None:
        export_checkpoint(checkpoint, folder / "ltx.reel", max_tokens=MAX_TOKENS)
        self.pipeline = kind.from_pretrained(checkpoint).to(torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.reel = edgereel.load(folder / "ltx.reel")

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
            frames = self.pipeline(
                prompt,
                height=video.request.height,
                width=video.request.width,
                num_frames=video.request.frames,
                frame_rate=float(video.request.fps),
                num_inference_steps=video.request.steps,
                guidance_scale=video.request.guidances[0],
                max_sequence_length=MAX_TOKENS,
                decode_timestep=0.05,
                decode_noise_scale=0.025,
                callback_on_step_end=keep,
                output_type="np",
                **settings,
            ).frames[0]
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
def conditioned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """0.9.5's kind: a decoder that takes a timestep and noise."""
    folder = tmp_path_factory.mktemp("conditioned")
    pair = Pair(write_tiny_ltx(folder / "checkpoint", seed=1), folder)
    with pair.reel:
        yield pair


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """0.9.0's kind: another decoder, without noise; other depth, heads and channels, relu in the text encoder."""
    folder = tmp_path_factory.mktemp("plain")
    options = {"vae": "0.9.0", "depth": 1, "heads": 3, "latent_channels": 6, "feed_forward": "relu"}
    pair = Pair(write_tiny_ltx(folder / "checkpoint", seed=2, **options), folder)
    with pair.reel:
        yield pair


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The class of 0.9.5 and later, whose first latent frame is one picture long; two resnets a level."""
    folder = tmp_path_factory.mktemp("of_pictures")
    options = {"pipeline": "LTXConditionPipeline", "decoder_layers": 2, "scheduler": {"shift": 1.0}}
    pair = Pair(write_tiny_ltx(folder / "checkpoint", seed=3, depth=1, **options), folder, LTXConditionPipeline)
    with pair.reel:
        yield pair


@pytest.mark.parametrize(
    ("which", "settings"),
    [
        ("conditioned", {"size": (64, 96), "frames": 17, "steps": 4, "guidance": 1.0}),
        ("conditioned", {"size": (96, 32), "frames": 9, "steps": 3, "fps": 30, "negative_prompt": NEGATIVE}),
        ("plain", {"size": (64, 64), "frames": 25, "steps": 3, "fps": 16, "seed": 5}),
    ],
)
@pytest.mark.parametrize("prompt", [PROMPT, LONGER])
def test_latents_and_frames_equal_diffusers(
    which: str, settings: dict[str, Any], prompt: str, request: pytest.FixtureRequest
) -> None:
    """With the checkpoint's own scheduler, whose shift depends on the clip's size."""
    relative, psnr = request.getfixturevalue(which).differences(prompt, **settings)
    assert relative <= LATENTS_LIMIT
    assert psnr >= FRAMES_LIMIT_DB


def test_the_condition_pipeline_without_a_picture_equals_diffusers(of_pictures: Pair) -> None:
    relative, psnr = of_pictures.differences(PROMPT, size=(64, 64), frames=17, negative_prompt=NEGATIVE)
    assert relative <= LATENTS_LIMIT
    assert psnr >= FRAMES_LIMIT_DB
