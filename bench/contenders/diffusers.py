"""diffusers' WanPipeline beside edgereel: eager or compiled by torch, on the checkpoint that the bundle was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...bundle.geometry import latent_shape, token_count
from ...core.errors import EngineError, require_packages
from ...core.machine import usable_cores
from ...core.processes import python_command
from ...engines import get_engine
from ...runtime.sampling.recipes import schedule_of
from .base import Contender, RowPlan

SAMPLERS = ("euler", "unipc")
"""Of our samplers those that diffusers has as well."""
NEEDED = ("torch", "diffusers", "transformers", "ftfy")
"""Packages without which diffusers cannot make a clip."""


@dataclass(frozen=True)
class DiffusersCheckpoint:
    """A diffusers checkpoint folder. transformer: a folder with another one to put in, None for its own."""

    folder: Path
    transformer: Path | None = None


class DiffusersContender(Contender):
    """diffusers in a process of its own: bench/contenders/diffusers_worker.py."""

    kind = "diffusers"
    must_match = True
    packages: tuple[str, ...] = ("torch", "diffusers", "transformers", "accelerate", "ftfy", "av")

    def __init__(self, plan: RowPlan, checkpoint: DiffusersCheckpoint, compiled: bool, dtype: str, cache: Path) -> None:
        """dtype: of the transformer and the text encoder. cache: the folder for what torch compiles."""
        super().__init__(plan)
        self.checkpoint, self.compiled, self.dtype, self.cache = checkpoint, compiled, dtype, cache

    def start(self) -> dict[str, float]:
        """See Contender.start. Raises MissingExtraError where diffusers is not installed."""
        require_packages(NEEDED, "export", "comparing with diffusers")
        return super().start()

    def command(self) -> list[str]:
        """See Contender.command."""
        return python_command("edgereel.bench.contenders.diffusers_worker")

    def environment(self) -> dict[str, str]:
        """See Contender.environment: what torch compiled once is there for the next process, and for no other run."""
        return {"TORCHINDUCTOR_CACHE_DIR": str(self.cache), "HF_HUB_OFFLINE": "1"}

    def opening(self) -> dict[str, Any]:
        """See Contender.opening. Raises EngineError for a recipe that diffusers does not know."""
        request, manifest, checkpoint = self.plan.request, self.plan.bundle.manifest, self.checkpoint
        recipe = manifest.recipe(request.recipe)
        if request.sampler not in SAMPLERS or recipe is None:
            known = " and ".join(SAMPLERS)
            raise EngineError(f"diffusers is compared with samplers {known} only, and the recipe has {request.sampler}")
        latents = latent_shape(manifest.latent, request.width, request.height, request.frames)
        schedule = schedule_of(recipe, request.sampler, request.steps, token_count(manifest.latent, latents))
        same = ("width", "height", "frames", "fps", "sampler", "shift", "prompt", "negative_prompt")
        return {
            "checkpoint": str(checkpoint.folder),
            "transformer": None if checkpoint.transformer is None else str(checkpoint.transformer),
            "compile": self.compiled,
            "dtype": self.dtype,
            "device": "cuda" if get_engine(self.plan.engine).device == "gpu" else "cpu",
            "threads": self.plan.threads or usable_cores(),
            "max_tokens": manifest.text.max_tokens,
            "train_timesteps": recipe.train_timesteps,
            "sigmas": schedule.sigmas[:-1].tolist(),
            "timesteps": schedule.timesteps.tolist(),
            "guidances": list(request.guidances),
            "latents": list(latents),
            **{key: getattr(request, key) for key in same},
        }
