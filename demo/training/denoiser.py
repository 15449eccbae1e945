"""Train the demo's text encoder and denoiser together, by flow matching on cached latents.

Flow matching as in Lipman et al. 2022 (arXiv 2210.02747) with the noise levels of Esser et al. 2024 (arXiv 2403.03206):
x_sigma = (1 - sigma) x0 + sigma eps, the model predicts eps - x0, sigma is logit-normal, then shifted. A tenth of the
captions is dropped, for classifier-free guidance.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from ..clips import Subject, render, split
from . import whole_clip
from .muon import muon_and_adamw, set_learning_rate
from .precision import mixed_precision
from .presets import Preset
from .run_folder import RunFolder
from .tokenizer import PAD, build_tokenizer
from .vae import learning_rate_factor, to_pictures, trained_vae

STAGE = "denoiser"
LATENTS_STAGE = "latents"
SAVE_EVERY = 500
LOG_EVERY = 50
EMA_DECAY = 0.998
_ENCODE_BATCH = 32


@dataclass
class Models:
    """The text encoder and the denoiser, trained as one."""

    text_encoder: Any
    transformer: Any

    def joined(self) -> torch.nn.ModuleDict:
        """Return both as one module, for optimizers and saving."""
        return torch.nn.ModuleDict({"text_encoder": self.text_encoder, "transformer": self.transformer})


def build_models(preset: Preset) -> Models:
    """Return freshly initialised models of the preset's configurations."""
    vocabulary = build_tokenizer().get_vocab_size()
    text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, **preset.text_encoder))
    return Models(text_encoder, WanTransformer3DModel(**preset.transformer))


