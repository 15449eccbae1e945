"""What a stream remembers: the keys and values that the denoiser left of clean frames, in a ring of fixed size.

A frame of the sink has a place of its own for ever. Every other frame takes the place of the oldest one, so that the window
is never copied and never grows. The order of frames within the ring means nothing to the denoiser: it is told their places
in time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import Denoiser, Stream
from ...core.errors import EngineError
from ...engines import Ring, Session, Tensor

_NEW = "_new"


class Context:
    """The context of one prompt.

    frames: the number in the film of each remembered frame, in the ring's order.
    """

    def __init__(self, rules: Stream, denoiser: Denoiser, patches: int, furthest: int) -> None:
        """patches: of one latent frame. furthest: places in time that the model tells apart."""
        self.frames: list[int] = []
        self._rules = rules
        self._furthest = furthest
        self._shapes = {name: (patches, *_fixed(denoiser, name)) for name in denoiser.context}
        self._dtypes = {name: denoiser.inputs[name].dtype for name in denoiser.context}
        self._rings: dict[str, Ring] = {}

    def forget(self) -> None:
        """Forget every frame; the memory is kept."""
        self.frames = []

    def release(self) -> None:
        """Forget every frame and give the memory back."""
        self.frames = []
        self._rings.clear()

    def inputs(self, first: int, count: int) -> dict[str, Tensor]:
        """Return what the denoiser takes of it for `count` frames, the first of which has the number `first` in the film.

        Raises EngineError where that is further than the model can tell places apart.
        """
        here, there = self._positions(first, count)
        tensors = {name: self._ring(name).tensor(len(self.frames)) for name in self._shapes}
        return {"positions": _whole(here), "context_positions": _whole(there), **tensors}

    def remember(self, session: Session, outputs: Mapping[str, Tensor], first: int, count: int) -> None:
        """Take in what the denoiser left of `count` frames from the number `first` on, whose numbers follow those before.

        session: the one that gave them, beside which the ring is kept. Raises EngineError where something is missing.
        """
        window, sink = self._rules.window, self._rules.sink
        for name, of_frame in self._shapes.items():
            made = outputs.get(f"{name}{_NEW}")
            if made is None or made.shape != (1, count, *of_frame):
                given = "nothing" if made is None else list(made.shape)
                raise EngineError(f"the denoiser gave {given} as {name}{_NEW} in the place of {[1, count, *of_frame]}")
        for number in range(first, first + count):
            if number >= sink and window == sink:
                continue  # the sink is all that is remembered
            if number >= sink and first + count - number > window - sink:
                continue  # a later frame of these will have its place
            full = len(self.frames) == window
            place = self.frames.index(min(n for n in self.frames if n >= sink)) if full else len(self.frames)
            for name in self._shapes:
                self._ring(name, session).write(place, outputs[f"{name}{_NEW}"], number - first)
            self.frames[place : place + 1] = [number]

    def _ring(self, name: str, session: Session | None = None) -> Ring:
        if name not in self._rings:
            shape, dtype = (self._rules.window, *self._shapes[name]), self._dtypes[name]
            if session is None:  # nothing is remembered yet
                return Ring((1, *shape[1:]), dtype)
            self._rings[name] = session.ring(shape, dtype)
        return self._rings[name]

    def _positions(self, first: int, count: int) -> tuple[list[int], list[int]]:
        """Return the places in time of the frames that are made and of those that are remembered."""
        here = list(range(first, first + count))
        if self._rules.positions == "window":
            order = {number: place for place, number in enumerate(sorted(self.frames))}
            return list(range(len(order), len(order) + count)), [order[number] for number in self.frames]
        # What counts is how far places are from one another: without a sink they need not grow for ever.
        start = 0 if self._rules.sink else min([first, *self.frames])
        if here[-1] - start >= self._furthest:
            raise EngineError(
                f"this model tells {self._furthest} latent frames apart, so that its films end there: begin a new stream"
            )
        return [number - start for number in here], [number - start for number in self.frames]


def _fixed(denoiser: Denoiser, name: str) -> tuple[int, ...]:
    return tuple(extent for extent in denoiser.inputs[name].shape[3:] if isinstance(extent, int))


def _whole(numbers: list[int]) -> Tensor:
    array: NDArray[np.int64] = np.array(numbers, np.int64)
    return Tensor.from_numpy(array)
