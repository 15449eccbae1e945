"""Clips that begin or end with pictures, against diffusers' pipelines on the same weights, noise and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanVACEPipeline,
)
from helpers.tiny_wan import write_tiny_wan

import edgereel
from edgereel.export import export_checkpoint
from edgereel.runtime import conditioning

LATENTS_LIMIT = 1e-3
FRAMES_LIMIT_DB = 60.0
STEPS, SHIFT, GUIDANCE = 4, 3.0, 4.0
PROMPT = "a red ball bounces over the ocean"
SIZE = (48, 32)
FRAMES = 9

KINDS: dict[str, dict[str, Any]] = {
    # Wan 2.2 TI2V-5B: the first latent frame is held at timestep 0.
    "held": {"seed": 41, "residual": True, "vae_patch": 2, "latent_channels": 6, "depth": 1},
    # Wan 2.1 I2V 14B: mask, latents of the film, what CLIP sees.
    "embeds": {"seed": 42, "depth": 1},
    # Wan 2.1 FLF2V 14B: two pictures, with learned positions for what is seen of them.
    "both ends": {"seed": 43, "heads": 3, "latent_channels": 3, "depth": 1},
    # Wan 2.2 I2V A14B: mask and latents alone, two experts.
    "condition": {"seed": 44, "experts": True, "depth": 1, "dtype": torch.bfloat16},
    # VACE: known pictures, blanks and a mask, read by blocks beside the denoiser's.
    "vace": {"seed": 45, "depth": 2},
}
SLOW = ("embeds", "both ends", "condition", "vace")
"""Each export takes a while."""


@dataclass
class Pair:
    """One checkpoint in both programs. with_words: the pipeline of words alone, where the checkpoint has both."""

    kind: str
    reel: edgereel.Reel
    with_picture: Any
    with_words: Any

    def theirs(self, noise: Any, sampler: str, first: Any, last: Any) -> tuple[Any, Any]:
        """Return diffusers' final latents and uint8 frames."""
        pipeline = self.with_words if first is None and self.with_words is not None else self.with_picture
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        if sampler == "unipc":
            pipeline.scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT, num_train_timesteps=1000
            )
        given = {"image": first, "last_image": last}
        pictures = {name: PIL.Image.fromarray(picture) for name, picture in given.items() if picture is not None}
        if self.kind == "vace":
            pictures = self._films(first, last)
        width, height = SIZE
        latents = pipeline(
            prompt=PROMPT,
            **pictures,
            height=height,
            width=width,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            latents=torch.from_numpy(noise.copy()),
            output_type="latent",
        ).frames
        vae = pipeline.vae
        mean, std = (torch.tensor(vae.config[f"latents_{key}"]).view(1, -1, 1, 1, 1) for key in ("mean", "std"))
        with torch.no_grad():
            video = vae.decode(latents * std + mean, return_dict=False)[0]
        frames = pipeline.video_processor.postprocess_video(video, output_type="np")[0]
        return latents.numpy(), np.round(frames * 255).astype(np.uint8)

    def _films(self, first: Any, last: Any) -> dict[str, Any]:
        """Return a film of the pictures, grey between, and the mask of what is to be made, as VACE's pipeline takes them."""
        width, height = SIZE
        # A grey of 127.5, which is 0 in [-1, 1], there is only among floats.
        film = [np.full((height, width, 3), 0.5, np.float32) for _ in range(FRAMES)]
        mask = [np.ones((height, width, 3), np.float32) for _ in range(FRAMES)]
        for index, shown in ((0, first), (-1, last)):
            if shown is not None:
                film[index], mask[index] = (shown / 255).astype(np.float32), np.zeros_like(mask[0])
        return {"video": [np.stack(film)], "mask": [np.stack(mask)]}

    def noise(self) -> Any:
        latent = self.reel.bundle.manifest.latent
        shape = (1 + (FRAMES - 1) // latent.temporal_scale, *(side // latent.spatial_scale for side in SIZE[::-1]))
        return np.random.default_rng().standard_normal((1, latent.channels, *shape)).astype(np.float32)

    def differences(self, sampler: str, first: Any = None, last: Any = None) -> tuple[float, float]:
        """Return (relative difference of latents, PSNR of frames in dB)."""
        noise = self.noise()
        latents, frames = self.theirs(noise, sampler, first, last)
        pictures = {"image": first, "last_image": last}
        given = {name: picture for name, picture in pictures.items() if picture is not None}
        video = self.reel.generate(PROMPT, steps=STEPS, guidance=GUIDANCE, sampler=sampler, latents=noise, **given)
        ours = np.stack(list(video)).astype(np.float64)
        assert ours.shape == frames.shape
        error = float(np.square(ours - frames).mean())
        relative = float(np.linalg.norm(video.latents - latents) / np.linalg.norm(latents))
        return relative, 10 * np.log10(255**2 / max(error, 1e-9))


def picture() -> Any:
    """Return a picture of smooth colours, of the clip's size: as no two tests have it."""
    width, height = SIZE
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.random.default_rng().uniform(0.05, 0.4, (3, 3))
    colours = [127 + 100 * np.sin(a * rows + b * columns + 9 * c) for a, b, c in waves]
    return np.stack(colours, axis=-1).astype(np.uint8)


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=pytest.mark.full if kind in SLOW else ()) for kind in KINDS]
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind = request.param
    folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
    recipe = {"name": "unipc", "sampler": "unipc", "steps": STEPS, "shift": SHIFT, "guidance": GUIDANCE}
    euler = recipe | {"name": "euler", "sampler": "euler"}
    width, height = SIZE
    defaults = {"width": width, "height": height, "frames": FRAMES, "fps": 8}
    extra = {"defaults": defaults, "recipes": [recipe, euler]}
    checkpoint = write_tiny_wan(folder / "checkpoint", begins=kind, vae_levels=3, extra=extra, **KINDS[kind])
    export_checkpoint(checkpoint, folder / "tiny.reel")
    with edgereel.load(folder / "tiny.reel") as reel:
        yield Pair(kind, reel, *pipelines(checkpoint, kind))


