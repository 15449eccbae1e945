"""How clips begin with pictures and go on: what a manifest says about it, beside what the graphs declare."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .record import Record

LatentFrames = Annotated[int, Field(ge=1, le=2**12)]
Timestep = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Wanted = Literal["no", "optional", "required"]


class Held(Record):
    """Clips begin with given latent frames, which keep a timestep of their own and are put back before each call.

    frames: at most so many are given. timestep: theirs. The others have the step's, so that `timestep` is [B, F].
    """

    frames: LatentFrames
    timestep: Timestep = 0.0


class Condition(Record):
    """What is known of a clip goes into the denoiser beside the noise, as `condition` [B, Cc, F, H, W].

    layout: what its channels are, in order. `latents`: those of the film of known pictures, blank ones between them.
        `blank`: those of a film of blank pictures alone. `mask`: which pictures are known.
    mask: `pictures` has temporal_scale channels, 1 where a picture is known, the first one repeated for all of its latent
        frame. `latents` has one, 1 where a latent frame holds a known picture. `pixels` has spatial_scale squared, alike,
        1 where a picture is to be made: of the picture nearest in time to each latent frame.
    blank: blank pictures are 0 in [-1, 1] and `encoded` with the others, or the latents of frames without a known picture
        are `zero`.
    first, last: whether a clip's first and last picture are taken, or needed.
    """

    layout: Annotated[list[Literal["latents", "blank", "mask"]], Field(min_length=1, max_length=8)]
    mask: Literal["pictures", "latents", "pixels"] = "pictures"
    blank: Literal["encoded", "zero"] = "encoded"
    first: Wanted = "required"
    last: Wanted = "no"

    def channels(self, latent_channels: int, temporal_scale: int, spatial_scale: int) -> int:
        """Return how many channels it has."""
        mask = {"pictures": temporal_scale, "latents": 1, "pixels": spatial_scale**2}[self.mask]
        return sum(mask if part == "mask" else latent_channels for part in self.layout)

    @model_validator(mode="after")
    def _takes_some_picture(self) -> Condition:
        if self.first == self.last == "no":
            raise ValueError("a condition of pictures takes the first or the last one")
        return self


class Stream(Record):
    """Clips are made chunk by chunk, each in sight of a context: what the denoiser left of clean frames before.

    chunk: latent frames that are sampled at once. first_chunk: those of the first chunk, given ones included; None for as
        many as any. window: latent frames of context at most, sink included; what is older is forgotten. sink: the first
        frames of all, which are never forgotten.
    positions: in time, of context and chunk: each frame's place in the `clip`, or counted from 0 anew in every call, the
        `window`'s in order.
    remember_timestep: that of the call on a clean chunk whose `context_NN_new` are kept.
    negative_context: the negative prompt has a context of its `own`, or attends to the prompt's (`shared`).
    """

    chunk: LatentFrames
    first_chunk: LatentFrames | None = None
    window: Annotated[int, Field(ge=0, le=2**12)]
    sink: Annotated[int, Field(ge=0, le=2**12)] = 0
    positions: Literal["clip", "window"] = "clip"
    remember_timestep: Timestep = 0.0
    negative_context: Literal["own", "shared"] = "own"

    @property
    def first(self) -> int:
        """Latent frames of the first chunk."""
        return self.chunk if self.first_chunk is None else self.first_chunk

    @model_validator(mode="after")
    def _sink_is_in_the_window(self) -> Stream:
        if self.sink > self.window:
            raise ValueError(f"a window of {self.window} latent frames cannot hold a sink of {self.sink}")
        return self
