"""The loop that makes films chunk by chunk: sample in sight of what is remembered, then remember the clean chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.progress import Progress
from ...engines import Tensor
from ..denoise import Denoising, SeenContext
from ..sampling.noise import NoiseSource
from .context import Context

Latents = NDArray[np.float32]


class _KeptFrame(NamedTuple):
    """A clean latent frame [1, C, 1, H, W] that a context remembers, its number in the film and that of its chunk."""

    number: int
    chunk: int
    latents: Latents


@dataclass
class ChunkLoop:
    """One film, which goes on for as long as it is asked to.

    denoising: with the embeddings of the prompt and, where it is guided, of the negative prompt. shape: [1, C, F, H, W], F
    of no meaning. made: latent frames so far, given ones included.
    """

    denoising: Denoising
    noise: NoiseSource
    shape: tuple[int, ...]
    made: int = 0

    def __post_init__(self) -> None:
        manifest = self.denoising.manifest
        assert manifest.stream is not None
        self.rules = manifest.stream
        _, patch_height, patch_width = manifest.latent.patch
        patches = self.shape[3] // patch_height * (self.shape[4] // patch_width)
        own = self.rules.negative_context == "own"
        self._contexts = [
            Context(self.rules, manifest.roles.denoiser[0], patches, manifest.latent.max_patches)
            for _ in range(len(self.denoising.prompt_embeds) if own else 1)
        ]
        self._sink: list[_KeptFrame] = []
        self._newest: deque[_KeptFrame] = deque(maxlen=self.rules.window - self.rules.sink)
        self._chunks = 0

    @property
    def next_length(self) -> int:
        """Latent frames of the next chunk: given frames are part of the first one."""
        left = self.rules.first - self.made
        return left if left > 0 else self.rules.chunk

    def next(
        self,
        on_progress: Progress | None = None,
        own: Latents | None = None,
        chunk: tuple[int, int] = (0, 1),
        *,
        last: bool = False,
    ) -> Latents:
        """Return the latents [1, C, F, H, W] of the next chunk, and remember it unless it is the last.

        own: initial noise for the chunk's first frames, in the place of what is drawn; held frames count as such. chunk: see
        Denoising.sample. Raises EngineError, Cancelled.
        """
        held = self.denoising.known.held_frames if self.made == 0 else 0
        length = max(self.next_length, held + 1)
        noise = self.noise.draw((*self.shape[:2], length, *self.shape[3:]))
        if own is not None:
            noise = np.concatenate([own[:, :, :length], noise[:, :, own.shape[2] :]], axis=2)
        if held == 0 and self.denoising.known.held is not None:
            self.denoising = replace(self.denoising, known=replace(self.denoising.known, held=None))
        first = self.made
        seen: list[SeenContext] = [partial(context.inputs, first, length) for context in self._seen()]
        latents = self.denoising.sample(noise, self.noise, on_progress, seen, chunk)
        if last:
            self.made += length
        else:
            self.give(latents)
        return latents

    def give(self, latents: Latents) -> None:
        """Take in clean latents that come next in the film: remember them."""
        first, count = self.made, latents.shape[2]
        if self.rules.window:
            self._remember(latents, first, range(len(self._contexts)))
        for index in range(count):
            self._keep(_KeptFrame(first + index, self._chunks, latents[:, :, index : index + 1].copy()))
        self.made += count
        self._chunks += 1

    def resume(self, latents: Latents) -> None:
        """Begin with clean latents [1, C, F, H, W] that are there already: of an earlier film, or of pictures.

        What is remembered is what would have been after those chunks, with this loop's prompt.
        """
        for number in range(latents.shape[2]):
            frame = latents[:, :, number : number + 1].copy()
            chunk = 0 if number < self.rules.first else 1 + (number - self.rules.first) // self.rules.chunk
            self._keep(_KeptFrame(number, chunk, frame))
            self._chunks = chunk + 1
        self.made = latents.shape[2]
        self._remember_kept(range(len(self._contexts)))

    def switch(self, prompt_embeds: Sequence[Tensor]) -> None:
        """Go on with other embeddings; what is remembered is made anew with them, as if the window had been theirs.

        The negative prompt's embedding must be the one of before.
        """
        self.denoising = replace(self.denoising, prompt_embeds=prompt_embeds)
        self._contexts[0].forget()
        self._remember_kept([0])

    def release(self) -> None:
        """Forget the film, and give back the memory of what was remembered."""
        for context in self._contexts:
            context.release()
        self._sink.clear()
        self._newest.clear()

    def _keep(self, frame: _KeptFrame) -> None:
        (self._sink if frame.number < self.rules.sink else self._newest).append(frame)

    def _remember_kept(self, which: Sequence[int]) -> None:
        """Put what is kept into contexts, chunk by chunk."""
        kept = enumerate([*self._sink, *self._newest])
        # What was one chunk, without gaps, is remembered by one call.
        for _, frames in groupby(kept, key=lambda item: (item[1].chunk, item[1].number - item[0])):
            block = [frame for _, frame in frames]
            self._remember(np.concatenate([frame.latents for frame in block], axis=2), block[0].number, which)

    def _remember(self, latents: Latents, first: int, which: Sequence[int]) -> None:
        for index in which:
            self.denoising.remember(latents, self.rules.remember_timestep, index, self._contexts[index], first)

    def _seen(self) -> list[Context]:
        """Return the context of each embedding."""
        return [
            self._contexts[min(index, len(self._contexts) - 1)] for index in range(len(self.denoising.prompt_embeds))
        ]


def sample_chunks(
    loop: ChunkLoop, frames: int, given: Latents | None, own: Latents | None, on_progress: Progress | None
) -> Latents:
    """Return the latents [1, C, frames, H, W] of a film's beginning, which is that of the stream of the same seed.

    given: what the loop begins with. own: initial noise [1, C, frames, H, W] in the place of what is drawn.
    """
    parts = [] if given is None else [given]
    rules = loop.rules
    left = max(frames - max(loop.made, rules.first), 0)
    total = (loop.made < min(rules.first, frames)) + -(-left // rules.chunk)
    for index in range(total):
        noise = None if own is None else own[:, :, loop.made :]
        parts.append(loop.next(on_progress, noise, (index, total), last=index + 1 == total))
    latents: Latents = np.concatenate(parts, axis=2)[:, :, :frames]
    return latents
