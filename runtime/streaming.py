"""Films without end: the next chunk is sampled in another thread while the last one decodes, and the prompt may change."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle.geometry import latent_shape
from ..bundle.manifest import Manifest
from ..bundle.reader import Bundle
from ..core.errors import OutOfMemory, PlanError
from ..core.progress import Progress
from ..engines import Session, Tensor
from ..engines.stopping import stop_when
from .chunks.loop import ChunkLoop
from .chunks.times import film_times
from .clip import told_settings
from .conditioning import GivenPictures
from .decoding.decoder import pictures_of_inputs
from .denoise import Denoising
from .memory.plan import MemoryPlan
from .memory.sizes import DECODER, streaming_graphs
from .open_graphs import OpenGraphs
from .pictures.fit import fit_picture
from .request import OpenRequest, Request
from .sampling.noise import NoiseSource

Picture = NDArray[np.uint8]
_LOOK = 0.25
"""Seconds between two looks whether to go on, where a signal's handler may have to run."""


class Maker(Protocol):
    """What a stream needs of a reel."""

    bundle: Bundle
    graphs: OpenGraphs

    def check_prompt(self, prompt: str) -> None:
        """See Reel.check_prompt."""

    def prepare(
        self, request: Request, pictures: GivenPictures, on_progress: Progress | None
    ) -> tuple[Denoising, NDArray[np.float32] | None]:
        """See Reel.prepare."""

    def embed_request(self, request: Request, plan: MemoryPlan, on_progress: Progress | None = None) -> list[Tensor]:
        """See Reel.embed_request."""

    def add_time(self, stage: str, started: float, name: str = "") -> None:
        """See Reel.add_time."""

    def facts(self) -> dict[str, Any]:
        """See Reel.facts."""


class Stream:
    """A film that goes on for as long as it is iterated: pictures uint8 [H, W, 3]. Leave its `with` block, or close it.

    The same settings give the same film. Set `prompt`, from any thread, and the next chunk that begins is of that prompt; what
    is remembered of the film is made anew with it. One chunk at most is sampled ahead, so that neither memory nor the wait for
    another prompt grows where pictures are taken slowly.

    request: the settings; its prompt is the first one. seconds: how long it is, None without end. then: the prompts that
    follow, and from when on. inputs: the files that went into it, which marks name.
    """

    def __init__(
        self,
        maker: Maker,
        asked: OpenRequest,
        seconds: float | None = None,
        then: Sequence[tuple[float, str]] = (),
        on_progress: Progress | None = None,
    ) -> None:
        """See Reel.stream."""
        manifest = maker.bundle.manifest
        self.seconds, self.then = film_times(manifest, asked, seconds, then)
        maker.graphs.begin()
        asked = replace(asked, frames=_pictures(manifest, manifest.stream.first if manifest.stream else 1))
        self.inputs = asked.files
        asked = asked.with_pictures(manifest)
        self.request = asked.complete(manifest)
        for _, text in self.then:
            maker.check_prompt(text)
        self._maker = maker
        denoising, given = maker.prepare(self.request, asked.pictures(self.request), on_progress)
        plan = denoising.plan
        if plan.tile is not None:
            raise PlanError(
                f"a stream of {self.request.width}x{self.request.height} does not fit into memory: its pictures would be decoded "
                "in tiles, which only whole clips can be; choose a smaller size, another decoder or more memory"
            )
        self._left = None if self.seconds is None else max(1, round(self.seconds * self.request.fps))
        shape = latent_shape(manifest.latent, self.request.width, self.request.height, self.request.frames)
        loop = ChunkLoop(denoising, NoiseSource(self.request.seed), shape)
        if given is not None:
            loop.resume(given)
        self._sampler = _Sampler(maker, self.request, loop, given, self.then, self._left)
        # Both are held at once only where that was planned.
        beside = all(plan.components[name].placement == "resident" for name in ("denoiser", DECODER))
        self._shown = _Shown(maker, plan, beside, (self.request.height, self.request.width), self._sampler.take)
        self._frames = self._shown.pictures()
        if beside:
            self._sampler.start()
        self._closed = False

    @property
    def prompt(self) -> str:
        """The prompt of the next chunk that begins. Setting it raises PromptError where the model cannot take it."""
        return self._sampler.prompt

    @prompt.setter
    def prompt(self, text: str) -> None:
        self._maker.check_prompt(text)
        self._sampler.change(text)

    @property
    def shown_prompt(self) -> str:
        """The prompt that the last picture was made of, "" before the first."""
        return self._shown.prompt

    @property
    def switch_seconds(self) -> float | None:
        """Seconds from the last change of the prompt to the first picture made of it, None where none has been shown."""
        return self._shown.switch_seconds

    @property
    def waited_seconds(self) -> float:
        """Seconds that pictures waited for chunks so far: what sampling took beyond decoding."""
        return self._shown.waited_seconds

    @property
    def sampled_seconds(self) -> float:
        """Seconds that sampling took so far."""
        return self._sampler.seconds

    def __iter__(self) -> Iterator[Picture]:
        return self

    def __next__(self) -> Picture:
        """Return the next picture. Raises StopIteration at the end, EngineError, Cancelled where the reel was stopped."""
        if self._closed or self._left == 0:
            self.close()
            raise StopIteration
        try:
            picture = next(self._frames)
        except BaseException:
            self.close()
            raise
        if self._left is not None:
            self._left -= 1
        return picture if self.request.shown is None else fit_picture(picture, *self.request.shown)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_sampler"):
            self._sampler.stop()

    def close(self) -> None:
        """End the film: what is being sampled is given up, and nothing of it stays in memory."""
        if not self._closed:
            self._closed = True
            self._sampler.stop()
            self._sampler.join()
            with suppress(ValueError):  # another thread is waiting for a picture, and will be told that there is none
                self._frames.close()

    def settings(self, *, private: bool = False) -> dict[str, Any]:
        """Return what the film is made with and by, as plain data; private leaves the prompts out."""
        settings = self.request.settings()
        del settings["frames"]
        settings |= {"seconds": self.seconds, "then": [[at, text] for at, text in self.then]}
        for name in ("prompt", "negative_prompt", "then") if private else ():
            del settings[name]
        return told_settings(self._maker.bundle.manifest, settings, self._maker.facts())


