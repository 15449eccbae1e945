"""diffusers' WanPipeline beside edgereel: eager or compiled by torch, on the checkpoint that the bundle was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...bundle.geometry import latent_shape
from ...core.errors import EngineError, require_packages
from ...core.machine import usable_cores
from ...core.processes import python_command
from ...engines import get_engine
from ...runtime.sampling.recipes import schedule_of
from .base import CheckpointPeer, Contender, Job, ProcessContender

SAMPLERS = ("euler", "unipc")
"""Of our samplers those that diffusers has as well."""
NEEDED = ("torch", "diffusers", "transformers", "ftfy")
"""Packages without which diffusers cannot make a clip."""


@dataclass(frozen=True)
class Checkpoint:
    """A diffusers checkpoint folder. transformer: a folder with another one to put in, None for its own."""

    folder: Path
    transformer: Path | None = None


@dataclass(frozen=True)
class DiffusersPeer(CheckpointPeer):
    """A way of running diffusers. dtype: of the transformer and the text encoder. cache: the folder for what torch compiles."""

    checkpoint: Checkpoint
    compiled: bool
    dtype: str
    cache: Path

    def __call__(self, name: str, job: Job) -> Contender:
        """See CheckpointPeer."""
        return DiffusersContender(name, job, self)


class DiffusersContender(ProcessContender):
    """diffusers in a process of its own: bench/contenders/diffusers_worker.py."""

    kind = "diffusers"
    must_match = True
    packages = ("torch", "diffusers", "transformers", "accelerate", "ftfy", "av")

    def __init__(self, name: str, job: Job, peer: DiffusersPeer) -> None:
        super().__init__(name, job)
        self._peer = peer

    def start(self) -> dict[str, float]:
        """See Contender.start. Raises MissingExtraError where diffusers is not installed."""
        require_packages(NEEDED, "export", "comparing with diffusers")
        return super().start()

    def command(self) -> list[str]:
        """See ProcessContender.command."""
        return python_command("edgereel.bench.contenders.diffusers_worker")

    def environment(self) -> dict[str, str]:
        """See ProcessContender.environment: what torch compiled once is there for the next process, and for no other run."""
        return {"TORCHINDUCTOR_CACHE_DIR": str(self._peer.cache), "HF_HUB_OFFLINE": "1"}

    def opening(self) -> dict[str, Any]:
        """See ProcessContender.opening. Raises EngineError for a recipe that diffusers does not know."""
        request, manifest, peer = self.job.request, self.job.bundle.manifest, self._peer
        recipe = manifest.recipe(request.recipe)
        if request.sampler not in SAMPLERS or recipe is None:
            known = " and ".join(SAMPLERS)
            raise EngineError(f"diffusers is compared with samplers {known} only, and the recipe has {request.sampler}")
        schedule = schedule_of(recipe, request.sampler, request.steps)
        transformer = peer.checkpoint.transformer
        return {
            "checkpoint": str(peer.checkpoint.folder),
            "transformer": None if transformer is None else str(transformer),
            "compile": peer.compiled,
            "dtype": peer.dtype,
            "device": "cuda" if get_engine(self.job.engine).device == "gpu" else "cpu",
            "threads": self.job.threads or usable_cores(),
            "max_tokens": manifest.text.max_tokens,
            "sampler": request.sampler,
            "shift": request.shift,
            "train_timesteps": recipe.train_timesteps,
            "sigmas": schedule.sigmas[:-1].tolist(),
            "timesteps": schedule.timesteps.tolist(),
            "guidances": list(request.guidances),
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "latents": list(latent_shape(manifest.latent, request.width, request.height, request.frames)),
            **{key: getattr(request, key) for key in ("width", "height", "frames", "fps")},
        }
