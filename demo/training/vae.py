"""Train the demo's autoencoder: pictures in, pictures out, through a narrow Gaussian bottleneck.

Encoder and decoder first; once the encoder's latents are what the denoiser learns from, the decoder alone goes on.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F

from ..clips import render, split
from . import whole_clip
from .muon import muon_and_adamw, set_learning_rate
from .precision import mixed_precision
from .presets import Preset
from .run_folder import RunFolder

STAGE = "vae"
DECODER_STAGE = "decoder"
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
    """Train encoder and decoder until the preset's steps are done or time is over; return whether they are done."""
    return _train(preset, run, device, Stage(STAGE, preset.vae_steps, preset.vae_learning_rate, noise=1.0))


def train_decoder(preset: Preset, run: RunFolder, device: torch.device) -> bool:
    """Go on with the decoder alone, on nearly noiseless latents, which the denoiser's training does not depend on.

    Returns whether the preset's steps are done.
    """
    stage = Stage(DECODER_STAGE, preset.decoder_steps, 0.4 * preset.vae_learning_rate, noise=0.3, decoder_only=True)
    return _train(preset, run, device, stage)


def trained_vae(run: RunFolder) -> dict[str, Tensor]:
    """Return the weights of the furthest stage so far. Raises RuntimeError where there is none."""
    state = run.load(DECODER_STAGE) or run.load(STAGE)
    if state is None:
        raise RuntimeError(f"train the autoencoder first: {run.folder} has none")
    weights: dict[str, Tensor] = state["model"]
    return weights


@dataclass(frozen=True)
class Stage:
    """One pass of training. noise: share of the posterior's deviation that is added to the latents' means."""

    name: str
    steps: int
    learning_rate: float
    noise: float
    decoder_only: bool = False


def _train(preset: Preset, run: RunFolder, device: torch.device, stage: Stage) -> bool:
    torch.manual_seed(preset.seed)
    vae = AutoencoderKLWan(**preset.vae).to(device)
    if stage.decoder_only:
        vae.load_state_dict(trained_vae(run))
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    channels_last(vae)
    optimizers = muon_and_adamw(vae, lr=stage.learning_rate)
    step = 0
    if state := run.load(stage.name):
        step = state["step"]
        if step >= stage.steps:
            return True
        vae.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    pool = render_clips(preset, preset.vae_pool, preset.seed)
    started = time.monotonic()
    while step < stage.steps and not run.out_of_time():
        # Everything random in a step comes from its number, so that a resumed run is the same run.
        generator = torch.Generator().manual_seed(preset.seed + step)
        chosen = torch.randint(len(pool), (preset.vae_batch,), generator=generator).numpy()
        set_learning_rate(optimizers, stage.learning_rate * learning_rate_factor(step, stage.steps))
        clips = pool[chosen]
        if not stage.decoder_only and step < stage.steps * SHORT_SHARE:
            start = int(torch.randint(preset.frames - preset.vae_window + 1, (), generator=generator))
            clips = clips[:, start : start + preset.vae_window]
        pictures = to_pictures(clips, device)
        loss, error, kl = _train_step(vae, optimizers, pictures, generator, preset.kl_weight, stage.noise)
        step += 1
        if step % LOG_EVERY == 0:
            seconds = time.monotonic() - started
            run.log(stage.name, step=step, loss=loss, psnr=10 * math.log10(4 / error), kl=kl, seconds=seconds)
        if step % SAVE_EVERY == 0 or step == stage.steps or run.out_of_time():
            # A finished stage only hands its weights on.
            saved = [] if step == stage.steps else [optimizer.state_dict() for optimizer in optimizers]
            run.save(stage.name, {"model": vae.state_dict(), "optimizers": saved, "step": step})
    return step >= stage.steps


def _train_step(
    vae: Any,
    optimizers: list[torch.optim.Optimizer],
    pictures: Tensor,
    generator: torch.Generator,
    kl_weight: float,
    noise_share: float,
) -> tuple[float, float, float]:
    with mixed_precision(pictures.device):
        mean, log_variance = whole_clip.encode(vae, pictures)
        mean, log_variance = mean.float(), log_variance.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        decoded = whole_clip.decode(vae, mean + noise_share * noise * (0.5 * log_variance).exp()).float()
    error = F.mse_loss(decoded, pictures)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss = error + 0.02 * F.l1_loss(decoded, pictures) + kl_weight * kl
    vae.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item(), error.item(), kl.item()