@dataclass(frozen=True)
class _Chunk:
    """Sampled latents [1, C, F, H, W], their prompt, and when (time.perf_counter) that was asked for, None at first."""

    latents: NDArray[np.float32]
    prompt: str
    asked: float | None


class _Sampler:
    """Samples one chunk after the other: when it is asked to, or one ahead in a thread of its own."""

    def __init__(
        self,
        maker: Maker,
        request: Request,
        loop: ChunkLoop,
        given: NDArray[np.float32] | None,
        then: Sequence[tuple[float, str]],
        pictures: int | None,
    ) -> None:
        """given: latents that the film begins with. pictures: so many are needed, None without end."""
        self.prompt = request.prompt
        self.seconds = 0.0
        self._maker, self._request, self._loop = maker, request, loop
        self._given, self._then, self._pictures = given, deque(then), pictures
        self._asked: float | None = None
        self._changed = False
        self._turn = threading.Condition()
        self._ready: _Chunk | None = None
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sample ahead from now on."""
        self._thread = threading.Thread(target=self._work, name="edgereel stream", daemon=True)
        self._thread.start()

    def change(self, prompt: str) -> None:
        """Have the next chunk that begins made of another prompt."""
        with self._turn:
            self.prompt, self._asked, self._changed = prompt, time.perf_counter(), True

    def take(self) -> _Chunk | None:
        """Return the next chunk, None after the last. Raises what sampling raised."""
        if self._thread is None:
            return self._sample()
        with self._turn:
            while self._ready is None and not self._ended:
                self._turn.wait(_LOOK)
            if self._ready is None and self._error is not None:
                raise self._error
            chunk, self._ready = self._ready, None
            self._turn.notify_all()
        return chunk

    def stop(self) -> None:
        """Sample no more: what is under way is given up."""
        self._stopped = True
        with self._turn:
            self._ready = None
            self._turn.notify_all()

    def join(self) -> None:
        """Wait for the thread's end, and give back what is remembered."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._loop.release()

    def _work(self) -> None:
        chunk: _Chunk | None = None
        try:
            with stop_when(lambda: self._stopped):
                while not self._stopped and (chunk := self._sample()) is not None:
                    with self._turn:
                        self._ready = chunk
                        self._turn.notify_all()
                        while self._ready is not None and not self._stopped:
                            self._turn.wait()
        except BaseException as error:
            self._error = error
        with self._turn:
            self._ended = True
            self._turn.notify_all()

    def _sample(self) -> _Chunk | None:
        manifest, made = self._maker.bundle.manifest, self._loop.made
        if self._given is not None:
            given, self._given = self._given, None
            return _Chunk(given, self._request.prompt, None)
        shown = _pictures(manifest, made) if made else 0
        if self._pictures is not None and shown >= self._pictures:
            return None
        started = time.perf_counter()
        while self._then and shown >= self._then[0][0] * self._request.fps:
            self.change(self._then.popleft()[1])
        with self._turn:
            prompt, asked, changed, self._changed = self.prompt, self._asked, self._changed, False
        if changed:
            self._request = replace(self._request, prompt=prompt)
            plan = self._loop.denoising.plan
            self._loop.switch(self._maker.embed_request(self._request, plan))
        latents = self._loop.next()
        self.seconds += time.perf_counter() - started
        return _Chunk(latents, prompt, asked)


