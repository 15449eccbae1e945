"""The teacher's guided flow along films that are rolled out: what the student learns from.

A round rolls some films out chunk by chunk. For each chunk the teacher follows its guided flow from noise, in the context
that the film has so far; latents at the student's noise levels are kept. The film goes on with what the student makes of
the same chunk (Self-Forcing, arXiv 2506.08009), so that contexts bear the student's own errors and the teacher shows the
way back; before there is a student, with what the teacher made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...runtime.sampling.samplers import sample_unipc
from ...runtime.sampling.schedules import Schedule, even_schedule
from ..films import draw_caption, draw_film, render_film
from ..training.denoiser import Models, embed
from ..training.precision import mixed_precision
from ..training.run_folder import RunFolder
from ..training.vae import to_pictures
from .context import Context, denoise
from .latents import Tokens, encode_pictures
from .presets import Growth
from .rolling import FewSteps

STAGE = "rollouts"
LEVELS = 4
STEPS_PER_LEVEL = 3


@dataclass
class Group:
    """The same chunk of the films of a round.

    path: the teacher's latents, noise first, then after each level [N, 1 + LEVELS, C, F, h, w]. ids: the chunk's prompts
    [N, L]. before: what is remembered before it, oldest first: (latents [N, C, f, h, w], prompts [N, L]), at most two.
    """

    path: Tensor
    ids: Tensor
    before: list[tuple[Tensor, Tensor]]

    def pick(self, chosen: Tensor) -> Group:
        """Return some of the films, latents as float32."""
        before = [(latents[chosen].float(), ids[chosen]) for latents, ids in self.before]
        return Group(self.path[chosen].float(), self.ids[chosen], before)


def load_round(run: RunFolder, index: int) -> list[Group] | None:
    """Return a round's groups, None where it was not rolled out yet."""
    state = run.load(f"{STAGE}_{index:03}")
    if state is None:
        return None
    return [Group(group["path"], group["ids"], list(group["before"])) for group in state["groups"]]


def follow_teacher(
    growth: Growth, teacher: Models, noise: Tensor, texts: Tensor, silent: Tensor, context: Context | None
) -> Tensor:
    """Return the guided flow from this noise, [B, 1 + LEVELS, C, F, h, w]: the noise, then the latents after each level."""
    fine = even_schedule(LEVELS * STEPS_PER_LEVEL, growth.sampling_shift)
    sigmas = fine.sigmas.copy()
    sigmas[0] -= 1e-6  # UniPC works in a logarithm that is infinite at 1
    visited = []

    def guided(noisy: Any, timestep: float, _sigma: float) -> Any:
        latents, level = torch.from_numpy(noisy), torch.full((len(noise),), float(timestep))
        visited.append(latents)
        prompted, _ = denoise(teacher.transformer, latents, level, texts, context)
        free, _ = denoise(teacher.transformer, latents, level, silent, context)
        return (free + growth.guidance * (prompted - free)).float().numpy()

    end = sample_unipc(guided, noise.numpy(), Schedule(sigmas, fine.timesteps))
    return torch.stack([noise, *visited[STEPS_PER_LEVEL::STEPS_PER_LEVEL], torch.from_numpy(end)], dim=1)


@torch.no_grad()
def roll_round(
    growth: Growth, run: RunFolder, index: int, teacher: Models, student: Any | None, vae: Any
) -> list[Group]:
    """Roll a round of films out and keep it; all randomness but the student comes from its number."""
    rng = np.random.RandomState(growth.seed + 57 * index)
    width, height = growth.formats[index % len(growth.formats)]
    tokens = Tokens(growth.max_tokens)
    by_picture = index % 5 in (1, 3)
    # Later rounds go further, where the student's own errors have added up.
    shots = growth.shots + (0 if student is None else index % 3)
    films = [draw_film(rng, shots) for _ in range(growth.round_films)]
    silent = embed(teacher.text_encoder, tokens([""] * len(films)))
    sampler = FewSteps(2 if index % 2 else 4, growth.sampling_shift)
    memories: dict[str, Context | None] = {"teacher": None, "student": None}
    groups: list[Group] = []
    before: list[tuple[Tensor, Tensor]] = []
    for shot in range(shots):
        captions = [draw_caption(film, shot, rng, has_context=by_picture or shot > 0) for film in films]
        ids = tokens(captions)
        texts = embed(teacher.text_encoder, ids)
        frames = growth.chunk
        if shot == 0 and by_picture:
            clips = [render_film(film, rng, height=height, width=width)[:1] for film in films]
            picture = encode_pictures(vae, to_pictures(np.stack(clips), torch.device("cpu")))
            before, frames = [(picture, ids)], frames - 1
            _remember_all(memories, teacher, student, picture, texts, growth.chunk)
        drawn = rng.standard_normal(
            (len(films), teacher.transformer.config.in_channels, frames, height // 16, width // 16)
        )
        noise = torch.from_numpy(drawn.astype(np.float32))
        with mixed_precision(torch.device("cpu")):
            path = follow_teacher(growth, teacher, noise, texts, silent, memories["teacher"])
        groups.append(Group(path.half(), ids, [(latents.half(), said) for latents, said in before]))
        made = path[:, -1]
        if student is not None:
            made = sampler(student, noise, texts, silent, memories["student"])
        _remember_all(memories, teacher, student, made, texts, growth.chunk)
        whole = torch.cat([before[0][0], made], dim=2) if frames < growth.chunk else made
        before = [*([] if frames < growth.chunk else before), (whole, ids)][-2:]
    run.save(f"{STAGE}_{index:03}", {"groups": [vars(group) for group in groups]})
    return groups


def _remember_all(
    memories: dict[str, Context | None], teacher: Models, student: Any | None, made: Tensor, texts: Tensor, window: int
) -> None:
    """Let teacher and student each remember a chunk in the context they had."""
    for name, transformer in (("teacher", teacher.transformer), ("student", student)):
        if transformer is None:
            continue
        former = memories[name]
        _, left = denoise(transformer, made, torch.zeros(len(made)), texts, former)
        memories[name] = (left if former is None else former.then(left)).last(window)
