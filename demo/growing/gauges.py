"""What the grown model is measured by: words shown, pictures kept, hand-overs, changed prompts, the tiny decoder.

Every gauge returns plain figures; `evaluate.py` prints them as tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..evaluate import held_out_captions
from ..film_scorer import cut, drift, read_shot, seams, shows
from ..films import Film, Shot, pictures_of, render_film
from ..scorer import ATTRIBUTES, displacement, read, score_readings
from ..training.denoiser import Models
from ..training.vae import to_pictures
from .latents import decode_latents, encode_pictures, to_uint8
from .presets import Growth
from .rolling import Roller, Sampler
from .tiny_decoder import TinyDecoder

Clip = NDArray[np.uint8]
Figures = dict[str, float]
Decode = Callable[[Tensor], Tensor]
_BATCH = 6
_SPREAD_CAPTIONS, _SPREAD_SEEDS = 12, 4


@dataclass(frozen=True)
class Candidate:
    """A model that makes films: a denoiser with its sampler, and the decoder of its latents."""

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


def shot_of(subject: Any) -> Shot:
    """Return a subject of a single clip as a shot."""
    return Shot(subject.shape, subject.colour, (subject.motion,), subject.scene)


def _batches(count: int) -> Iterator[range]:
    for start in range(0, count, _BATCH):
        yield range(start, min(start + _BATCH, count))


def text_to_video(candidate: Candidate, size: tuple[int, int], clips: int) -> Figures:
    """Return the share of held-out captions shown, by attribute, seed spread and mean displacement."""
    pairs, roller, readings = held_out_captions(clips), candidate.roller(), []
    for batch in _batches(clips):
        latents = roller.roll([[pairs[i][1] for i in batch]], list(batch), size)
        readings += [read(clip) for clip in to_uint8(candidate.decode(latents))]
    shown = score_readings(zip(readings, (subject for subject, _ in pairs), strict=True))
    variances = []
    for _, caption in pairs[:_SPREAD_CAPTIONS]:
        seeds = list(range(_SPREAD_SEEDS))
        made = to_uint8(candidate.decode(roller.roll([[caption] * len(seeds)], seeds, size)))
        variances.append(np.var(made.astype(np.float32), axis=0, ddof=1).mean())
    moved = float(np.mean([displacement(reading) for reading in readings]))
    return {**shown, "spread": float(np.sqrt(np.mean(variances))), "displacement": moved}


def true_displacement(size: tuple[int, int], clips: int) -> float:
    """Return the mean displacement of true clips of the same subjects."""
    rng, (width, height) = np.random.RandomState(8), size
    films = [Film((shot_of(subject),)) for subject, _ in held_out_captions(clips)]
    return float(np.mean([displacement(read(render_film(film, rng, height=height, width=width))) for film in films]))


def picture_to_video(candidate: Candidate, size: tuple[int, int], clips: int) -> Figures:
    """Return the PSNR of the first picture and the attributes shown, on first pictures of held-out clips."""
    pairs, roller, rng = held_out_captions(clips), candidate.roller(), np.random.RandomState(8)
    width, height = size
    errors, matches = [], []
    for batch in _batches(clips):
        shots = [shot_of(pairs[i][0]) for i in batch]
        true = np.stack([render_film(Film((shot,)), rng, height=height, width=width)[:1] for shot in shots])
        pictures = to_pictures(true, torch.device("cpu"))
        latents = roller.roll(
            [[pairs[i][1] for i in batch]], list(batch), size, encode_pictures(candidate.vae, pictures)
        )
        made = candidate.decode(latents)
        errors += [(made[i, :, 0] - pictures[i, :, 0]).square().mean().item() for i in range(len(batch))]
        for clip, shot in zip(to_uint8(made), shots, strict=True):
            matches.append(shows(read_shot(clip, first=True), shot, clip))
    kept = 10 * np.log10(4 / np.asarray(errors))
    return {"kept_db": float(kept.mean()), "kept_db_worst_tenth": float(np.percentile(kept, 10)), **_shares(matches)}


def hand_overs(
    candidate: Candidate, size: tuple[int, int], streams: int, chunks: int, *, chained: bool = False
) -> Figures:
    """Return what is left at the end of long streams of one prompt each, and what their seams look like.

    chained: hand over the last decoded picture, encoded anew, in the place of the context.
    """
    pairs, last, jumps, drifts = held_out_captions(streams), [], [], []
    for batch in _batches(streams):
        captions = [pairs[i][1] for i in batch]
        films = _chain(candidate, captions, list(batch), size, chunks) if chained else None
        if films is None:
            films = to_uint8(candidate.decode(candidate.roller().roll([captions] * chunks, list(batch), size)))
        for film, i in zip(films, batch, strict=True):
            chunk = cut(film)[-1]
            last.append(shows(read_shot(chunk, first=False), shot_of(pairs[i][0]), chunk))
            jumps += seams(film)
            drifts.append(drift(film))
    return {
        **_shares(last),
        "colour_scene_shape": float(np.mean([all(m[name] for name in ("colour", "scene", "shape")) for m in last])),
        "jump_median": float(np.median([seam.jump for seam in jumps])),
        "jump_within": float(np.mean([seam.jump <= 1.5 for seam in jumps])),
        "seam_colour": float(np.mean([seam.colour for seam in jumps])),
        "seam_scene": float(np.mean([seam.scene for seam in jumps])),
        "drift_colour": float(np.mean([each.colour for each in drifts])),
        "drift_scene": float(np.mean([each.scene for each in drifts])),
        "sharpness": float(np.median([each.sharpness for each in drifts])),
    }


def _chain(
    candidate: Candidate, captions: list[str], seeds: list[int], size: tuple[int, int], chunks: int
) -> NDArray[np.uint8]:
    """Return films of which each piece begins with the picture that the one before ended with; as long as a stream."""
    roller = candidate.roller()
    made = [to_uint8(candidate.decode(roller.roll([captions], seeds, size)))]
    wanted = pictures_of(chunks)
    while sum(piece.shape[1] for piece in made) < wanted:
        picture = to_pictures(made[-1][:, -1:], torch.device("cpu"))
        seeds = [seed + 1000 for seed in seeds]
        latents = roller.roll([captions], seeds, size, encode_pictures(candidate.vae, picture))
        made.append(to_uint8(candidate.decode(latents))[:, 1:])
    return np.concatenate(made, axis=1)[:, :wanted]


def changed_prompt(candidate: Candidate, size: tuple[int, int], streams: int) -> Figures:
    """Return what the first chunk after a change of the whole prompt shows of the new one."""
    pairs, matches = held_out_captions(2 * streams), []
    for batch in _batches(streams):
        old, new = ([pairs[i + offset] for i in batch] for offset in (0, streams))
        prompts = [[caption for _, caption in old]] * 2 + [[caption for _, caption in new]]
        films = to_uint8(candidate.decode(candidate.roller().roll(prompts, list(batch), size)))
        for film, (subject, _) in zip(films, new, strict=True):
            chunk = cut(film)[-1]
            matches.append(shows(read_shot(chunk, first=False), shot_of(subject), chunk))
    return _shares(matches)


def tiny_decoder(candidate: Candidate, tiny: TinyDecoder, size: tuple[int, int], clips: int) -> Figures:
    """Return how near the tiny decoder's pictures of made clips are to the full one's, and how much faster it is."""
    pairs, errors, readings, seconds = held_out_captions(clips), [], [], {"full": 0.0, "tiny": 0.0}
    for batch in _batches(clips):
        latents = candidate.roller().roll([[pairs[i][1] for i in batch]], list(batch), size)
        started = time.process_time()
        full = decode_latents(candidate.vae, latents)
        between = time.process_time()
        small = decode_tiny(tiny, latents)
        seconds["full"] += between - started
        seconds["tiny"] += time.process_time() - between
        errors += [(full[i] - small[i]).square().mean().item() for i in range(len(batch))]
        readings += [read(clip) for clip in to_uint8(small)]
    shown = score_readings(zip(readings, (subject for subject, _ in pairs), strict=True))
    return {
        **shown,
        "psnr_to_full": float(10 * np.log10(4 / np.mean(errors))),
        "faster": seconds["full"] / seconds["tiny"],
    }


def autoencoder(candidate: Candidate, tiny: TinyDecoder | None, size: tuple[int, int], clips: int) -> Figures:
    """Return the PSNR of true clips through encoder and full decoder, and through the tiny one."""
    rng, (width, height) = np.random.RandomState(8), size
    true = np.stack(
        [
            render_film(Film((shot_of(subject),)), rng, height=height, width=width)
            for subject, _ in held_out_captions(clips)
        ]
    )
    errors: dict[str, list[float]] = {"full": [], "tiny": []}
    for clip in true:
        pictures = to_pictures(clip[None], torch.device("cpu"))
        latents = encode_pictures(candidate.vae, pictures)
        errors["full"].append((decode_latents(candidate.vae, latents) - pictures).square().mean().item())
        if tiny is not None:
            errors["tiny"].append((decode_tiny(tiny, latents) - pictures).square().mean().item())
    return {f"{name}_psnr": float(10 * np.log10(4 / np.mean(each))) for name, each in errors.items() if each}


@torch.no_grad()
def decode_tiny(tiny: TinyDecoder, latents: Tensor) -> Tensor:
    """Return pictures in [-1, 1] as the full decoder gives them."""
    pictures: Tensor = tiny(latents)[0].clamp(0, 1) * 2 - 1
    return pictures


def _shares(matches: list[dict[str, bool]]) -> Figures:
    return {name: float(np.mean([match[name] for match in matches])) for name in ATTRIBUTES}
