"""Distil the trained teacher into a student that needs one to eight steps and no guidance.

Trajectory regression, as in progressive distillation (Salimans & Ho 2022, arXiv 2202.00512) carried over to flows: a step
of the student goes where the teacher's guided flow goes in many. What is changed:

- one student serves 1, 2, 4 and 8 steps at once, without halving rounds: it is told a timestep in the middle of the step
  that it is to take, so that steps of different length from one noise level are told apart;
- steps start from where the student's own earlier steps led, not from the teacher's trajectory, so that each corrects the
  ones before it (as DMD2 and Self-Forcing train, arXiv 2405.14867 and 2506.08009). A pool of samplings under way, of
  which every training step advances each by one, makes that free.

The text encoder is the teacher's, frozen.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from ...runtime.sampling.schedules import even_schedule
from ..clips import split
from .denoiser import Captions, embed, follow
from .muon import muon_and_adamw, set_learning_rate
from .precision import mixed_precision
from .presets import Preset
from .run_folder import RunFolder
from .trajectories import BATCH, LEVELS, Teacher, draw_batch
from .trajectories import STAGE as TRAJECTORIES_STAGE
from .vae import learning_rate_factor

STAGE = "student"
# How often a sampling of so many steps begins.
SHARE_OF_STEPS = {1: 0.23, 2: 0.32, 4: 0.37, 8: 0.08}
SAVE_EVERY = 250
LOG_EVERY = 50
EMA_DECAY = 0.995


def student_levels(steps: int, shift: float) -> tuple[list[float], list[float]]:
    """Return the noise levels [steps] a student is run at, and the timesteps [steps] it is told there.

    steps: a divisor of LEVELS. The levels are spread evenly and shifted; each timestep lies half-way to the next level.
    """
    sigmas = even_schedule(LEVELS, shift).sigmas.astype(np.float64)[:: LEVELS // steps]
    middles = 1000 * (sigmas[:-1] + sigmas[1:]) / 2
    return [round(float(sigma), 6) for sigma in sigmas[:-1]], [round(float(middle), 3) for middle in middles]


@dataclass
class Trajectories:
    """The teacher's samplings: prompt ids [N, L] and latents after each level [N, 1 + LEVELS, C, F, H, W], noise first."""

    ids: Tensor
    latents: Tensor

    @staticmethod
    def load(preset: Preset, run: RunFolder) -> Trajectories:
        """Return the cached trajectories with the prompts and noise they came from, drawn again."""
        state = run.load(TRAJECTORIES_STAGE)
        assert state is not None
        captions = Captions(preset, split()[0])
        batches = [draw_batch(preset, captions, index) for index in range(preset.distill_trajectories // BATCH)]
        noise = torch.cat([noise for _, noise in batches]).half()
        return Trajectories(torch.cat([ids for ids, _ in batches]), torch.cat([noise[:, None], state["paths"]], dim=1))


class Samplings:
    """A pool of the student's samplings under way, each along one of the teacher's trajectories.

    path: index of the trajectory, [size]. level: where it is, 0 (noise) to LEVELS - 1. stride: levels that a step takes.
    """

    def __init__(self, trajectories: Trajectories, size: int, shift: float, generator: torch.Generator) -> None:
        self.trajectories = trajectories
        self.sigmas = torch.from_numpy(even_schedule(LEVELS, shift).sigmas)
        self.path = torch.zeros(size, dtype=torch.long)
        self.level = torch.full((size,), LEVELS)
        self.stride = torch.ones(size, dtype=torch.long)
        self.latents = torch.zeros((size, *trajectories.latents.shape[2:]))
        self._begin_anew(generator)

    def _begin_anew(self, generator: torch.Generator) -> None:
        """Replace every finished sampling by a new one, from noise."""
        finished = (self.level == LEVELS).nonzero()[:, 0]
        if not len(finished):
            return
        self.path[finished] = torch.randint(len(self.trajectories.ids), finished.shape, generator=generator)
        shares = torch.tensor(list(SHARE_OF_STEPS.values()))
        drawn = torch.multinomial(shares, len(finished), replacement=True, generator=generator)
        self.stride[finished] = LEVELS // torch.tensor(list(SHARE_OF_STEPS))[drawn]
        self.level[finished] = 0
        self.latents[finished] = self.trajectories.latents[self.path[finished], 0].float()

    def step_size(self) -> Tensor:
        """Return how far each sampling's next step goes down in sigma, [size]."""
        return self.sigmas[self.level] - self.sigmas[self.level + self.stride]

    def told(self) -> Tensor:
        """Return what the student is told of the noise level, [size] in 0 to 1: the middle of the step."""
        return (self.sigmas[self.level] + self.sigmas[self.level + self.stride]) / 2

    def wanted(self) -> Tensor:
        """Return the velocity that leads from each sampling's latents to the teacher's at the next level."""
        goal = self.trajectories.latents[self.path, self.level + self.stride].float()
        return (self.latents - goal) / self.step_size().view(-1, 1, 1, 1, 1)

    def advance(self, velocity: Tensor, generator: torch.Generator) -> None:
        """Take one step everywhere; what has arrived makes room for new samplings."""
        self.latents -= self.step_size().view(-1, 1, 1, 1, 1) * velocity
        self.level += self.stride
        self._begin_anew(generator)

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs to go on."""
        return {"path": self.path, "level": self.level, "stride": self.stride, "latents": self.latents}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.path, self.level, self.stride, self.latents = (state[k] for k in ("path", "level", "stride", "latents"))


def train_student(preset: Preset, run: RunFolder, teacher: Teacher, velocity: Any, device: torch.device) -> bool:
    """Train until the preset's steps are done or the run's time is over; return whether they are done.

    velocity: (transformer, latents, sigma, embeddings) -> prediction, compiled or not.
    """
    student = WanTransformer3DModel.from_config(teacher.transformer.config).to(device)
    student.load_state_dict(teacher.transformer.state_dict())
    average = {name: value.detach().clone() for name, value in student.state_dict().items()}
    optimizers = muon_and_adamw(student, lr=preset.distill_learning_rate, vector_share=0.4)
    generator = torch.Generator().manual_seed(preset.seed)
    samplings = Samplings(Trajectories.load(preset, run), preset.distill_batch, teacher.shift, generator)
    step = 0
    if state := run.load(STAGE):
        step = state["step"]
        if step >= preset.distill_steps:
            return True
        student.load_state_dict(state["model"])
        average = {name: value.to(device) for name, value in state["average"].items()}
        samplings.restore(state["samplings"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    started, errors = time.monotonic(), []
    while step < preset.distill_steps and not run.out_of_time():
        generator = torch.Generator().manual_seed(preset.seed + step)
        set_learning_rate(optimizers, preset.distill_learning_rate * learning_rate_factor(step, preset.distill_steps))
        predicted, error = _train_step(student, teacher, optimizers, velocity, samplings, device)
        errors.append((samplings.stride.clone(), error))
        samplings.advance(predicted, generator)
        follow(average, student, min(EMA_DECAY, (step + 1) / (step + 10)))
        step += 1
        if step % LOG_EVERY == 0:
            run.log(STAGE, step=step, **_by_steps(errors), seconds=time.monotonic() - started)
            errors = []
        if step % SAVE_EVERY == 0 or step == preset.distill_steps or run.out_of_time():
            saved = [] if step == preset.distill_steps else [optimizer.state_dict() for optimizer in optimizers]
            progress = {"average": average, "optimizers": saved, "samplings": samplings.state(), "step": step}
            run.save(STAGE, {"model": student.state_dict(), **progress})
    return step >= preset.distill_steps


def _by_steps(errors: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the mean loss, and that of the samplings of each number of steps."""
    strides = torch.cat([stride for stride, _ in errors])
    losses = torch.cat([error for _, error in errors])
    each = {f"loss_{steps}": losses[strides == LEVELS // steps] for steps in SHARE_OF_STEPS}
    return {name: float(some.mean()) for name, some in {"loss": losses, **each}.items() if len(some)}


def _train_step(
    student: Any,
    teacher: Teacher,
    optimizers: list[torch.optim.Optimizer],
    velocity: Any,
    samplings: Samplings,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Learn one step of every sampling; return the velocities that the student predicted, and their losses [B].

    The squared error of a velocity counts as much as its step is long: between counting where a step arrives, which would
    leave short steps unlearned, and counting velocities alike, which would have short steps mend all that came before.
    """
    ids = samplings.trajectories.ids[samplings.path].to(device)
    size = samplings.step_size().to(device)
    with mixed_precision(device):
        with torch.no_grad():
            embeddings = embed(teacher.text_encoder, ids)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            predicted = velocity(student, samplings.latents.to(device), samplings.told().to(device), embeddings).float()
            errors = size * (predicted - samplings.wanted().to(device)).square().mean(dim=(1, 2, 3, 4))
            student.zero_grad(set_to_none=True)
            torch.autograd.backward(errors.mean())
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return predicted.detach().cpu(), errors.detach().cpu()
