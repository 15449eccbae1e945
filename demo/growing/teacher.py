"""Train one denoiser for all uses: text to video, picture to video, and the chunk after a chunk.

Flow matching as in `training/denoiser.py`, by teacher forcing: of each film, chunks 0 and 1 are remembered as the runtime
remembers them (one call on the clean chunk at timestep 0 that itself sees the chunk before it), and chunks 0, 1 and 2 are
denoised, each in sight of the chunk before it. Chunk 0 is denoised from nothing, or from its first picture. The context
carries a little noise, so that the model does not trust its own small errors later (as GameNGen, arXiv 2408.14837).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from ..training.denoiser import Models, draw_sigmas, embed, follow
from ..training.muon import muon_and_adamw, set_learning_rate
from ..training.precision import mixed_precision
from ..training.run_folder import RunFolder
from ..training.tokenizer import NEW_WORDS, build_tokenizer
from .autoencoder import open_autoencoder
from .context import denoise, stack
from .latents import CLIPS, FILMS, Piece, Tokens, cache_piece, load_piece
from .presets import Growth, learning_rate_factor

STAGE = "teacher"
SAVE_EVERY = 50
LOG_EVERY = 20
EMA_DECAY = 0.99
_LIKE = {"it": "ball", "then": "and"}
# One step in so many is of single clips, which take half the time; the others are of films.
_CLIP_EVERY = 4
# How often a chunk 0 that could come from nothing begins with its first picture.
_PICTURE_SHARE = 0.3
# How often chunks are remembered with the prompt of what follows.
ANEW_SHARE = 0.4


def open_models(growth: Growth) -> Models:
    """Return the checkpoint's text encoder, with room for the new words, and denoiser, both in float32."""
    text_encoder = UMT5EncoderModel.from_pretrained(growth.checkpoint / "text_encoder", dtype=torch.float32)
    vocabulary = build_tokenizer().get_vocab()
    missing = len(vocabulary) - text_encoder.config.vocab_size
    if missing > 0:
        text_encoder.resize_token_embeddings(len(vocabulary), mean_resizing=False)
        weight = text_encoder.get_input_embeddings().weight
        with torch.no_grad():
            for word in NEW_WORDS[-missing:]:
                weight[vocabulary[word]] = weight[vocabulary[_LIKE[word]]]
    transformer = WanTransformer3DModel.from_pretrained(growth.checkpoint / "transformer", torch_dtype=torch.float32)
    return Models(text_encoder, transformer)


def open_teacher(growth: Growth, run: RunFolder) -> Models:
    """Return the averaged weights that the run has reached, frozen."""
    models = open_models(growth)
    if state := run.load(STAGE):
        models.joined().load_state_dict(state["average"])
    models.joined().eval().requires_grad_(False)
    return models


