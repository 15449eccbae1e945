"""Tune the full decoder, and train the tiny one, on films whose latents are cached: the encoder stays as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..films import FIRST, render_film
from ..training import whole_clip
from ..training.muon import muon_and_adamw, set_learning_rate
from ..training.run_folder import RunFolder
from ..training.vae import to_pictures
from .autoencoder import open_autoencoder
from .latents import Piece, draw_films, load_piece
from .presets import Growth, learning_rate_factor
from .tiny_decoder import TinyDecoder

FULL_STAGE, TINY_STAGE = "decoder", "tiny_decoder"
SAVE_EVERY = 50
LOG_EVERY = 10
# Latent frames of a window; of one from the middle of a film, so many pictures are not learned from, since what the
# decoder would remember before them is missing.
WINDOW = 5
_UNSURE = 5


def open_full_decoder(growth: Growth, run: RunFolder) -> Any:
    """Return the autoencoder with its decoder as far as the run has tuned it."""
    vae = open_autoencoder(growth, run)
    if state := run.load(FULL_STAGE):
        vae.load_state_dict(state["model"])
    return vae


def open_tiny_decoder(growth: Growth, run: RunFolder) -> TinyDecoder:
    """Return the tiny decoder's averaged weights, as far as the run has trained it."""
    tiny = TinyDecoder(open_autoencoder(growth, run).config.z_dim)
    if state := run.load(TINY_STAGE):
        tiny.load_state_dict(state["average"])
    return tiny.eval()


def train_full_decoder(growth: Growth, run: RunFolder) -> bool:
    """Tune the decoder until the steps are done or the run's time is over; return whether they are done."""
    vae = open_full_decoder(growth, run)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    config = vae.config
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)

    def decode(latents: Tensor) -> Tensor:
        return whole_clip.decode(vae, latents * deviation + mean)

    return _train(
        growth, run, FULL_STAGE, vae, decode, growth.decoder_steps, growth.decoder_learning_rate, growth.decoder_batch
    )


def train_tiny_decoder(growth: Growth, run: RunFolder) -> bool:
    """Train the tiny decoder until the steps are done or the run's time is over; return whether they are done."""
    torch.manual_seed(growth.seed)
    tiny = TinyDecoder(open_autoencoder(growth, run).config.z_dim)

    def decode(latents: Tensor) -> Tensor:
        pictures: Tensor = tiny(latents)[0] * 2 - 1
        return pictures

    return _train(
        growth, run, TINY_STAGE, tiny, decode, growth.tiny_decoder_steps, growth.tiny_learning_rate, growth.tiny_batch
    )


def _train(
    growth: Growth,
    run: RunFolder,
    stage: str,
    model: torch.nn.Module,
    decode: Callable[[Tensor], Tensor],
    steps: int,
    learning_rate: float,
    batch: int,
) -> bool:
    """Learn to decode windows of cached films; what is saved is both the weights and their average."""
    optimizers = muon_and_adamw(model, lr=learning_rate)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    step = 0
    if state := run.load(stage):
        step = state["step"]
        if step >= steps:
            return True
        model.load_state_dict(state["model"])
        average = state["average"]
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    windows = draw_windows(growth, run, batch, step)
    started, errors = time.monotonic(), []
    while step < steps and not run.out_of_time():
        set_learning_rate(optimizers, learning_rate * learning_rate_factor(step, steps, warmup=20))
        latents, pictures, sure = next(windows)
        decoded = decode(latents)
        difference = (decoded - pictures)[:, :, sure:]
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
        if step % SAVE_EVERY == 0 or step == steps or run.out_of_time():
            saved = [optimizer.state_dict() for optimizer in optimizers]
            run.save(stage, {"model": model.state_dict(), "average": average, "optimizers": saved, "step": step})
    return step >= steps


def draw_windows(growth: Growth, run: RunFolder, batch: int, step: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield latents, their pictures and how many of those are unsure; each film gives two windows, its first and another."""
    while True:
        pieces = [index for index in range(growth.film_pieces) if load_piece(run, index) is not None]
        rng = np.random.RandomState(growth.seed + step)
        index = pieces[rng.randint(len(pieces))]
        piece = load_piece(run, index)
        assert piece is not None
        for films, clips in _rendered(growth, index, piece, batch):
            pictures = to_pictures(clips, torch.device("cpu"))
            yield films[:, :, :WINDOW].float(), pictures[:, :, :FIRST], 0
            start = rng.randint(1, films.shape[2] - WINDOW + 1)
            first = 4 * start
            window = pictures[:, :, first : first + 4 * WINDOW - 3]
            yield films[:, :, start : start + WINDOW].float(), window, _UNSURE
            step += 2


def _rendered(growth: Growth, index: int, piece: Piece, batch: int) -> Iterator[tuple[Tensor, NDArray[np.uint8]]]:
    """Yield a piece's films as they were rendered for it, with their latents."""
    width, height = growth.formats[index % len(growth.formats)]
    films, rng = draw_films(growth, index)
    clips = []
    for number, film in enumerate(films):
        clips.append(render_film(film, rng, height=height, width=width))
        if len(clips) == batch:
            yield piece.latents[number + 1 - batch : number + 1], np.stack(clips)
            clips = []
