"""A bundle opened on a device, ready to turn prompts into videos."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.geometry import latent_shape
from ..bundle.manifest import Denoiser
from ..bundle.reader import Bundle, open_bundle
from ..core.errors import BundleError, EngineError
from ..core.machine import check_threads, gpu_memory_of_process
from ..core.paths import demo_bundle_path
from ..core.progress import Progress, Span, report_progress
from ..engines import EngineOptions, EngineReport, Session, Tensor, get_engine
from ..engines.base import Engine
from .clip import Video
from .memory.budget import budget_of
from .memory.fit import plan_clip
from .memory.plan import MemoryPlan
from .memory.sizes import TEXT_ENCODER
from .open_graphs import OpenGraphs
from .request import Request, complete_request
from .running import run_graph
from .sampling.noise import NoiseSource
from .sampling.recipes import schedule_of
from .sampling.samplers import SAMPLERS
from .text.embedder import NEGATIVE, Prompt, PromptEmbedder
from .text.embedding_cache import EmbeddingCache


class Reel:
    """A bundle and the engine that runs it. Graphs are opened when first needed, and closed when the memory plan says.

    graphs: the opened ones, and what had to be given up where memory ran out all the same.
    timings: seconds spent so far by stage (`open`, `text`, `denoise`, `decode`, `encode`).
    peak_device_bytes: the most that this process was seen to hold on the GPU, None on a CPU or where nothing tells.
    embedder: embeds prompts; those in the cache need neither the tokenizer nor the text encoder.
    on_span: told of every piece of work as it ends, by who measures; None for nobody.
    only_decodes: whether nothing will be sampled, so that memory is planned for the decoder alone.
    on_plan: told of the memory plan before the first clip of each size.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        options: EngineOptions,
        cache: EmbeddingCache | None = None,
        memory: int | str | None = None,
    ) -> None:
        """memory: bytes, or text such as "6GiB", that may be used at most; None for what is free less a margin.

        Raises UsageError for that, and for more threads than the machine has use for.
        """
        options = replace(options, threads=check_threads(options.threads))
        self.bundle = bundle
        self.timings: dict[str, float] = {}
        self.peak_device_bytes: int | None = None
        self.on_span: Callable[[Span], None] | None = None
        self.only_decodes = False
        self.on_plan: Callable[[MemoryPlan], object] | None = None
        self._engine = engine
        self._options = options
        self._budget = budget_of(memory, engine.device)
        self.graphs = OpenGraphs(bundle, engine, options, self.add_time)
        self.embedder = PromptEmbedder(
            bundle,
            lambda: engine.numerics(numerics_options(bundle, options)),
            cache,
            lambda: self.session(TEXT_ENCODER),
            self.add_time,
        )

    def __enter__(self) -> Reel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release every opened graph. Videos made by this reel can no longer be decoded."""
        self.graphs.close()

    @property
    def engine_picked(self) -> str:
        """Which engine `auto` picked and why, "" where it was asked for by name."""
        return self._engine.why

    def report(self) -> dict[str, EngineReport]:
        """Return what really runs, for each graph opened so far: no text encoder where all prompts were cached."""
        return self.graphs.reports()

    def add_time(self, stage: str, started: float, name: str = "") -> None:
        """Add the seconds since `started` (time.perf_counter) to a stage's account. name: what of the stage it was."""
        seconds = time.perf_counter() - started
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds
        if self._engine.device == "gpu":
            held = gpu_memory_of_process()
            self.peak_device_bytes = held if held is None else max(held, self.peak_device_bytes or 0)
        if self.on_span is not None:
            self.on_span(Span(stage, name, started, seconds))

    def session(self, name: str) -> Session:
        """Return the opened graph of that name; see OpenGraphs.session."""
        return self.graphs.session(name)

    def plan(self, width: int, height: int, frames: int) -> MemoryPlan:
        """Return how memory will be used for clips of this size, and hold to it from now on.

        Raises GeometryError where the model cannot do the size, PlanError where nothing fits, naming what would.
        """
        size = (width, height, frames)
        latents = latent_shape(self.bundle.manifest.latent, *size)
        if latents not in self.graphs.plans:
            started = time.perf_counter()
            plan = self.graphs.plans[latents] = plan_clip(
                self.bundle, size, self._engine, self._options, self._budget, only_decoder=self.only_decodes
            )
            if self.on_plan is not None:
                self.on_plan(plan)
            self.add_time("open", started, "plan")
        self.graphs.plan = self.graphs.plans[latents]
        return self.graphs.plan

    def generate(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        fps: int | None = None,
        latents: NDArray[np.float32] | None = None,
        sampler: str | None = None,
        recipe: str | None = None,
        on_progress: Progress | None = None,
    ) -> Video:
        """Sample a clip's latents; the video decodes them when it is iterated or saved.

        None means the bundle's own recipe and defaults (seed: 0). size: (width, height) in pixels. latents: initial
        noise, float32 [1, C, F, H, W], unit normal, in the place of the seed's; what the sampler draws later on stays the
        seed's. on_progress(stage, done, total), called
        before the first and after each step of a stage, may return False to cancel.

        Raises PromptError, GeometryError, UsageError before anything is computed; EngineError; Cancelled.
        """
        request = complete_request(
            self.bundle.manifest,
            prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative_prompt=negative_prompt,
            size=size,
            frames=frames,
            fps=fps,
            latents=latents,
            sampler=sampler,
            recipe=recipe,
        )
        noise = NoiseSource(request.seed)
        self.plan(request.width, request.height, request.frames)
        prompts = [Prompt(request.prompt)]
        if max(request.guidances) > 1:
            prompts.append(Prompt(request.negative_prompt, NEGATIVE))
        embeddings = self.graphs.run(
            TEXT_ENCODER, lambda: [embedding.detached() for embedding in self.embedder.embed(prompts, on_progress)]
        )
        # The initial latents are drawn in any case: re-noising with the noise that a clip began with would be wrong.
        drawn = noise.draw(latent_shape(self.bundle.manifest.latent, request.width, request.height, request.frames))
        sampled = self._sample(request, drawn if latents is None else latents, noise, embeddings, on_progress)
        return Video(self, request, sampled)

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError where the model cannot take this prompt, as generate would."""
        self.embedder.check(Prompt(prompt))

    def _sample(
        self,
        request: Request,
        latents: NDArray[np.float32],
        noise: NoiseSource,
        embeddings: list[Tensor],
        on_progress: Progress | None,
    ) -> NDArray[np.float32]:
        """Return the denoised latents. noise: where the sampler takes more noise from."""
        experts = self.bundle.manifest.roles.denoiser
        recipe = self.bundle.manifest.recipe(request.recipe)
        assert recipe is not None

        def velocity_of(noisy: NDArray[np.float32], timestep: float, sigma: float) -> NDArray[np.float32]:
            index = pick_expert(experts, timestep, recipe.train_timesteps, recipe.boundary)
            velocity = self._predict(index, noisy, timestep, embeddings[0])
            if request.guidances[index] > 1:
                without = self._predict(index, noisy, timestep, embeddings[1])
                velocity = without + np.float32(request.guidances[index]) * (velocity - without)
            return velocity

        report_progress(on_progress, "denoise", 0, request.steps)
        sampled = SAMPLERS[request.sampler].sample(
            velocity_of,
            latents,
            schedule_of(recipe, request.sampler, request.steps),
            lambda: noise.draw(latents.shape),
            lambda done, total: report_progress(on_progress, "denoise", done, total),
        )
        if not np.isfinite(sampled).all():
            raise EngineError("sampling gave values that are not numbers: try another precision or engine")
        return sampled

    def _predict(
        self, index: int, noisy: NDArray[np.float32], timestep: float, prompt_embeds: Tensor
    ) -> NDArray[np.float32]:
        """Return what the denoiser of that index predicts of these latents."""
        name = self.bundle.manifest.roles.denoiser_names()[index]
        inputs = {
            "latents": Tensor.from_numpy(noisy),
            "timestep": Tensor.from_numpy(np.array([timestep], np.float32)),
            "prompt_embeds": prompt_embeds,
        }

        def run() -> NDArray[np.float32]:
            session = self.session(name)
            started = time.perf_counter()
            predicted: NDArray[np.float32] = run_graph(session, name, inputs, "prediction").numpy()
            self.add_time("denoise", started, name)
            return predicted

        prediction = self.graphs.run(name, run)
        if prediction.shape != noisy.shape:
            raise EngineError(
                f"{name} gave a prediction of shape {list(prediction.shape)} for latents {list(noisy.shape)}"
            )
        return prediction


def numerics_options(bundle: Bundle, options: EngineOptions) -> EngineOptions:
    """Return the options that decide what numbers the text encoder gives: how it is held in memory does not."""
    return replace(options, activations=bundle.manifest.roles.text_encoder.activations or "float")


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


def load(
    path: str | Path | None = None,
    engine: str = "auto",
    threads: int | None = None,
    on_progress: Progress | None = None,
    cache: bool = True,
    memory: int | str | None = None,
) -> Reel:
    """Open a bundle (None: the built-in demo) for generation, ready to be used in a `with` block.

    engine: `auto` or the name of one. threads: CPU threads per operator, at most 4 times the machine's cores, None for all
    that may be used.
    on_progress is told of the stage `check`, in which changed files are hashed. cache: keep prompt embeddings in the user's
    cache folder, and use those that are there. memory: bytes, or text such as "6GiB", that may be used at most; None for
    what is free less a margin.
    Raises BundleError, UsageError, Cancelled.
    """
    threads = check_threads(threads)
    started = time.perf_counter()
    bundle = open_bundle(demo_bundle_path() if path is None else path, on_progress=on_progress)
    reel = Reel(bundle, get_engine(engine), EngineOptions(threads=threads), EmbeddingCache() if cache else None, memory)
    reel.add_time("open", started)
    return reel


def describe_engine(reel: Reel) -> dict[str, Any]:
    """Return in one record which engine, provider and precision ran, for a video's settings.

    A text encoder that ran at another time counts: the record is the same whether a prompt was cached or not.
    """
    reports = list(reel.report().values())
    if not reports:
        return {}
    first = reports[0]
    ran = {(report.provider, report.precision) for report in reports} | reel.embedder.ran_before
    not_lowered = [report.lowered for report in reports if report.lowered not in ("cache", "built", "off")]
    return {
        **({"not_lowered": not_lowered[0]} if not_lowered else {}),
        "engine": first.engine,
        "version": first.version,
        "threads": first.threads,
        "provider": sorted({provider for provider, _ in ran}),
        "precision": sorted({precision for _, precision in ran}),
    }
