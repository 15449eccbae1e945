"""From noise to a clip's latents: the sampler's loop, and which denoiser predicts at each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Denoiser, Manifest
from ..core.errors import BundleError, EngineError
from ..core.progress import InterruptibleProgress, Progress
from ..engines import Tensor
from ..engines.base import run_graph
from ..engines.stopping import stop_when
from .memory.plan import MemoryPlan
from .open_graphs import OpenGraphs
from .request import Request
from .sampling.noise import NoiseSource
from .sampling.recipes import schedule_of
from .sampling.samplers import SAMPLERS


@dataclass(frozen=True)
class Denoising:
    """What the sampling of one clip runs on.

    plan: the one to hold to. prompt_embeds: of the prompt and, where a denoiser is guided, of the negative prompt.
    add_time: see Reel.add_time.
    """

    manifest: Manifest
    graphs: OpenGraphs
    plan: MemoryPlan
    request: Request
    prompt_embeds: Sequence[Tensor]
    add_time: Callable[[str, float, str], None]

    def sample(
        self, latents: NDArray[np.float32], noise: NoiseSource, on_progress: Progress | None
    ) -> NDArray[np.float32]:
        """Return the denoised latents [1, C, F, H, W]. latents: initial noise. noise: where the sampler takes more from.

        Raises EngineError where a graph fails or the result is not finite, Cancelled.
        """
        request = self.request
        recipe = self.manifest.recipe(request.recipe)
        assert recipe is not None

        def velocity_of(noisy: NDArray[np.float32], timestep: float, sigma: float) -> NDArray[np.float32]:
            index = pick_expert(self.manifest.roles.denoiser, timestep, recipe.train_timesteps, recipe.boundary)
            velocity = self._predict(index, noisy, timestep, self.prompt_embeds[0])
            if request.guidances[index] > 1:
                without = self._predict(index, noisy, timestep, self.prompt_embeds[1])
                velocity = without + np.float32(request.guidances[index]) * (velocity - without)
            return velocity

        progress = InterruptibleProgress(on_progress, "denoise", request.steps)
        progress(0, request.steps)
        with stop_when(progress.is_cancelled):
            sampled = SAMPLERS[request.sampler].sample(
                velocity_of,
                latents,
                schedule_of(recipe, request.sampler, request.steps),
                lambda: noise.draw(latents.shape),
                progress,
            )
        if not np.isfinite(sampled).all():
            raise EngineError("sampling gave values that are not numbers: try another precision or engine")
        return sampled

    def _predict(
        self, index: int, noisy: NDArray[np.float32], timestep: float, prompt_embeds: Tensor
    ) -> NDArray[np.float32]:
        """Return what the denoiser of that index predicts of these latents."""
        name = self.manifest.roles.denoiser_names()[index]
        inputs = {
            "latents": Tensor.from_numpy(noisy),
            "timestep": Tensor.from_numpy(np.array([timestep], np.float32)),
            "prompt_embeds": prompt_embeds,
        }

        def run() -> NDArray[np.float32]:
            session = self.graphs.session(name)
            started = time.perf_counter()
            predicted: NDArray[np.float32] = run_graph(session, name, inputs, "prediction").numpy()
            self.add_time("denoise", started, name)
            return predicted

        prediction = self.graphs.run(name, run, self.plan)
        if prediction.shape != noisy.shape:
            raise EngineError(
                f"{name} gave a prediction of shape {list(prediction.shape)} for latents {list(noisy.shape)}"
            )
        return prediction


def pick_expert(
    experts: list[Denoiser], timestep: float, train_timesteps: int = 1000, boundary: float | None = None
) -> int:
    """Return the index of the denoiser for a step: sigma_low <= sigma < sigma_high, the top one included.

    The timestep is compared, not the sigma, since where a schedule rounds timesteps these are what the experts were
    split by; diffusers does the same. boundary: the sigma that splits two experts in the place of their own ranges.

    Raises BundleError where no denoiser is responsible.
    """
    if boundary is not None and len(experts) == 2:
        upper = int(experts[1].sigma_high > experts[0].sigma_high)
        return upper if timestep >= boundary * train_timesteps else 1 - upper
    for index, expert in enumerate(experts):
        above_low = timestep >= expert.sigma_low * train_timesteps
        if above_low and (timestep < expert.sigma_high * train_timesteps or expert.sigma_high >= 1):
            return index
    raise BundleError(f"no denoiser of this bundle is responsible for sigma {timestep / train_timesteps:.4f}")
