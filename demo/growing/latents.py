"""Latents of films and token ids of their captions, cached in pieces so that training can begin on the first ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..films import Film, draw_caption, draw_film, draw_shot, render_film, worn
from ..training import whole_clip
from ..training.run_folder import RunFolder
from ..training.tokenizer import PAD, build_tokenizer
from ..training.vae import to_pictures
from .autoencoder import open_autoencoder
from .presets import Growth

FILMS, CLIPS = "films", "clips"
# Captions kept of every shot: with and without a context that they may lean on.
CAPTIONS = 4
_ENCODE_BATCH = 4


@dataclass
class Piece:
    """Films of one format; `clips` are films of one shot that begins where its motion calls for.

    latents: normalised, float16 [N, C, frames, h, w]. ids: [N, shots, 2, CAPTIONS, L], captions for a model that sees
    nothing before the shot (0) or what came before (1). anywhere: [N], see `Film.anywhere`. worn: [N, shots], see `Film.wear`.
    """

    latents: Tensor
    ids: Tensor
    anywhere: Tensor
    worn: Tensor


class Tokens:
    """Text to token ids, padded."""

    def __init__(self, length: int) -> None:
        self._tokenizer = build_tokenizer()
        self._tokenizer.enable_padding(pad_token=PAD, pad_id=0, length=length)
        self.empty = self(["", ""])[0]

    def __call__(self, texts: list[str]) -> Tensor:
        """Return ids [B, L]."""
        return torch.tensor([encoding.ids for encoding in self._tokenizer.encode_batch(texts)])


def load_piece(run: RunFolder, index: int, kind: str = FILMS) -> Piece | None:
    """Return a piece that has been cached, else None."""
    state = run.load(f"{kind}_{index:03}")
    return None if state is None else Piece(state["latents"], state["ids"].long(), state["anywhere"], state["worn"])


@torch.no_grad()
def cache_piece(growth: Growth, run: RunFolder, index: int, vae: Any = None, kind: str = FILMS) -> Piece:
    """Return a piece, rendered and encoded now if it is not there yet; all randomness comes from its number."""
    if piece := load_piece(run, index, kind):
        return piece
    vae = open_autoencoder(growth, run) if vae is None else vae
    tokens = Tokens(growth.max_tokens)
    width, height = growth.formats[index % len(growth.formats)]
    films, rng = draw_films(growth, index, kind)
    shots = len(films[0].shots)
    latents = []
    for start in range(0, len(films), _ENCODE_BATCH):
        clips = [render_film(film, rng, height=height, width=width) for film in films[start : start + _ENCODE_BATCH]]
        latents.append(encode_pictures(vae, to_pictures(np.stack(clips), torch.device("cpu"))).half())
    texts = [
        draw_caption(film, shot, rng, has_context=bool(seen))
        for film in films
        for shot in range(shots)
        for seen in range(2)
        for _ in range(CAPTIONS)
    ]
    ids = tokens(texts).view(len(films), shots, 2, CAPTIONS, growth.max_tokens)
    anywhere = torch.tensor([film.anywhere for film in films])
    worn_shots = [[film.wear is not None and film.wear.shot == shot for shot in range(shots)] for film in films]
    piece = Piece(torch.cat(latents), ids, anywhere, torch.tensor(worn_shots))
    run.save(f"{kind}_{index:03}", {**vars(piece), "ids": ids.to(torch.uint8)})
    run.log(kind, step=index + 1, films=(index + 1) * len(films))
    return piece


def draw_films(growth: Growth, index: int, kind: str = FILMS) -> tuple[list[Film], np.random.RandomState]:
    """Return a piece's films, and the random numbers that go on to render them in order."""
    if kind == FILMS:
        rng = np.random.RandomState(growth.seed + 31 * index)
        films = [draw_film(rng, growth.shots) for _ in range(growth.films_in_piece)]
        return [worn(film, rng) if rng.uniform() < growth.worn_share else film for film in films], rng
    rng = np.random.RandomState(growth.seed + 31 * index + 17)
    return [Film((draw_shot(rng),)) for _ in range(growth.clips_in_piece)], rng


@torch.no_grad()
def encode_pictures(vae: Any, pictures: Tensor) -> Tensor:
    """Return normalised latents [B, C, F, h, w] of pictures [B, 3, 1 + 4k, H, W] in [-1, 1]."""
    return whole_clip.normalise(vae, whole_clip.encode(vae, pictures)[0])


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Return pictures [B, 3, 1 + 4(F-1), H, W] in [-1, 1] of normalised latents."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return whole_clip.decode(vae, latents * deviation + mean).clamp(-1, 1)


def to_uint8(pictures: Tensor) -> Any:
    """Return uint8 [B, F, H, W, 3] of pictures [B, 3, F, H, W] in [-1, 1]."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1).numpy()