def train_teacher(growth: Growth, run: RunFolder) -> bool:
    """Train until the steps are done or the run's time is over; return whether they are done."""
    models = open_models(growth)
    joined = models.joined()
    average = {name: value.detach().clone() for name, value in joined.state_dict().items()}
    optimizers = muon_and_adamw(joined, lr=growth.teacher_learning_rate, vector_share=0.4)
    step = 0
    if state := run.load(STAGE):
        step = state["step"]
        if step >= growth.teacher_steps:
            return True
        joined.load_state_dict(state["model"])
        average = state["average"]
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    vae, empty = open_autoencoder(growth, run), Tokens(growth.max_tokens).empty
    if step >= growth.text_steps:
        models.text_encoder.requires_grad_(False)
    pieces: dict[str, list[Piece]] = {FILMS: [], CLIPS: []}
    started, losses = time.monotonic(), []
    while step < growth.teacher_steps and not run.out_of_time():
        kind = FILMS if step % _CLIP_EVERY else CLIPS
        _fill(growth, run, kind, pieces[kind], step, vae)
        rng = np.random.RandomState(growth.seed + 977 * step)
        generator = torch.Generator().manual_seed(growth.seed + step)
        factor = learning_rate_factor(step, growth.teacher_steps, warmup=40)
        set_learning_rate(optimizers, growth.teacher_learning_rate * factor)
        piece = pieces[kind][rng.randint(len(pieces[kind]))]
        losses_of = _film_losses if kind == FILMS else _clip_losses
        with mixed_precision(torch.device("cpu")):
            loss, parts = losses_of(growth, models, piece, empty, rng, generator)
        joined.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(joined.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(parts)
        follow(average, joined, min(EMA_DECAY, (step + 1) / (step + 10)))
        step += 1
        if step == growth.text_steps:
            _keep_text_encoder(models, average)
        if step % LOG_EVERY == 0:
            means = {name: float(np.mean([part[name] for part in losses if name in part])) for name in _names(losses)}
            run.log(STAGE, step=step, **means, seconds=time.monotonic() - started)
            losses = []
        if step % SAVE_EVERY == 0 or step == growth.teacher_steps or run.out_of_time():
            saved = [optimizer.state_dict() for optimizer in optimizers]
            run.save(STAGE, {"model": joined.state_dict(), "average": average, "optimizers": saved, "step": step})
    return step >= growth.teacher_steps


def _keep_text_encoder(models: Models, average: dict[str, Tensor]) -> None:
    """Give the text encoder its averaged weights for good."""
    start = "text_encoder."
    own = {name[len(start) :]: value for name, value in average.items() if name.startswith(start)}
    models.text_encoder.load_state_dict(own)
    models.text_encoder.requires_grad_(False)


def _fill(growth: Growth, run: RunFolder, kind: str, pieces: list[Piece], step: int, vae: Any) -> None:
    """Have as many pieces as belong to a step, and all that were cached before."""
    most = growth.film_pieces if kind == FILMS else growth.clip_pieces
    wanted = min(growth.pieces_at_first + step // growth.piece_every, most)
    while len(pieces) < wanted or (len(pieces) < most and load_piece(run, len(pieces), kind)):
        pieces.append(cache_piece(growth, run, len(pieces), vae, kind))


def _names(losses: list[dict[str, float]]) -> list[str]:
    return sorted({name for part in losses for name in part})


class _Noised:
    """Latents on their way to noise, and what the model shall predict of them."""

    def __init__(self, clean: Tensor, shift: float, generator: torch.Generator) -> None:
        self.sigma = draw_sigmas(len(clean), shift, generator)
        noise = torch.randn(clean.shape, generator=generator)
        level = self.sigma.view(-1, 1, 1, 1, 1)
        self.latents, self.wanted = (1 - level) * clean + level * noise, noise - clean

    def errors(self, predicted: Tensor) -> Tensor:
        """Return the mean squared error of each sample, [B]."""
        return (predicted.float() - self.wanted).square().mean(dim=(1, 2, 3, 4))


def _film_losses(
    growth: Growth, models: Models, piece: Piece, empty: Tensor, rng: np.random.RandomState, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss of a batch of films, and its parts by use."""
    chosen = torch.from_numpy(rng.randint(len(piece.latents), size=growth.teacher_batch))
    films, anywhere, worn = piece.latents[chosen].float(), piece.anywhere[chosen], piece.worn[chosen]
    chunks = torch.split(films, growth.chunk, dim=2)
    noise = growth.context_noise * torch.rand((len(films), 1, 1, 1, 1), generator=generator)
    remembered = [chunk + noise * torch.randn(chunk.shape, generator=generator) for chunk in chunks[:-1]]
    by_picture = anywhere | (torch.rand(len(films), generator=generator) < _PICTURE_SHARE)
    which = torch.from_numpy(rng.randint(piece.ids.shape[3], size=(len(films), growth.shots)))
    batch = torch.arange(len(films))
    seen = [by_picture.long(), *[torch.ones_like(chosen)] * (growth.shots - 1)]
    ids = [piece.ids[chosen, shot, seen[shot], which[batch, shot]] for shot in range(growth.shots)]
    dropped = [torch.rand(len(films), generator=generator) < growth.caption_dropout for _ in ids]
    asked = [torch.where(drop[:, None], empty, one) for drop, one in zip(dropped, ids, strict=True)]
    texts = embed(models.text_encoder, torch.cat([*ids, *asked])).chunk(2 * growth.shots)
    told, asked_texts = texts[: growth.shots], texts[growth.shots :]

    transformer, still = models.transformer, torch.zeros(len(films))
    contexts, context = [], None
    # Where a prompt changes in mid-stream, the runtime remembers what is there anew, with the new prompt.
    anew = torch.rand((len(films), 1, 1), generator=generator) < ANEW_SHARE
    for chunk, text, following in zip(remembered, told[:-1], told[1:], strict=True):
        _, context = denoise(transformer, chunk, still, torch.where(anew, following, text), context)
        contexts.append(context)
    later = _Noised(torch.cat(chunks[1:]), growth.timestep_shift, generator)
    predicted, _ = denoise(transformer, later.latents, 1000 * later.sigma, torch.cat(asked_texts[1:]), stack(contexts))
    # What is worn is remembered, and never made.
    errors = {"later": later.errors(predicted)[~worn[:, 1:].T.flatten()]}
    if len(some := (~by_picture & ~worn[:, 0]).nonzero()[:, 0]):
        noised = _Noised(chunks[0][some], growth.timestep_shift, generator)
        predicted, _ = denoise(transformer, noised.latents, 1000 * noised.sigma, asked_texts[0][some])
        errors["text"] = noised.errors(predicted)
    if len(some := (by_picture & ~worn[:, 0]).nonzero()[:, 0]):
        picture = remembered[0][some, :, :1]
        _, context = denoise(transformer, picture, still[some], told[0][some])
        noised = _Noised(chunks[0][some, :, 1:], growth.timestep_shift, generator)
        predicted, _ = denoise(transformer, noised.latents, 1000 * noised.sigma, asked_texts[0][some], context)
        errors["picture"] = noised.errors(predicted)
    return torch.cat(list(errors.values())).mean(), {
        name: float(error.mean().detach()) for name, error in errors.items()
    }


def _clip_losses(
    growth: Growth, models: Models, piece: Piece, empty: Tensor, rng: np.random.RandomState, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss of a batch of single clips, made from nothing but words, and the same by use."""
    chosen = torch.from_numpy(rng.randint(len(piece.latents), size=growth.text_batch))
    which = torch.from_numpy(rng.randint(piece.ids.shape[3], size=len(chosen)))
    dropped = torch.rand(len(chosen), generator=generator) < growth.caption_dropout
    ids = torch.where(dropped[:, None], empty, piece.ids[chosen, 0, 0, which])
    noised = _Noised(piece.latents[chosen].float(), growth.timestep_shift, generator)
    texts = embed(models.text_encoder, ids)
    predicted, _ = denoise(models.transformer, noised.latents, 1000 * noised.sigma, texts)
    loss = noised.errors(predicted).mean()
    return loss, {"clip": float(loss.detach())}
