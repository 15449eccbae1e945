"""Make films in torch as the runtime will: chunk after chunk, each sampled in sight of the one before it, then remembered.

Text to video is the first chunk, made from nothing; picture to video begins with a remembered picture; every later chunk
is a continuation. The context is what the last chunk left: `Growth.chunk` frames at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...runtime.sampling.samplers import sample_unipc
from ...runtime.sampling.schedules import unipc_schedule
from ..training.denoiser import embed
from ..training.distill import student_levels
from .context import Context, denoise
from .latents import Tokens

Sampler = Callable[[Any, Tensor, Tensor, Tensor, "Context | None"], Tensor]


@dataclass(frozen=True)
class FewSteps:
    """A student's sampler: Euler steps, told the middle of each."""

    steps: int
    shift: float

    def __call__(
        self, transformer: Any, noise: Tensor, texts: Tensor, silent: Tensor, context: Context | None
    ) -> Tensor:
        """Return clean latents of noise [B, C, F, h, w] for embeddings `texts` [B, L, D]; `silent` is not used."""
        sigmas, timesteps = student_levels(self.steps, self.shift)
        latents = noise
        for sigma, following, timestep in zip(sigmas, [*sigmas[1:], 0.0], timesteps, strict=True):
            predicted, _ = denoise(transformer, latents, torch.full((len(noise),), timestep), texts, context)
            latents = latents + (following - sigma) * predicted
        return latents


@dataclass(frozen=True)
class Guided:
    """The teacher's sampler: UniPC, guided away from what the empty prompt gives in the same context."""

    steps: int
    shift: float
    guidance: float

    def __call__(
        self, transformer: Any, noise: Tensor, texts: Tensor, silent: Tensor, context: Context | None
    ) -> Tensor:
        """Return clean latents of noise [B, C, F, h, w]; texts, silent: embeddings [B, L, D] of the prompts and of none."""

        def velocity(noisy: Any, timestep: float, _sigma: float) -> Any:
            latents, level = torch.from_numpy(noisy), torch.full((len(noise),), float(timestep))
            prompted, _ = denoise(transformer, latents, level, texts, context)
            if self.guidance == 1:
                return prompted.numpy()
            free, _ = denoise(transformer, latents, level, silent, context)
            return (free + self.guidance * (prompted - free)).numpy()

        return torch.from_numpy(sample_unipc(velocity, noise.numpy(), unipc_schedule(self.steps, self.shift)))


class Roller:
    """Rolls films out with one denoiser, text encoder and sampler. chunk: latent frames of a chunk and of the context."""

    def __init__(self, transformer: Any, text_encoder: Any, sampler: Sampler, chunk: int, max_tokens: int) -> None:
        self._transformer, self._text_encoder, self._sampler, self._chunk = transformer, text_encoder, sampler, chunk
        self._tokens = Tokens(max_tokens)

    @torch.no_grad()
    def roll(
        self,
        prompts: Sequence[Sequence[str]],
        seeds: Sequence[int],
        size: tuple[int, int],
        picture: Tensor | None = None,
    ) -> Tensor:
        """Return latents [B, C, F, h, w] of films whose chunks have the prompts [chunks][B].

        size: (width, height) in pixels. picture: latents [B, C, 1, h, w] that the films begin with.
        """
        noises = [np.random.RandomState(np.random.MT19937(seed)) for seed in seeds]
        silent = embed(self._text_encoder, self._tokens([""] * len(seeds)))
        channels, (width, height) = self._transformer.config.in_channels, size
        done: list[Tensor] = []
        context: Context | None = None
        for index, texts in enumerate(prompts):
            embeddings = embed(self._text_encoder, self._tokens(list(texts)))
            frames = self._chunk
            if index == 0 and picture is not None:
                context = self._remember(picture, embeddings, None)
                done.append(picture)
                frames -= 1
            shape = (channels, frames, height // 16, width // 16)
            drawn = np.stack([noise.standard_normal(shape).astype(np.float32) for noise in noises])
            latents = self._sampler(self._transformer, torch.from_numpy(drawn), embeddings, silent, context)
            done.append(latents)
            if index + 1 < len(prompts):
                left = self._remember(latents, embeddings, context)
                context = (left if context is None else context.then(left)).last(self._chunk)
        return torch.cat(done, dim=2)

    def _remember(self, latents: Tensor, embeddings: Tensor, context: Context | None) -> Context:
        return denoise(self._transformer, latents, torch.zeros(len(latents)), embeddings, context)[1]
