"""A training's model as something that makes films, so that it is measured as bundles are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..gauges import Clips, Figures, true_clips
from ..training.denoiser import Models
from ..training.run_folder import RunFolder
from ..training.vae import to_pictures
from .decoders import open_full_decoder, open_tiny_decoder
from .latents import decode_latents, encode_pictures, to_uint8
from .presets import Growth
from .rolling import FewSteps, Guided, Roller, Sampler
from .student import open_student
from .teacher import open_teacher
from .tiny_decoder import TinyDecoder

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Candidate:
    """A denoiser with its sampler, and the decoder of its latents: a FilmMaker."""

    growth: Growth
    models: Models
    sampler: Sampler
    vae: Any
    decode: Decode

    def roller(self) -> Roller:
        """Return what rolls its films out."""
        return Roller(
            self.models.transformer, self.models.text_encoder, self.sampler, self.growth.chunk, self.growth.max_tokens
        )

    def films(
        self,
        prompts: Sequence[Sequence[str]],
        seeds: Sequence[int],
        size: tuple[int, int],
        pictures: Clips | None = None,
    ) -> Clips:
        """See FilmMaker."""
        first = None if pictures is None else encode_pictures(self.vae, to_pictures(pictures[:, None], _CPU))
        films: Clips = to_uint8(self.decode(self.roller().roll(prompts, seeds, size, first)))
        return films

    def tiny(self, run: RunFolder) -> Candidate:
        """Return the same with the run's tiny decoder."""
        return replace(self, decode=partial(decode_tiny, open_tiny_decoder(self.growth, run)))


_CPU = torch.device("cpu")


def candidate(growth: Growth, run: RunFolder, name: str) -> Candidate:
    """Return `teacher:STEPS` or `student:STEPS` of a run."""
    kind, _, steps = name.partition(":")
    models, vae = open_teacher(growth, run), open_full_decoder(growth, run)
    sampler: Sampler = Guided(int(steps), growth.sampling_shift, growth.guidance)
    if kind == "student":
        models = Models(models.text_encoder, open_student(growth, run, models))
        sampler = FewSteps(int(steps), growth.sampling_shift)
    elif kind != "teacher":
        raise SystemExit(f"{name}: write teacher:STEPS or student:STEPS")
    return Candidate(growth, models, sampler, vae, partial(decode_latents, vae))


@torch.no_grad()
def decode_tiny(tiny: TinyDecoder, latents: Tensor) -> Tensor:
    """Return pictures in [-1, 1] as the full decoder gives them."""
    pictures: Tensor = tiny(latents)[0].clamp(0, 1) * 2 - 1
    return pictures


def autoencoder(made: Candidate, run: RunFolder, size: tuple[int, int], clips: int) -> Figures:
    """Return the PSNR of true clips through encoder and full decoder, and through the tiny one."""
    errors: dict[str, list[float]] = {"full": [], "tiny": []}
    decoders = {"full": made.decode, "tiny": made.tiny(run).decode}
    for clip in true_clips(size, clips):
        pictures = to_pictures(clip[None], _CPU)
        latents = encode_pictures(made.vae, pictures)
        for name, decode in decoders.items():
            errors[name].append((decode(latents) - pictures).square().mean().item())
    return {f"{name}_psnr": float(10 * np.log10(4 / np.mean(each))) for name, each in errors.items()}
