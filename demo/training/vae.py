"""Train the demo's autoencoder: pictures in, pictures out, through a narrow Gaussian bottleneck."""

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
from . import whole_clip
from .muon import muon_and_adamw, set_learning_rate
from .presets import Preset
from .run_folder import RunFolder

STAGE = "vae"
SAVE_EVERY = 500
LOG_EVERY = 50
# The first steps see short windows of the clips, at half the price; the last ones whole clips, as at inference.
SHORT_SHARE = 0.75


def learning_rate_factor(step: int, steps: int, warmup: int = 100) -> float:
    """Return the fraction of the peak learning rate at a step: linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def channels_last(model: torch.nn.Module) -> None:
    """Lay convolution weights out channels-last, which makes 3D convolutions 1.5 times faster on CPU."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def render_clips(preset: Preset, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return uint8 [count, frames, height, width, 3]: random clips of training subjects."""
    rng = np.random.RandomState(seed)
    training, _ = split()
    size = {"frames": preset.frames, "height": preset.height, "width": preset.width}
    chosen = rng.randint(len(training), size=count)
    return np.stack([render(training[index], rng, **size) for index in chosen])


def to_pictures(clips: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device) -> Tensor:
    """Return float32 [B, 3, frames, height, width] in [-1, 1] of uint8 [B, frames, height, width, 3]."""
    pictures = torch.from_numpy(clips).to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return pictures.contiguous(memory_format=torch.channels_last_3d)


def train_vae(preset: Preset, run: RunFolder, device: torch.device) -> bool:
    """Train until the preset's steps are done or the run's time is over; return whether they are done."""
    torch.manual_seed(preset.seed)
    vae = AutoencoderKLWan(**preset.vae).to(device)
    channels_last(vae)
    optimizers = muon_and_adamw(vae, lr=preset.vae_learning_rate)
    step = 0
    if state := run.load(STAGE):
        vae.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step = state["step"]
    if step >= preset.vae_steps:
        return True
    pool = render_clips(preset, preset.vae_pool, preset.seed)
    started = time.monotonic()
    while step < preset.vae_steps and not run.out_of_time():
        # Everything random in a step comes from its number, so that a resumed run is the same run.
        generator = torch.Generator().manual_seed(preset.seed + step)
        chosen = torch.randint(len(pool), (preset.vae_batch,), generator=generator).numpy()
        set_learning_rate(optimizers, preset.vae_learning_rate * learning_rate_factor(step, preset.vae_steps))
        clips = pool[chosen]
        if step < preset.vae_steps * SHORT_SHARE:
            start = int(torch.randint(preset.frames - preset.vae_window + 1, (), generator=generator))
            clips = clips[:, start : start + preset.vae_window]
        loss, error, kl = _train_step(vae, optimizers, to_pictures(clips, device), generator, preset.kl_weight)
        step += 1
        if step % LOG_EVERY == 0:
            seconds = time.monotonic() - started
            run.log(STAGE, step=step, loss=loss, psnr=10 * math.log10(4 / error), kl=kl, seconds=seconds)
        if step % SAVE_EVERY == 0 or step == preset.vae_steps or run.out_of_time():
            saved = [optimizer.state_dict() for optimizer in optimizers]
            run.save(STAGE, {"model": vae.state_dict(), "optimizers": saved, "step": step})
    return step >= preset.vae_steps


def _train_step(
    vae: Any, optimizers: list[torch.optim.Optimizer], pictures: Tensor, generator: torch.Generator, kl_weight: float
) -> tuple[float, float, float]:
    with torch.autocast(pictures.device.type, dtype=torch.bfloat16):
        mean, log_variance = whole_clip.encode(vae, pictures)
        mean, log_variance = mean.float(), log_variance.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        decoded = whole_clip.decode(vae, mean + noise * (0.5 * log_variance).exp()).float()
    error = F.mse_loss(decoded, pictures)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss = error + 0.02 * F.l1_loss(decoded, pictures) + kl_weight * kl
    vae.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item(), error.item(), kl.item()
