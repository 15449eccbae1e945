"""A bundle opened on a device, ready to turn prompts into videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ..bundle.geometry import clip_size, latent_shape
from ..bundle.reader import Bundle, open_bundle
from ..core.machine import check_threads, gpu_memory_of_process
from ..core.paths import demo_bundle_path
from ..core.progress import Progress, Span
from ..engines import Engine, EngineOptions, EngineReport, Session, Tensor, get_engine
from .chunks.loop import ChunkLoop, sample_chunks
from .clip import Video
from .clip_decoder import ClipDecoder, decoder_noise
from .conditioning import GivenPictures, PictureEncoder, to_float
from .continuation import continue_file, continue_video
from .decoding.tiling import check_scratch
from .denoise import Denoising, OnClean
from .engine_facts import engine_facts, quantized_words
from .memory.budget import budget_of
from .memory.fit import plan_clip
from .memory.plan import MemoryPlan
from .memory.sizes import TEXT_ENCODER, Uses
from .open_graphs import OpenGraphs
from .request import OpenRequest, Request
from .sampling.noise import NoiseSource
from .streaming import Stream
from .text.embedder import NEGATIVE, Prompt, PromptEmbedder
from .text.embedding_cache import EmbeddingCache


class Reel:
    """A bundle and the engine that runs it. Graphs are opened when first needed, and closed when the memory plan says.

    Several clips may be under way at once, from several threads or one inside the other: their steps take turns.

    graphs: the opened ones, and what had to be given up where memory ran out all the same.
    timings: seconds spent so far by stage (`open`, `text`, `denoise`, `decode`, `encode`).
    peak_device_bytes: the most that this process was seen to hold on the GPU, None on a CPU or where nothing tells.
    decoder: decodes clips; the videos hold on to it, not to the reel.
    embedder: embeds prompts; those in the cache need neither the tokenizer nor the text encoder.
    on_span: told of every piece of work as it ends, by who measures; None for nobody.
    only_decodes: whether nothing will be sampled, so that memory is planned for the decoder alone.
    on_plan: told of the memory plan before the first clip of each size. streams: those that have not ended.
    on_clean: shown what each clip that is sampled would be if it ended now, see Denoising; `decoder.first_picture` decodes it.
    threads: CPU threads per operator, None for all cores.
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
        self.streams: WeakSet[Stream] = WeakSet()
        self.on_clean: OnClean | None = None
        self.threads = options.threads
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
        self.decoder = ClipDecoder(bundle, self.graphs, self.plan, self.add_time, self.facts)

    def __enter__(self) -> Reel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End its streams and release every opened graph. Videos made by this reel can no longer be decoded."""
        for stream in list(self.streams):
            stream.close()
        self.graphs.close()

    def stop(self) -> None:
        """End what is being made or decoded, from another thread: there Cancelled is raised, in the middle of a step too.

        The reel goes on with the next clip.
        """
        self.graphs.stop()

    @property
    def engine_picked(self) -> str:
        """Which engine `auto` picked and why, "" where it was asked for by name; and what it makes of a quantized bundle."""
        return "; ".join(filter(None, (self._engine.why, quantized_words(self.bundle.manifest, self._engine))))

    def report(self) -> dict[str, EngineReport]:
        """Return what really runs, for each graph opened so far: no text encoder where all prompts were cached."""
        return self.graphs.reports()

    def facts(self) -> dict[str, Any]:
        """Return in one record which engine, provider and precision ran, for a video's settings."""
        return engine_facts(self.report(), self.embedder.ran_before)

    def numerics(self) -> dict[str, str]:
        """Return all that decides, beside a bundle and a request, what latents come out; see Engine.numerics."""
        return self._engine.numerics(self._options)

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

    def plan(
        self, width: int, height: int, frames: int, on_progress: Progress | None = None, uses: Uses = Uses()
    ) -> MemoryPlan:
        """Return how memory will be used for clips of this size, and hold to it from now on. on_progress, uses: see plan_clip.

        Raises GeometryError where the model cannot do the size, PlanError where nothing fits, naming what would.
        """
        size = (width, height, frames)
        latents = latent_shape(self.bundle.manifest.latent, *size)
        key = (latents, uses)
        with self.graphs.lock:
            if (more := (latents, replace(uses, pictures=True))) in self.graphs.plans:
                key = more  # a clip that was made from pictures is decoded under the plan of its making
            if key not in self.graphs.plans:
                started = time.perf_counter()
                plan = plan_clip(
                    self.bundle,
                    size,
                    self._engine,
                    self._options,
                    self._budget,
                    only_decoder=self.only_decodes,
                    uses=uses,
                    on_progress=on_progress,
                )
                if plan.tile is not None:
                    check_scratch(latents, self.bundle.manifest.latent, plan.tile)
                self.graphs.plans[key] = plan
                if self.on_plan is not None:
                    self.on_plan(plan)
                self.add_time("open", started, "plan")
            self.graphs.plan = self.graphs.plans[key]
            return self.graphs.plan

    def generate(
        self,
        prompt: str,
        *,
        on_progress: Progress | None = None,
        on_preview: Callable[[Video], object] | None = None,
        **settings: Any,
    ) -> Video:
        """Sample a clip's latents; the video decodes them when it is iterated or saved.

        settings: `seed`, `steps`, `guidance`, `negative_prompt`, `size`, `frames`, `fps`, `latents`, `sampler`, `recipe`,
        `image`, `last_image`, `fit`, `decoder`, as OpenRequest describes them; what is left out, or None, is the bundle's
        own. on_progress(stage, done, total), called before the first and after each step of a stage, may return False to
        cancel. on_preview: given at each step a video of what the model believes in then, decoded by the bundle's tiny decoder
        where it has one; of streams, of the chunk that is sampled; of a first stage, in its size.

        Raises PromptError, GeometryError, UsageError before anything is computed; TypeError for a setting that is none;
        EngineError; Cancelled.
        """
        return self.make(OpenRequest.of(prompt, settings), on_progress, on_preview)

    def make(
        self,
        asked: OpenRequest,
        on_progress: Progress | None = None,
        on_preview: Callable[[Video], object] | None = None,
    ) -> Video:
        """Sample the clip of a request; see `generate`."""
        self.graphs.begin()
        manifest = self.bundle.manifest
        files = asked.files
        asked = asked.with_pictures(manifest)
        request = asked.complete(manifest)
        denoising, given = self.prepare(request, asked.pictures(request), on_progress)
        if on_preview is not None:
            denoising = replace(denoising, on_clean=lambda latents, _: on_preview(self._preview(request, latents)))
        video = self.sample(request, denoising, given, on_progress, asked.latents)
        video.inputs = files
        return video

    def _preview(self, request: Request, latents: NDArray[np.float32]) -> Video:
        """Return a video of latents that are not done."""
        manifest = self.bundle.manifest
        # A stream's chunk is whole where a shorter clip is its beginning.
        latents = latents[:, :, : latent_shape(manifest.latent, request.width, request.height, request.frames)[2]]
        width, height, frames = clip_size(manifest.latent, latents.shape)
        decoder = manifest.preview_decoder if request.decoder is not None else None
        shown = replace(request, width=width, height=height, frames=frames, overlap=0, decoder=decoder)
        return self.video(shown, latents, decoder_noise(manifest, decoder, latents.shape, NoiseSource(request.seed)))

    def sample(
        self,
        request: Request,
        denoising: Denoising,
        given: NDArray[np.float32] | None,
        on_progress: Progress | None,
        own: NDArray[np.float32] | None = None,
    ) -> Video:
        """Sample the clip of a request on what `prepare` gave, chunk by chunk where the bundle makes streams.

        given: latents [1, C, F, H, W] that a film begins with. own: initial noise in the place of what is drawn. Raises
        EngineError, Cancelled.
        """
        manifest, noise = self.bundle.manifest, NoiseSource(request.seed)
        shape = latent_shape(manifest.latent, request.width, request.height, request.frames)
        if manifest.stream is not None:
            loop = ChunkLoop(denoising, noise, shape)
            if given is not None:
                loop.resume(given)
            latents = sample_chunks(loop, shape[2], given, own, on_progress)
        elif len(stages := request.stages(manifest)) > 1:
            uses = Uses(request.decoder)

            def plan_of(width: int, height: int, frames: int) -> MemoryPlan:
                return self.plan(width, height, frames, None, uses)

            latents = denoising.sample_in_stages(stages, noise, plan_of, on_progress)
        else:
            # The initial latents are drawn in any case: re-noising with the noise that a clip began with would be wrong.
            drawn = noise.draw(shape)
            latents = denoising.sample(drawn if own is None else own, noise, on_progress)
        return self.video(request, latents, decoder_noise(manifest, request.decoder, latents.shape, noise))

    def video(self, request: Request, latents: NDArray[np.float32], noise: NDArray[np.float32] | None) -> Video:
        """Return the clip of latents that were sampled; it can be decoded and continued while the reel is open.

        noise: see decoder_noise.
        """
        return Video(self.decoder, request, latents, noise, partial(continue_video, self))

    def continue_file(
        self,
        path: str | Path,
        prompt: str,
        *,
        seconds: float | None = None,
        on_progress: Progress | None = None,
        **settings: Any,
    ) -> Video:
        """Sample what follows the clip in a video file, from its last pictures; the video is of the new pictures alone.

        seconds, settings: see Video.continue_. Raises UsageError where the bundle takes no pictures, or the file is no video
        or too short; what `generate` raises.
        """
        return continue_file(self, Path(path), OpenRequest.of(prompt, settings), seconds, on_progress)

    def stream(
        self,
        prompt: str,
        *,
        seconds: float | None = None,
        then: Sequence[tuple[float, str]] = (),
        on_progress: Progress | None = None,
        **settings: Any,
    ) -> Stream:
        """Return a film without end, or of so many seconds: an iterator of pictures, uint8 [H, W, 3].

        then: (seconds, prompt): from the first chunk on that begins at or after that time the film is of this prompt; so is it
        from the next chunk on where `stream.prompt` is set meanwhile. settings: those of `generate` but for `frames` and
        `latents`. on_progress is told of the stages before the first picture.
        Raises UsageError where the bundle makes no streams, PlanError where the decoder would have to work in tiles, and what
        `generate` raises.
        """
        stream = Stream(self, OpenRequest.of(prompt, settings), seconds, then, on_progress)
        self.streams.add(stream)
        return stream

    def prepare(
        self, request: Request, pictures: GivenPictures, on_progress: Progress | None
    ) -> tuple[Denoising, NDArray[np.float32] | None]:
        """Return what a clip is sampled on, and the latents [1, C, F, H, W] that a film begins with, None for none.

        Raises EngineError, PlanError, PromptError, Cancelled.
        """
        manifest = self.bundle.manifest
        # A stream is as large as its chunks, however long it is.
        uses = Uses(request.decoder, bool(pictures) or manifest.condition is not None)
        plan = self.plan(request.width, request.height, request.frames, on_progress, uses)
        embeddings = self.embed_request(request, plan, on_progress)
        encoder = PictureEncoder(manifest, self.graphs, plan, self.add_time, on_progress)
        size = (request.width, request.height)
        known = encoder.known(pictures, size, request.frames, float(request.fps))
        given = None
        if pictures.before and manifest.stream is not None and manifest.held is None:
            given = encoder.latents([to_float(picture) for picture in pictures.before])
        denoising = Denoising(manifest, self.graphs, plan, request, embeddings, self.add_time, known, self.on_clean)
        return denoising, given

    def embed_request(self, request: Request, plan: MemoryPlan, on_progress: Progress | None = None) -> list[Tensor]:
        """Return the embeddings of a request's prompt and, where it is guided, of its negative prompt.

        They are in memory of their own. Raises PromptError, EngineError, Cancelled.
        """
        prompts = [Prompt(request.prompt)]
        if max(request.guidances) > 1:
            prompts.append(Prompt(request.negative_prompt, NEGATIVE))
        return self.graphs.run(
            TEXT_ENCODER,
            lambda: [embedding.detached() for embedding in self.embedder.embed(prompts, on_progress)],
            plan,
        )

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError where the model cannot take this prompt, as generate would."""
        self.embedder.check(Prompt(prompt))


def numerics_options(bundle: Bundle, options: EngineOptions) -> EngineOptions:
    """Return the options that decide what numbers the text encoder gives: how it is held in memory does not."""
    return replace(options, activations=bundle.manifest.roles.text_encoder.activations or "float")


def load(
    path: str | Path | None = None,
    engine: str = "auto",
    threads: int | None = None,
    on_progress: Progress | None = None,
    cache: bool = True,
    memory: int | str | None = None,
) -> Reel:
    """Open a bundle for generation, ready to be used in a `with` block.

    path: its folder, or the name of a model in the models folder; None for the built-in demo.
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
