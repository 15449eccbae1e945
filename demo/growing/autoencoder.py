"""Tune the small autoencoder to the larger formats: the same weights see objects twice as many pixels wide.

First encoder and decoder together; once latents were cached for the denoiser, the decoder alone goes on.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F

from ..clips import render, split
from ..training import whole_clip
from ..training.muon import muon_and_adamw, set_learning_rate
from ..training.run_folder import RunFolder
from ..training.vae import channels_last, to_pictures
from .presets import Growth, learning_rate_factor

STAGE = "autoencoder"
SAVE_EVERY = 50
LOG_EVERY = 10


def open_autoencoder(growth: Growth, run: RunFolder) -> Any:
    """Return the autoencoder as far as the run has tuned it, in float32; the checkpoint's own before that."""
    vae = AutoencoderKLWan.from_pretrained(growth.checkpoint / "vae", torch_dtype=torch.float32)
    if state := run.load(STAGE):
        vae.load_state_dict(state["model"])
    channels_last(vae)
    return vae.eval()


def train_autoencoder(growth: Growth, run: RunFolder) -> bool:
    """Train until the steps are done or the run's time is over; return whether they are done."""
    vae = open_autoencoder(growth, run)
    optimizers = muon_and_adamw(vae, lr=growth.autoencoder_learning_rate)
    step = 0
    if state := run.load(STAGE):
        step = state["step"]
        if step >= growth.autoencoder_steps:
            return True
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    started, errors = time.monotonic(), []
    while step < growth.autoencoder_steps and not run.out_of_time():
        factor = learning_rate_factor(step, growth.autoencoder_steps, warmup=20)
        set_learning_rate(optimizers, growth.autoencoder_learning_rate * factor)
        pictures = draw_windows(growth, step, frames=9 if step % 3 == 0 else 5)
        generator = torch.Generator().manual_seed(growth.seed + step)
        errors.append(_train_step(vae, optimizers, pictures, generator))
        step += 1
        if step % LOG_EVERY == 0:
            psnr = 10 * math.log10(4 / float(np.mean(errors)))
            run.log(STAGE, step=step, psnr=psnr, seconds=time.monotonic() - started)
            errors = []
        if step % SAVE_EVERY == 0 or step == growth.autoencoder_steps or run.out_of_time():
            saved = [optimizer.state_dict() for optimizer in optimizers]
            run.save(STAGE, {"model": vae.state_dict(), "optimizers": saved, "step": step})
    return step >= growth.autoencoder_steps


def draw_windows(growth: Growth, step: int, frames: int) -> Tensor:
    """Return pictures [B, 3, frames, H, W] of random clips, one format after the other; all randomness comes from `step`."""
    rng = np.random.RandomState((growth.seed + 7919 * step) % 2**32)
    training, _ = split()
    width, height = growth.formats[step % len(growth.formats)]
    clips = []
    for _ in range(growth.autoencoder_batch):
        clip = render(training[rng.randint(len(training))], rng, frames=17, height=height, width=width)
        start = rng.randint(17 - frames + 1)
        clips.append(clip[start : start + frames])
    return to_pictures(np.stack(clips), torch.device("cpu"))


def _train_step(
    vae: Any, optimizers: list[torch.optim.Optimizer], pictures: Tensor, generator: torch.Generator
) -> float:
    mean, log_variance = whole_clip.encode(vae, pictures)
    noise = torch.randn(mean.shape, generator=generator)
    decoded = whole_clip.decode(vae, mean + noise * (0.5 * log_variance).exp())
    error = F.mse_loss(decoded, pictures)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss = error + 0.02 * F.l1_loss(decoded, pictures) + 1e-4 * kl
    vae.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return float(error.detach())