def pipelines(checkpoint: Path, kind: str) -> tuple[Any, Any]:
    kind_of_pipeline = WanVACEPipeline if kind == "vace" else WanImageToVideoPipeline
    with_picture: Any = kind_of_pipeline.from_pretrained(checkpoint).to(torch.float32)
    with_picture.set_progress_bar_config(disable=True)
    if kind != "held":
        return with_picture, None
    shared = {name: part for name, part in with_picture.components.items() if not name.startswith("image_")}
    with_words = WanPipeline(**shared, expand_timesteps=True)
    with_words.set_progress_bar_config(disable=True)
    return with_picture, with_words


def ends(pair: Pair) -> list[tuple[Any, Any]]:
    """Return the pictures (first, last) that clips of a checkpoint may have."""
    choices = {
        "held": [(None, None), (picture(), None)],
        "embeds": [(picture(), None)],
        "both ends": [(picture(), picture())],
        "condition": [(picture(), None), (picture(), picture())],
        "vace": [(None, None), (picture(), None), (None, picture()), (picture(), picture())],
    }
    return choices[pair.kind]


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_latents_and_frames_equal_diffusers(pair: Pair, sampler: str) -> None:
    for first, last in ends(pair):
        relative, psnr = pair.differences(sampler, first, last)
        assert relative <= LATENTS_LIMIT
        assert psnr >= FRAMES_LIMIT_DB


def _mask_of_the_last_picture(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    right = conditioning.mask_channels

    def wrong(rules: Any, flags: Any, *others: Any) -> Any:
        return right(rules, flags[::-1] if flags[0] != flags[-1] else 1 - flags, *others)

    monkeypatch.setattr(conditioning, "mask_channels", wrong)


def _first_flag_not_repeated(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    right = conditioning.mask_channels

    def wrong(rules: Any, flags: Any, *others: Any) -> Any:
        mask = right(rules, flags, *others)
        mask[:, 1:, 0] = 0
        return mask

    monkeypatch.setattr(conditioning, "mask_channels", wrong)


def _held_frame_not_put_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditioning.Known, "put_back", lambda self, latents: latents)


def _picture_normalised_twice(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    right = conditioning.PictureEncoder.latents
    config = pair.with_picture.vae.config
    mean, std = (np.float32(config[f"latents_{key}"]).reshape(1, -1, 1, 1, 1) for key in ("mean", "std"))
    monkeypatch.setattr(conditioning.PictureEncoder, "latents", lambda self, film: (right(self, film) - mean) / std)


def _pixels_normalised_twice(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    right = conditioning.fit_for_encoder

    def wrong(picture: Any, side: int, mean: Any, std: Any) -> Any:
        once = right(picture, side, mean, std)
        return (once - np.float32(mean).reshape(1, 3, 1, 1)) / np.float32(std).reshape(1, 3, 1, 1)

    monkeypatch.setattr(conditioning, "fit_for_encoder", wrong)


MISTAKES = {
    "held": (_held_frame_not_put_back, _picture_normalised_twice),
    "embeds": (
        _mask_of_the_last_picture, _first_flag_not_repeated, _picture_normalised_twice, _pixels_normalised_twice,
    ),
    "both ends": (_first_flag_not_repeated, _picture_normalised_twice, _pixels_normalised_twice),
    "condition": (_mask_of_the_last_picture, _picture_normalised_twice),
    "vace": (_mask_of_the_last_picture, _picture_normalised_twice),
}  # fmt: skip


def test_the_comparison_notices_a_mistake(pair: Pair) -> None:
    for mistake in MISTAKES[pair.kind]:
        first, last = ends(pair)[-1]
        with pytest.MonkeyPatch.context() as monkeypatch:
            mistake(pair, monkeypatch)
            relative, psnr = pair.differences("unipc", first, last)
        assert relative > LATENTS_LIMIT or psnr < FRAMES_LIMIT_DB, mistake.__name__
