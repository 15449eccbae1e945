"""Tune the full decoder on films whose latents are cached, and train the tiny one on its pictures: the encoder stays as it is.

Films are decoded whole: what a decoder remembers after many frames is not what it has at a clip's beginning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..films import render_film
from ..training import whole_clip
from ..training.muon import muon_and_adamw, set_learning_rate
from ..training.precision import mixed_precision
from ..training.run_folder import RunFolder
from ..training.vae import to_pictures
from .autoencoder import open_autoencoder
from .latents import Piece, draw_films, load_piece
from .presets import Growth, learning_rate_factor
from .rollouts import STAGE as ROUNDS
from .rollouts import load_round
from .tiny_decoder import TinyDecoder

FULL_STAGE, TINY_STAGE = "decoder", "tiny_decoder"
SAVE_EVERY = 50
LOG_EVERY = 10
# How often the tiny decoder sees films that the student made, where there are any, and how many batches of one draw.
_STUDENTS_SHARE = 0.6
_BATCHES_OF_ONE = 8


def open_full_decoder(growth: Growth, run: RunFolder) -> Any:
    """Return the autoencoder with its decoder as far as the run has tuned it."""
    vae = open_autoencoder(growth, run)
    if state := run.load(FULL_STAGE):
        vae.load_state_dict(state["model"])
    return vae


def open_tiny_decoder(growth: Growth, run: RunFolder) -> TinyDecoder:
    """Return the tiny decoder's averaged weights, as far as the run has trained it."""
    tiny = _beginning(growth, open_autoencoder(growth, run).config.z_dim)
    if state := run.load(TINY_STAGE):
        tiny.load_state_dict(state["average"])
    return tiny.eval()


def _beginning(growth: Growth, channels: int) -> TinyDecoder:
    """Return a new tiny decoder, or the one that is trained on, in float32."""
    tiny = TinyDecoder(channels)
    if growth.goes_on:
        weights = load_file(growth.checkpoint.parent / "tiny_decoder" / "diffusion_pytorch_model.safetensors")
        tiny.load_state_dict({name: value.float() for name, value in weights.items()})
    return tiny


def train_full_decoder(growth: Growth, run: RunFolder) -> bool:
    """Tune the decoder until the steps are done or the run's time is over; return whether they are done."""
    vae = open_full_decoder(growth, run)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    schedule = Schedule(growth.decoder_steps, growth.decoder_learning_rate)
    return _train(growth, run, FULL_STAGE, vae, partial(_decode, vae), draw_pictures(growth, run), schedule)


def train_tiny_decoder(growth: Growth, run: RunFolder) -> bool:
    """Train the tiny decoder until the steps are done or the run's time is over; return whether they are done."""
    torch.manual_seed(growth.seed)
    vae = open_full_decoder(growth, run).requires_grad_(False)
    tiny = _beginning(growth, vae.config.z_dim)

    def decode(latents: Tensor) -> Tensor:
        with mixed_precision(latents.device):
            pictures: Tensor = tiny(latents)[0]
        return pictures.float() * 2 - 1

    def films(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        for latents in _draw_latents(growth, run, step):
            with torch.no_grad():
                pictures = _decode(vae, latents).clamp(-1, 1)
            yield latents, pictures

    schedule = Schedule(growth.tiny_decoder_steps, growth.tiny_learning_rate)
    return _train(growth, run, TINY_STAGE, tiny, decode, films, schedule)


def _decode(vae: Any, latents: Tensor) -> Tensor:
    """Return pictures [B, 3, T, H, W] in [-1, 1], not clamped, of normalised latents."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    with mixed_precision(latents.device):
        return whole_clip.decode(vae, latents * deviation + mean).float()


@dataclass(frozen=True)
class Schedule:
    """How many steps a decoder is trained, and its peak learning rate."""

    steps: int
    learning_rate: float


def _train(
    growth: Growth,
    run: RunFolder,
    stage: str,
    model: torch.nn.Module,
    decode: Callable[[Tensor], Tensor],
    films: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    schedule: Schedule,
) -> bool:
    """Learn to decode films, latents and pictures from a step on; what is saved is both the weights and their average."""
    optimizers = muon_and_adamw(model, lr=schedule.learning_rate)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    step = 0
    if state := run.load(stage):
        step = state["step"]
        if step >= schedule.steps:
            return True
        model.load_state_dict(state["model"])
        average = state["average"]
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    drawn = films(step)
    started, errors = time.monotonic(), []
    while step < schedule.steps and not run.out_of_time():
        set_learning_rate(optimizers, schedule.learning_rate * learning_rate_factor(step, schedule.steps, 20))
        latents, pictures = next(drawn)
        difference = decode(latents) - pictures
        error = difference.square().mean()
        loss = error + 0.02 * difference.abs().mean()
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        errors.append(float(error.detach()))
        decay = min(0.98, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        step += 1
        if step % LOG_EVERY == 0:
            psnr = 10 * math.log10(4 / float(np.mean(errors)))
            run.log(stage, step=step, psnr=psnr, seconds=time.monotonic() - started)
            errors = []
        if step % SAVE_EVERY == 0 or step == schedule.steps or run.out_of_time():
            saved = [optimizer.state_dict() for optimizer in optimizers]
            run.save(stage, {"model": model.state_dict(), "average": average, "optimizers": saved, "step": step})
    return step >= schedule.steps


def draw_pictures(growth: Growth, run: RunFolder) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """Return what yields, from a step on, normalised latents [B, C, F, h, w] and the pictures [B, 3, T, H, W] they are of."""

    def films(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            index, piece, _ = _draw_piece(growth, run, step)
            width, height = growth.formats[index % len(growth.formats)]
            drawn, rng = draw_films(growth, index)
            for start in range(0, len(drawn), growth.decoder_batch):
                some = drawn[start : start + growth.decoder_batch]
                clips = np.stack([render_film(film, rng, height=height, width=width) for film in some])
                yield piece.latents[start : start + len(some)].float(), to_pictures(clips, torch.device("cpu"))
                step += 1

    return films


def _draw_latents(growth: Growth, run: RunFolder, step: int) -> Iterator[Tensor]:
    """Yield normalised latents [B, C, F, h, w] of films, from a step on: true ones, and such as the student made."""
    while True:
        _, piece, rng = _draw_piece(growth, run, step)
        rounds = [index for index in range(growth.rounds) if (run.folder / f"{ROUNDS}_{index:03}.state").exists()]
        latents = piece.latents
        if rounds and rng.uniform() < _STUDENTS_SHARE:
            groups = load_round(run, rounds[rng.randint(len(rounds))])
            assert groups is not None
            # What is remembered before the third chunk is a film from its beginning.
            latents = torch.cat([made for made, _ in groups[2].before], dim=2)
        for _ in range(min(len(latents) // growth.tiny_batch, _BATCHES_OF_ONE)):
            yield latents[torch.from_numpy(rng.permutation(len(latents))[: growth.tiny_batch])].float()
            step += 1


def _draw_piece(growth: Growth, run: RunFolder, step: int) -> tuple[int, Piece, np.random.RandomState]:
    """Return the number of a cached piece, the piece, and random numbers: a step's own."""
    rng = np.random.RandomState(growth.seed + step)
    there = [index for index in range(growth.film_pieces) if (run.folder / f"films_{index:03}.state").exists()]
    index = there[rng.randint(len(there))]
    piece = load_piece(run, index)
    assert piece is not None
    return index, piece, rng