class Captions:
    """Token ids of every phrasing of every training subject, ready to draw from."""

    def __init__(self, preset: Preset, training: list[Subject]) -> None:
        tokenizer = build_tokenizer()
        tokenizer.enable_padding(pad_token=PAD, pad_id=0, length=preset.max_tokens)
        texts = [subject.captions() for subject in training]
        self.phrasings = len(texts[0])
        flat = tokenizer.encode_batch([text for captions in texts for text in captions])
        self.ids = torch.tensor([encoding.ids for encoding in flat])
        self.empty = torch.tensor(tokenizer.encode("").ids)

    def draw(self, chosen: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
        """Return [B, max_tokens] ids: a random phrasing each, or the empty prompt with probability `dropout`."""
        phrasing = torch.randint(self.phrasings, chosen.shape, generator=generator)
        ids = self.ids[chosen * self.phrasings + phrasing]
        dropped = torch.rand(chosen.shape, generator=generator) < dropout
        return torch.where(dropped[:, None], self.empty, ids)


def embed(text_encoder: Any, ids: Tensor) -> Tensor:
    """Return prompt embeddings [B, L, D] of token ids, zero where padded, as WanPipeline makes them."""
    mask = (ids != 0).long()
    hidden = text_encoder(ids, mask).last_hidden_state
    return hidden * mask[..., None]  # type: ignore[no-any-return]


def load_vae(preset: Preset, run: RunFolder) -> Any:
    """Return the trained autoencoder; latent statistics are in its configuration once latents were cached."""
    configuration = dict(preset.vae)
    if latents := run.load(LATENTS_STAGE):
        configuration |= {"latents_mean": latents["mean"].tolist(), "latents_std": latents["std"].tolist()}
    vae = AutoencoderKLWan(**configuration)
    vae.load_state_dict(trained_vae(run))
    return vae.eval()


@torch.no_grad()
def cache_latents(preset: Preset, run: RunFolder, device: torch.device) -> None:
    """Render and encode the denoiser's training clips once: latents' means, the subjects they show, their statistics."""
    if run.load(LATENTS_STAGE) is not None:
        return
    vae = load_vae(preset, run).to(device)
    training, _ = split()
    rng = np.random.RandomState(preset.seed + 1)
    chosen = rng.permutation(preset.latent_clips) % len(training)
    latents = []
    for start in range(0, len(chosen), _ENCODE_BATCH):
        clips = np.stack(
            [
                render(training[i], rng, frames=preset.frames, height=preset.height, width=preset.width)
                for i in chosen[start : start + _ENCODE_BATCH]
            ]
        )
        with mixed_precision(device):
            mean, _ = whole_clip.encode(vae, to_pictures(clips, device))
        latents.append(mean.float().cpu())
        if start % (_ENCODE_BATCH * 64) == 0:
            run.log(LATENTS_STAGE, clips=start)
    stacked = torch.cat(latents)
    run.save(
        LATENTS_STAGE,
        {
            "latents": stacked.half(),
            "subjects": torch.from_numpy(chosen),
            "mean": stacked.mean(dim=(0, 2, 3, 4)),
            "std": stacked.std(dim=(0, 2, 3, 4)),
        },
    )


def draw_sigmas(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Return [count] noise levels in (0, 1): logit-normal, shifted towards noise."""
    sigma = torch.randn(count, generator=generator).sigmoid()
    return shift * sigma / (1 + (shift - 1) * sigma)


def train_denoiser(preset: Preset, run: RunFolder, device: torch.device, *, compiled: bool = True) -> bool:
    """Train until the preset's steps are done or the run's time is over; return whether they are done."""
    torch.manual_seed(preset.seed)
    models = build_models(preset)
    joined = models.joined().to(device)
    average = {name: value.detach().clone() for name, value in joined.state_dict().items()}
    optimizers = muon_and_adamw(joined, lr=preset.denoiser_learning_rate, vector_share=0.4)
    step = 0
    if state := run.load(STAGE):
        step = state["step"]
        if step >= preset.denoiser_steps:
            return True
        joined.load_state_dict(state["model"])
        average = {name: value.to(device) for name, value in state["average"].items()}
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    cached = run.load(LATENTS_STAGE)
    assert cached is not None
    scale = (1, -1, 1, 1, 1)
    latents = ((cached["latents"].float() - cached["mean"].view(scale)) / cached["std"].view(scale)).to(device)
    captions = Captions(preset, split()[0])
    velocity = torch.compile(velocity_of) if compiled else velocity_of
    # Autocast leaves RMSNorm's weights in float32, for which torch has no fused kernel, and says so at every step.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    started, losses = time.monotonic(), []
    while step < preset.denoiser_steps and not run.out_of_time():
        generator = torch.Generator().manual_seed(preset.seed + step)
        factor = learning_rate_factor(step, preset.denoiser_steps)
        set_learning_rate(optimizers, preset.denoiser_learning_rate * factor)
        chosen = torch.randint(len(latents), (preset.denoiser_batch,), generator=generator)
        ids = captions.draw(cached["subjects"][chosen], preset.caption_dropout, generator).to(device)
        sigma = draw_sigmas(len(chosen), preset.timestep_shift, generator).to(device)
        noise = torch.randn((len(chosen), *latents.shape[1:]), generator=generator)
        losses.append(_train_step(models, joined, optimizers, velocity, latents[chosen], noise.to(device), sigma, ids))
        follow(average, joined, min(EMA_DECAY, (step + 1) / (step + 10)))
        step += 1
        if step % LOG_EVERY == 0:
            run.log(STAGE, step=step, loss=float(np.mean(losses)), seconds=time.monotonic() - started)
            losses = []
        if step % SAVE_EVERY == 0 or step == preset.denoiser_steps or run.out_of_time():
            saved = [] if step == preset.denoiser_steps else [optimizer.state_dict() for optimizer in optimizers]
            run.save(STAGE, {"model": joined.state_dict(), "average": average, "optimizers": saved, "step": step})
    return step >= preset.denoiser_steps


def velocity_of(transformer: Any, noisy: Tensor, sigma: Tensor, embeddings: Tensor) -> Tensor:
    """Return the model's velocity [B, C, F, H, W] at noise levels sigma [B]; what is compiled in training."""
    return transformer(noisy, 1000 * sigma, embeddings, return_dict=False)[0]  # type: ignore[no-any-return]


def _train_step(
    models: Models,
    joined: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    velocity: Any,
    clean: Tensor,
    noise: Tensor,
    sigma: Tensor,
    ids: Tensor,
) -> float:
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * clean + level * noise
    # Attention over 80 tokens: the plain kernel's backward is several times faster than flash attention's on CPU.
    with (
        mixed_precision(clean.device),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        predicted = velocity(models.transformer, noisy, sigma, embed(models.text_encoder, ids))
        loss = (predicted.float() - (noise - clean)).square().mean()
        joined.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(joined.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def follow(average: dict[str, Tensor], model: torch.nn.Module, decay: float) -> None:
    """Move the average of a model's weights towards the model by the share 1 - decay."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