class _Shown:
    """Decodes chunks into pictures, the decoder's state going on from one to the next.

    prompt: of the last picture. switch_seconds, waited_seconds: see Stream.
    """

    def __init__(
        self, maker: Maker, plan: MemoryPlan, beside: bool, size: tuple[int, int], take: Callable[[], _Chunk | None]
    ) -> None:
        """beside: other graphs run at the same time. size: height and width. take: gives the next chunk."""
        self.prompt = ""
        self.switch_seconds: float | None = None
        self.waited_seconds = 0.0
        self._asked: float | None = None
        self._maker, self._plan, self._beside, self._size, self._take = maker, plan, beside, size, take
        self._names = streaming_graphs(maker.bundle.manifest, plan.sizes.uses)
        if beside:  # opening them later would have to wait for a step of the denoiser's
            with maker.graphs.lock:
                maker.graphs.hold_to(plan)
                for name in self._names:
                    maker.graphs.session(name)

    def pictures(self) -> Generator[Picture, None, None]:
        """Yield them as they decode."""
        manifest = self._maker.bundle.manifest
        first, following = (_Decoder(self._maker, name, self._plan, self._beside) for name in self._names)
        for pictures in pictures_of_inputs(first, following, self._latent_frames(), self._size, manifest.latent):
            if self._asked is not None:
                self.switch_seconds, self._asked = time.perf_counter() - self._asked, None
            yield from pictures

    def _latent_frames(self) -> Iterator[dict[str, NDArray[Any]]]:
        while True:
            started = time.perf_counter()
            chunk = self._take()
            self.waited_seconds += time.perf_counter() - started
            if chunk is None:
                return
            if self.prompt and chunk.prompt != self.prompt:
                self._asked = chunk.asked
            self.prompt = chunk.prompt
            for index in range(chunk.latents.shape[2]):
                yield {"latent": chunk.latents[:, :, index : index + 1]}


class _Decoder(Session):
    """A decoder's graph, as a stream runs it: whatever other clips do meanwhile."""

    def __init__(self, maker: Maker, name: str, plan: MemoryPlan, beside: bool) -> None:
        self._maker, self._name, self._plan, self._beside = maker, name, plan, beside

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        graphs = self._maker.graphs
        while True:
            started = time.perf_counter()
            try:
                if self._beside:
                    return graphs.run_beside(self._name, self._plan, inputs)
                with graphs.lock:
                    graphs.hold_to(self._plan)
                    return graphs.session(self._name).run(inputs)
            except OutOfMemory as error:
                with graphs.lock:
                    graphs.hold_to(self._plan)
                    graphs.step_down(DECODER, error)
                    if graphs.plan is not None and graphs.plan.tile is not None:
                        raise
            finally:
                self._maker.add_time("decode", started)

    def close(self) -> None:
        """The opened graphs close it."""


def _pictures(manifest: Manifest, latent_frames: int) -> int:
    return 1 + (latent_frames - 1) * manifest.latent.temporal_scale
