"""From noise to a clip's latents: the sampler's loop, and which denoiser predicts at each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.geometry import token_count
from ..bundle.manifest import Denoiser, Manifest
from ..core.errors import BundleError, EngineError
from ..core.progress import InterruptibleProgress, Progress
from ..engines import Tensor
from ..engines.base import run_graph
from ..engines.stopping import stop_when
from .chunks.context import Context
from .conditioning import Known
from .memory.plan import MemoryPlan
from .open_graphs import OpenGraphs
from .request import Request
from .sampling.noise import NoiseSource
from .sampling.recipes import schedule_of
from .sampling.samplers import SAMPLERS

OnClean = Callable[[NDArray[np.float32]], object]
"""Shown clean latents [1, C, F, H, W] that the model believes in at a step, x - sigma·v; it must not change them."""
SeenContext = Callable[[], dict[str, Tensor]]
"""Gives what a denoiser takes of the frames before: `positions`, `context_positions`, `context_NN`."""


@dataclass(frozen=True)
class Denoising:
    """What the sampling of one clip runs on.

    plan: the one to hold to. prompt_embeds: of the prompt and, where a denoiser is guided, of the negative prompt. known:
    what goes in beside them. add_time: see Reel.add_time. on_clean: shown at each step what the clip would be if it ended now,
    of the first chunk alone.
    """

    manifest: Manifest
    graphs: OpenGraphs
    plan: MemoryPlan
    request: Request
    prompt_embeds: Sequence[Tensor]
    add_time: Callable[[str, float, str], None]
    known: Known = field(default_factory=Known)
    on_clean: OnClean | None = None

    def sample(
        self,
        latents: NDArray[np.float32],
        noise: NoiseSource,
        on_progress: Progress | None,
        seen: Sequence[SeenContext] = (),
        chunk: tuple[int, int] = (0, 1),
    ) -> NDArray[np.float32]:
        """Return the denoised latents [1, C, F, H, W]. latents: initial noise. noise: where the sampler takes more from.

        seen: what each of prompt_embeds looks back at, nothing where empty. chunk: which of how many these latents are, as
        on_progress is told. Raises EngineError where a graph fails or the result is not finite, Cancelled.
        """
        request = self.request
        recipe = self.manifest.recipe(request.recipe)
        assert recipe is not None

        def velocity_of(noisy: NDArray[np.float32], timestep: float, sigma: float) -> NDArray[np.float32]:
            index = pick_expert(self.manifest.roles.denoiser, timestep, recipe.train_timesteps, recipe.boundary)
            velocity = self._predict(index, noisy, timestep, 0, seen)
            if request.guidances[index] > 1:
                without = self._predict(index, noisy, timestep, 1, seen)
                velocity = without + np.float32(request.guidances[index]) * (velocity - without)
            if self.on_clean is not None and chunk[0] == 0:
                self.on_clean(self.known.put_back(noisy - np.float32(sigma) * velocity))
            return velocity

        total, before = request.steps * chunk[1], request.steps * chunk[0]
        progress = InterruptibleProgress(on_progress, "denoise", total)
        progress(before, total)
        with stop_when(progress.is_cancelled):
            sampled = SAMPLERS[request.sampler].sample(
                velocity_of,
                latents,
                schedule_of(recipe, request.sampler, request.steps, token_count(self.manifest.latent, latents.shape)),
                lambda: noise.draw(latents.shape),
                lambda done, _: progress(before + done, total),
            )
        if not np.isfinite(sampled).all():
            raise EngineError("sampling gave values that are not numbers: try another precision or engine")
        return self.known.put_back(sampled)

    def remember(self, latents: NDArray[np.float32], timestep: float, which: int, context: Context, first: int) -> None:
        """Put what the denoiser leaves of clean latents [1, C, F, H, W] into a context.

        which: of prompt_embeds, whose context it is. first: the number of the first of these frames in the film. Raises
        EngineError, Cancelled.
        """
        name = self.manifest.roles.denoiser_names()[0]
        count = latents.shape[2]
        plain = replace(self.known, held=None)
        inputs = plain.inputs(self.manifest.roles.denoiser[0], latents, timestep)
        inputs |= {"prompt_embeds": self.prompt_embeds[which], **context.inputs(first, count)}

        def run() -> None:
            session = self.graphs.session(name)
            started = time.perf_counter()
            context.remember(session, session.run(inputs), first, count)
            self.add_time("remember", started, name)

        self.graphs.run(name, run, self.plan)

    def _predict(
        self,
        index: int,
        noisy: NDArray[np.float32],
        timestep: float,
        which: int,
        seen: Sequence[SeenContext],
    ) -> NDArray[np.float32]:
        """Return what the denoiser of that index predicts of these latents for one of prompt_embeds."""
        name = self.manifest.roles.denoiser_names()[index]
        inputs = self.known.inputs(self.manifest.roles.denoiser[index], noisy, timestep)
        inputs["prompt_embeds"] = self.prompt_embeds[which]
        if seen:
            inputs |= seen[which]()

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
