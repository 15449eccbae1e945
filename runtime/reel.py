"""A bundle opened on a device, ready to turn prompts into videos."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines import EngineOptions, EngineReport, Session, Tensor, get_engine
from ..engines.base import Engine
from ..errors import Cancelled, EdgereelError, EngineError
from .bundle import Bundle, open_bundle
from .clip import Video
from .geometry import latent_shape
from .manifest import Denoiser
from .noise import NoiseSource
from .request import Request, complete_request
from .samplers import SAMPLERS
from .text import PromptTokenizer

Progress = Callable[[str, int, int], object]


class Reel:
    """A bundle and the engine that runs it. Graphs are opened when first needed and stay open until `close`.

    timings: seconds spent so far by stage (`open`, `text`, `denoise`, `decode`, `encode`).
    """

    def __init__(self, bundle: Bundle, engine: Engine, options: EngineOptions) -> None:
        self.bundle = bundle
        self.timings: dict[str, float] = {}
        self._engine = engine
        self._options = options
        self._sessions: dict[str, Session] = {}
        self._tokenizer = PromptTokenizer(bundle.path(bundle.manifest.text.tokenizer), bundle.manifest.text)
        self._closed = False

    def __enter__(self) -> Reel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release every opened graph. Videos made by this reel can no longer be decoded."""
        while self._sessions:
            self._sessions.popitem()[1].close()
        self._closed = True

    def report(self) -> dict[str, EngineReport]:
        """Return what really runs, for each graph opened so far."""
        return {name: session.report for name, session in self._sessions.items()}

    def add_time(self, stage: str, started: float) -> None:
        """Add the seconds since `started` (time.perf_counter) to a stage's account."""
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - started

    def session(self, name: str) -> Session:
        """Return the opened graph of that name (see Roles.graphs), opening it if need be.

        Raises EngineError where the reel is closed or the engine cannot open the graph.
        """
        if self._closed:
            raise EngineError("this reel is closed: keep it open (inside the with block) while its videos are used")
        if name not in self._sessions:
            started = time.perf_counter()
            graph = self.bundle.manifest.roles.graphs()[name]
            self._sessions[name] = self._engine.open(self.bundle.path(graph.file), self._options)
            self.add_time("open", started)
        return self._sessions[name]

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
        noise, float32 [1, C, F, H, W], unit normal, in the place of the seed's. on_progress(stage, done, total), called
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
        if latents is None:
            shape = latent_shape(self.bundle.manifest.latent, request.width, request.height, request.frames)
            latents = NoiseSource(request.seed).draw(shape)
        embeddings = self._embed(request, on_progress)
        sampled = self._sample(request, latents, embeddings, on_progress)
        return Video(self, request, sampled)

    def _embed(self, request: Request, on_progress: Progress | None) -> list[Tensor]:
        """Return the prompt's embeddings and, where guidance needs them, the negative prompt's."""
        tokens = [self._tokenizer.encode(request.prompt)]
        if request.guidance > 1:
            tokens.append(self._tokenizer.encode(request.negative_prompt, allow_empty=True, name="negative prompt"))
        report_progress(on_progress, "text", 0, len(tokens))
        session = self.session("text_encoder")
        embeddings = []
        for done, (input_ids, attention_mask) in enumerate(tokens, start=1):
            started = time.perf_counter()
            inputs = {"input_ids": Tensor.from_numpy(input_ids), "attention_mask": Tensor.from_numpy(attention_mask)}
            embeddings.append(session.run(inputs)["prompt_embeds"])
            self.add_time("text", started)
            report_progress(on_progress, "text", done, len(tokens))
        return embeddings

    def _sample(
        self, request: Request, latents: NDArray[np.float32], embeddings: list[Tensor], on_progress: Progress | None
    ) -> NDArray[np.float32]:
        experts = list(zip(self._denoiser_names(), self.bundle.manifest.roles.denoiser, strict=True))

        def velocity_of(noisy: NDArray[np.float32], timestep: float, sigma: float) -> NDArray[np.float32]:
            name, expert = pick_expert(experts, sigma)
            guidance = request.guidance if expert.guidance is None else expert.guidance
            session = self.session(name)
            started = time.perf_counter()
            inputs = {
                "latents": Tensor.from_numpy(noisy),
                "timestep": Tensor.from_numpy(np.array([timestep], np.float32)),
            }
            velocity: NDArray[np.float32] = session.run({**inputs, "prompt_embeds": embeddings[0]})[
                "prediction"
            ].numpy()
            if len(embeddings) == 2 and guidance > 1:
                without = session.run({**inputs, "prompt_embeds": embeddings[1]})["prediction"].numpy()
                velocity = without + np.float32(guidance) * (velocity - without)
            self.add_time("denoise", started)
            return velocity

        recipe = self.bundle.manifest.recipe(request.recipe)
        assert recipe is not None
        sampler = SAMPLERS[request.sampler]
        schedule = sampler.schedule(request.steps, request.shift, recipe.train_timesteps)
        report_progress(on_progress, "denoise", 0, request.steps)
        sampled = sampler.sample(
            velocity_of, latents, schedule, lambda done, total: report_progress(on_progress, "denoise", done, total)
        )
        if not np.isfinite(sampled).all():
            raise EngineError("sampling gave values that are not numbers: try another precision or engine")
        return sampled

    def _denoiser_names(self) -> list[str]:
        return [name for name in self.bundle.manifest.roles.graphs() if name.startswith("denoiser")]


def report_progress(on_progress: Progress | None, stage: str, done: int, total: int) -> None:
    """Tell the caller how far a stage is. Raises Cancelled where the caller answers False."""
    if on_progress is not None and on_progress(stage, done, total) is False:
        raise Cancelled(f"cancelled during {stage}")


def pick_expert(experts: list[tuple[str, Denoiser]], sigma: float) -> tuple[str, Denoiser]:
    """Return the denoiser responsible for a noise level: sigma_low <= sigma < sigma_high, the top one included."""
    for name, expert in experts:
        if expert.sigma_low <= sigma and (sigma < expert.sigma_high or expert.sigma_high >= 1):
            return name, expert
    raise EdgereelError(f"no denoiser of this bundle is responsible for sigma {sigma:.4f}")


def load(
    path: str | Path | None = None,
    engine: str = "auto",
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Reel:
    """Open a bundle (None: the built-in demo) for generation, ready to be used in a `with` block.

    engine: `auto` or the name of one. threads: CPU threads per operator, None for all cores.
    Raises BundleError, UsageError, MissingExtraError.
    """
    started = time.perf_counter()
    bundle = open_bundle(demo_bundle_path() if path is None else path, on_progress=on_progress)
    reel = Reel(bundle, get_engine(engine), EngineOptions(threads=threads))
    reel.add_time("open", started)
    return reel


def demo_bundle_path() -> Path:
    """Return the folder of the built-in demo bundle."""
    return Path(__file__).resolve().parent.parent / "demo" / "demo.reel"


def describe_engine(reel: Reel) -> dict[str, Any]:
    """Return in one record which engine, provider and precision ran, for a video's settings."""
    reports = list(reel.report().values())
    if not reports:
        return {}
    first = reports[0]
    return {
        "engine": first.engine,
        "version": first.version,
        "threads": first.threads,
        "provider": sorted({report.provider for report in reports}),
        "precision": sorted({report.precision for report in reports}),
    }
