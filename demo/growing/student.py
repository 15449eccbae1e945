"""Distil the grown teacher into a student of 4, 2 or 1 steps without guidance, for all uses.

Trajectory regression as in `training/distill.py`: a step goes where the teacher's guided flow goes, and every step starts
from where the student's own steps before it led. Contexts are remembered by the student itself, with gradients, from
films that it has rolled out (`rollouts.py`).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from ..training.denoiser import Models, embed, follow
from ..training.distill import student_levels
from ..training.muon import muon_and_adamw, set_learning_rate
from ..training.precision import mixed_precision
from ..training.run_folder import RunFolder
from .autoencoder import open_autoencoder
from .context import Context, denoise
from .presets import Growth, learning_rate_factor
from .rollouts import LEVELS, Group, load_round, roll_round
from .teacher import ANEW_SHARE, open_teacher

STAGE = "student"
# How often a sampling has so many steps.
SHARE_OF_STEPS = {1: 0.15, 2: 0.4, 4: 0.45}
SAVE_EVERY = 25
LOG_EVERY = 10
EMA_DECAY = 0.98
_CPU = torch.device("cpu")


def open_student(growth: Growth, run: RunFolder, teacher: Models) -> Any:
    """Return the averaged student as far as the run has trained it, else what it begins as."""
    student = _beginning(growth, teacher)
    if state := run.load(STAGE):
        student.load_state_dict(state["average"])
    return student.eval().requires_grad_(False)


def _beginning(growth: Growth, teacher: Models) -> Any:
    """Return a student with the teacher's weights, or with those of the student that is trained on."""
    if growth.goes_on:
        folder = growth.checkpoint.parent / "student"
        return WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32)
    student = WanTransformer3DModel.from_config(teacher.transformer.config)
    student.load_state_dict(teacher.transformer.state_dict())
    return student


def train_student(growth: Growth, run: RunFolder) -> bool:
    """Train until the steps are done or the run's time is over; return whether they are done."""
    teacher, vae = open_teacher(growth, run), open_autoencoder(growth, run)
    student = _beginning(growth, teacher).train()
    average = {name: value.detach().clone() for name, value in student.state_dict().items()}
    optimizers = muon_and_adamw(student, lr=growth.student_learning_rate, vector_share=0.4)
    step = 0
    if state := run.load(STAGE):
        step = state["step"]
        if step >= growth.student_steps:
            return True
        student.load_state_dict(state["model"])
        average = state["average"]
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    rounds: list[list[Group]] = []
    started, errors = time.monotonic(), []
    while step < growth.student_steps and not run.out_of_time():
        wanted = min(growth.rounds_at_first + step // growth.round_every, growth.rounds)
        while len(rounds) < wanted:
            rounds.append(
                load_round(run, len(rounds)) or _new_round(growth, run, len(rounds), teacher, average, step, vae)
            )
        rng = np.random.RandomState(growth.seed + 389 * step)
        factor = learning_rate_factor(step, growth.student_steps, warmup=20)
        set_learning_rate(optimizers, growth.student_learning_rate * factor)
        groups = rounds[rng.randint(len(rounds))]
        group = groups[rng.randint(len(groups))]
        group = group.pick(torch.from_numpy(rng.permutation(len(group.ids))[: growth.student_batch]))
        steps = int(rng.choice(list(SHARE_OF_STEPS), p=list(SHARE_OF_STEPS.values())))
        student.zero_grad(set_to_none=True)
        anew = bool(rng.rand() < ANEW_SHARE)
        with mixed_precision(_CPU):
            errors.append((steps, _learn(growth, student, teacher, group, steps, anew)))
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        follow(average, student, min(EMA_DECAY, (step + 1) / (step + 10)))
        step += 1
        if step % LOG_EVERY == 0:
            each = {f"loss_{n}": float(np.mean([e for k, e in errors if k == n])) for n in {k for k, _ in errors}}
            mean = float(np.mean([error for _, error in errors]))
            run.log(STAGE, step=step, loss=mean, **each, seconds=time.monotonic() - started)
            errors = []
        if step % SAVE_EVERY == 0 or step == growth.student_steps or run.out_of_time():
            saved = [optimizer.state_dict() for optimizer in optimizers]
            run.save(STAGE, {"model": student.state_dict(), "average": average, "optimizers": saved, "step": step})
    return step >= growth.student_steps


def _new_round(
    growth: Growth, run: RunFolder, index: int, teacher: Models, average: dict[str, Tensor], step: int, vae: Any
) -> list[Group]:
    """Roll out a new round, by the averaged student once there is one."""
    student = None
    if step >= growth.own_after:
        student = WanTransformer3DModel.from_config(teacher.transformer.config)
        student.load_state_dict(average)
        student.eval()
    return roll_round(growth, run, index, teacher, student, vae)


def _learn(growth: Growth, student: Any, teacher: Models, group: Group, steps: int, anew: bool) -> float:
    """Add the gradients of one sampling of a group's chunk to the student; return its mean loss.

    anew: what is remembered is remembered with the chunk's own prompt, as the runtime does where a prompt changes.
    """
    with torch.no_grad():
        texts = embed(teacher.text_encoder, group.ids)
        said = [embed(teacher.text_encoder, ids) for _, ids in group.before]
        if anew:
            said = [texts for _ in said]
    context: Context | None = None
    still = torch.zeros(len(group.ids))
    for index, ((latents, _), text) in enumerate(zip(group.before, said, strict=True)):
        with torch.set_grad_enabled(index == len(said) - 1):
            _, context = denoise(student, latents, still, text, context)
    sigmas, timesteps = student_levels(steps, growth.sampling_shift)
    latents, losses = group.path[:, 0], []
    for index, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        told = torch.full((len(latents),), timesteps[index])
        predicted = denoise(student, latents, told, texts, context)[0].float()
        goal = group.path[:, (index + 1) * LEVELS // steps]
        wanted = (latents - goal) / (sigma - following)
        losses.append((sigma - following) * (predicted - wanted).square().mean())
        latents = latents - (sigma - following) * predicted.detach()
    loss = torch.stack(losses).mean()
    torch.autograd.backward(loss)
    return float(loss.detach())
