"""The teacher's guided flow from noise to clean latents, kept at the noise levels that a student will step over.

The noise itself is not kept: batch n draws it from the preset's seed and n. The flow is followed with the runtime's own
UniPC, in two steps from level to level.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from ...runtime.sampling.samplers import sample_unipc
from ...runtime.sampling.schedules import Schedule, even_schedule
from ..clips import split
from .denoiser import Captions, embed
from .precision import mixed_precision
from .presets import Preset
from .run_folder import RunFolder

STAGE = "trajectories"
LEVELS = 8
BATCH = 64
SAVE_EVERY = 16
_STEPS_PER_LEVEL = 2


@dataclass
class Teacher:
    """A trained denoiser with guidance, and the frozen text encoder that its student shares."""

    text_encoder: Any
    transformer: Any
    guidance: float
    shift: float


def load_teacher(checkpoint: Path, device: torch.device) -> Teacher:
    """Return the models of a demo checkpoint folder, frozen, as float32, and how its own recipe samples."""
    recipe = json.loads((checkpoint / "edgereel.json").read_text())["recipes"][0]
    text_encoder = UMT5EncoderModel.from_pretrained(checkpoint / "text_encoder", dtype=torch.float32)
    transformer = WanTransformer3DModel.from_pretrained(checkpoint / "transformer", torch_dtype=torch.float32)
    for model in (text_encoder, transformer):
        model.eval().requires_grad_(False).to(device)
    return Teacher(text_encoder, transformer, recipe["guidance"], recipe["shift"])


def latent_shape(preset: Preset, batch: int) -> tuple[int, ...]:
    """Return [B, C, F, H, W] of the preset's clips."""
    scale = preset.vae["scale_factor_spatial"]
    frames = 1 + (preset.frames - 1) // preset.vae["scale_factor_temporal"]
    return batch, preset.vae["z_dim"], frames, preset.height // scale, preset.width // scale


def draw_batch(preset: Preset, captions: Captions, index: int) -> tuple[Tensor, Tensor]:
    """Return the token ids [B, L] and the noise [B, C, F, H, W] of a batch of trajectories."""
    generator = torch.Generator().manual_seed(preset.seed + 1_000_003 * (index + 1))
    subjects = torch.randint(len(captions.ids) // captions.phrasings, (BATCH,), generator=generator)
    ids = captions.draw(subjects, 0.0, generator)
    return ids, torch.randn(latent_shape(preset, BATCH), generator=generator)


@torch.no_grad()
def follow_teacher(teacher: Teacher, velocity: Any, ids: Tensor, empty: Tensor, noise: Tensor) -> Tensor:
    """Return the guided flow from this noise after each of its levels, [B, LEVELS, C, F, H, W], the last one clean.

    ids: [B, L]. empty: [L], the prompt without words.
    """
    fine = even_schedule(LEVELS * _STEPS_PER_LEVEL, teacher.shift)
    sigmas = fine.sigmas.copy()
    sigmas[0] -= 1e-6  # UniPC works in a logarithm that is infinite at 1
    visited = []
    embeddings = embed(teacher.text_encoder, torch.cat([ids, empty.expand_as(ids)]))

    def guided(noisy: Any, timestep: float, _: float) -> Any:
        visited.append(torch.from_numpy(noisy))
        latents = torch.from_numpy(noisy).to(ids.device).repeat(2, 1, 1, 1, 1)
        level = torch.full((len(latents),), timestep / 1000, device=ids.device)
        with mixed_precision(ids.device):
            prompted, free = velocity(teacher.transformer, latents, level, embeddings).float().cpu().chunk(2)
        return (free + teacher.guidance * (prompted - free)).numpy()

    end = sample_unipc(guided, noise.numpy(), Schedule(sigmas, fine.timesteps))
    return torch.stack([*visited[_STEPS_PER_LEVEL::_STEPS_PER_LEVEL], torch.from_numpy(end)], dim=1)


def cache_trajectories(preset: Preset, run: RunFolder, teacher: Teacher, velocity: Any, device: torch.device) -> bool:
    """Run the teacher on every batch of the preset's trajectories, or go on; return whether all are done."""
    captions = Captions(preset, split()[0])
    batches = preset.distill_trajectories // BATCH
    state = run.load(STAGE)
    paths: list[Tensor] = [] if state is None else list(state["paths"].split(BATCH))
    while len(paths) < batches and not run.out_of_time():
        ids, noise = draw_batch(preset, captions, len(paths))
        path = follow_teacher(teacher, velocity, ids.to(device), captions.empty.to(device), noise)
        paths.append(path.half())
        if len(paths) % SAVE_EVERY == 0 or len(paths) == batches or run.out_of_time():
            run.save(STAGE, {"paths": torch.cat(paths)})
            run.log(STAGE, trajectories=BATCH * len(paths))
    return len(paths) >= batches
