"""What is known of a clip before it is sampled: held frames, condition channels and what a picture shows, from pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.geometry import latent_shape
from ..bundle.manifest import Condition, Denoiser, LatentGeometry, Manifest
from ..core.errors import EngineError, UsageError
from ..core.progress import Progress, report_progress
from ..engines import Session, Tensor
from ..engines.base import run_graph
from .decoding.decoder import next_state
from .memory.plan import MemoryPlan
from .memory.sizes import ENCODER, ENCODER_GRAPHS, IMAGE_ENCODER
from .open_graphs import OpenGraphs
from .pictures.fit import Picture, fit_for_encoder

Latents = NDArray[np.float32]


@dataclass(frozen=True)
class GivenPictures:
    """Pictures of a clip that are there before it is made, uint8 [H, W, 3] of its size.

    before: those that it goes on from, in order, 1 and any multiple of the temporal scale more; a picture that it begins
    with is the only one of them. last: the one that it ends with.
    """

    before: Sequence[Picture] = ()
    last: Picture | None = None

    def __bool__(self) -> bool:
        return bool(self.before) or self.last is not None


@dataclass(frozen=True)
class Known:
    """What goes into a denoiser beside noise and prompt, and what is put back into the latents.

    held: the clean latents [1, C, K, H, W] that the clip begins with. held_timestep: theirs. condition: [1, Cc, F, H, W].
    image_embeds: [1, N, D]. frame_rate: pictures a second.
    """

    held: Latents | None = None
    held_timestep: float = 0.0
    condition: Latents | None = None
    image_embeds: Tensor | None = None
    frame_rate: float = 0.0

    def inputs(self, expert: Denoiser, noisy: Latents, timestep: float) -> dict[str, Tensor]:
        """Return what a denoiser takes at a step, but for its prompt and context, as far as it declares it."""
        frames = noisy.shape[2]
        arrays: dict[str, NDArray[Any]] = {"latents": self.put_back(noisy)}
        if expert.timestep_of_each_frame:
            timesteps = np.full((1, frames), timestep, np.float32)
            timesteps[:, : self.held_frames] = self.held_timestep
            arrays["timestep"] = timesteps
        else:
            arrays["timestep"] = np.array([timestep], np.float32)
        if self.condition is not None:
            arrays["condition"] = self.condition
        if "frame_rate" in expert.inputs:
            arrays["frame_rate"] = np.array([self.frame_rate], np.float32)
        inputs = {name: Tensor.from_numpy(array) for name, array in arrays.items()}
        return inputs if self.image_embeds is None else {**inputs, "image_embeds": self.image_embeds}

    @property
    def held_frames(self) -> int:
        """How many latent frames the clip begins with."""
        return 0 if self.held is None else self.held.shape[2]

    def put_back(self, latents: Latents) -> Latents:
        """Return latents that begin with the held frames, whatever they had there."""
        if self.held is None:
            return latents
        result: Latents = np.concatenate([self.held, latents[:, :, self.held_frames :]], axis=2)
        return result


def check_pictures(manifest: Manifest, *, first: bool, last: bool) -> None:
    """Raise UsageError where a clip cannot begin and end with pictures, or lacks one that its model needs."""
    condition = manifest.condition
    in_stream = manifest.stream is not None and manifest.roles.encoder_first is not None
    takes_first = manifest.held is not None or in_stream or (condition is not None and condition.first != "no")
    takes_last = condition is not None and condition.last != "no"
    would = (
        "a bundle that was exported from an image-to-video checkpoint, with its encoder, does (edgereel inspect tells)"
    )
    if (first or last) and not (takes_first or takes_last):
        raise UsageError(f"the bundle {manifest.name} makes clips of a prompt alone and takes no picture: {would}")
    if last and not takes_last:
        raise UsageError(f"the bundle {manifest.name} takes no last picture, only a first one: leave it out")
    if first and not takes_first:
        raise UsageError(f"the bundle {manifest.name} takes no first picture, only a last one: leave it out")
    if condition is not None:
        for name, given, wanted in (("image", first, condition.first), ("last_image", last, condition.last)):
            if wanted == "required" and not given:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"the bundle {manifest.name} makes clips from pictures: give {name} ({option} FILE)")


@dataclass
class PictureEncoder:
    """What turns pictures into latents and embeddings, held to a memory plan; see Denoising."""

    manifest: Manifest
    graphs: OpenGraphs
    plan: MemoryPlan
    add_time: Callable[[str, float, str], None]
    on_progress: Progress | None = None
    _blank: dict[int, Latents] = field(default_factory=dict)

    def known(self, given: GivenPictures, size: tuple[int, int], frames: int, frame_rate: float) -> Known:
        """Return what the pictures of a clip of that size (width, height) and number of pictures say about it.

        Raises EngineError, OutOfMemory, Cancelled.
        """
        held = None
        if given.before and self.manifest.held is not None:
            held = self.latents([to_float(picture) for picture in given.before])
        return Known(
            held=held,
            held_timestep=0.0 if self.manifest.held is None else self.manifest.held.timestep,
            condition=self._condition(given, size, frames),
            image_embeds=self._image_embeds(given),
            frame_rate=frame_rate,
        )

    def latents(self, film: Sequence[NDArray[np.float32] | None]) -> Latents:
        """Return the latents [1, C, F, H, W] of pictures, float32 [3, H, W] in [-1, 1], None for one that is blank.

        Raises EngineError where the encoder gives values that are not numbers or another size than the geometry says.
        """
        geometry = self.manifest.latent
        shown = next(picture for picture in film if picture is not None)

        def pictures() -> Iterator[NDArray[np.float32]]:
            blank = np.zeros_like(shown)
            return (blank if picture is None else picture for picture in film)

        def run() -> Latents:
            first, following = (self.graphs.session(name) for name in ENCODER_GRAPHS)
            started = time.perf_counter()
            total = 1 + (len(film) - 1) // geometry.temporal_scale
            parts = []
            report_progress(self.on_progress, "encode pictures", 0, total)
            for latent in encode_pictures(first, following, pictures(), geometry):
                parts.append(latent)
                report_progress(self.on_progress, "encode pictures", len(parts), total)
            self.add_time("encode pictures", started, ENCODER)
            return np.concatenate(parts, axis=2)

        return self.graphs.run(ENCODER, run, self.plan)

    def _condition(self, given: GivenPictures, size: tuple[int, int], frames: int) -> Latents | None:
        rules = self.manifest.condition
        if rules is None:
            return None
        width, height = size
        shape = latent_shape(self.manifest.latent, width, height, frames)
        film: list[NDArray[np.float32] | None] = [None] * frames
        for index, picture in enumerate(given.before):
            film[index] = to_float(picture)
        if given.last is not None:
            film[-1] = to_float(given.last)
        nothing = np.zeros((3, height, width), np.float32)
        parts: list[Latents] = []
        for part in rules.layout:
            if part == "mask":
                flags = np.array([picture is not None for picture in film], np.float32)
                parts.append(mask_channels(rules, flags, shape, self.manifest.latent))
            elif part == "blank":
                parts.append(self.latents([nothing, *[None] * (frames - 1)]))
            elif rules.blank == "encoded":
                parts.append(self.latents(film if given else [nothing, *film[1:]]))
            else:
                parts.append(self._latents_of_known(film, shape))
        return np.concatenate(parts, axis=1)

    def _latents_of_known(self, film: Sequence[NDArray[np.float32] | None], shape: tuple[int, ...]) -> Latents:
        """Return latents of zeros but where a latent frame holds a known picture: there those of that picture alone."""
        latents = np.zeros(shape, np.float32)
        scale = self.manifest.latent.temporal_scale
        for index, picture in enumerate(film):
            if picture is not None:
                latents[:, :, -(-index // scale)] = self.latents([picture])[:, :, 0]
        return latents

    def _image_embeds(self, given: GivenPictures) -> Tensor | None:
        """Return what the image encoder makes of the first picture and of the last one, side by side."""
        graph = self.manifest.roles.image_encoder
        if graph is None:
            return None
        shown = [picture for picture in (*given.before[:1], given.last) if picture is not None]

        def run() -> NDArray[np.float32]:
            session = self.graphs.session(IMAGE_ENCODER)
            started = time.perf_counter()
            parts = []
            for picture in shown:
                pixels = Tensor.from_numpy(fit_for_encoder(picture, graph.size, graph.mean, graph.std))
                parts.append(run_graph(session, IMAGE_ENCODER, {"pixels": pixels}, "image_embeds").numpy())
            self.add_time("encode pictures", started, IMAGE_ENCODER)
            return np.concatenate(parts, axis=1)

        return Tensor.from_numpy(self.graphs.run(IMAGE_ENCODER, run, self.plan)) if shown else None


def mask_channels(
    rules: Condition, flags: NDArray[np.float32], shape: tuple[int, ...], latent: LatentGeometry
) -> Latents:
    """Return the mask [1, channels, F, H, W] of pictures' flags [T], 1 where one is known; see Condition.mask."""
    _, _, frames, height, width = shape
    if rules.mask == "pixels":
        nearest = ((np.arange(frames) + 0.5) * len(flags) / frames).astype(np.int64)
        channels = np.repeat(1 - flags[nearest][None], latent.spatial_scale**2, axis=0)
    else:
        scale = latent.temporal_scale
        folded = np.concatenate([np.repeat(flags[:1], scale), flags[1:]]).reshape(frames, scale).T
        channels = folded if rules.mask == "pictures" else folded.max(axis=0, keepdims=True)
    return np.ascontiguousarray(
        np.broadcast_to(channels[None, :, :, None, None], (1, len(channels), frames, height, width)), np.float32
    )


def to_float(picture: Picture) -> NDArray[np.float32]:
    """Return a picture uint8 [H, W, 3] as an encoder takes it: float32 [3, H, W] in [-1, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / np.float32(127.5) - np.float32(1)


def encode_pictures(
    first: Session, following: Session, pictures: Iterable[NDArray[np.float32]], geometry: LatentGeometry
) -> Iterator[Latents]:
    """Yield the normalised latents [1, C, 1, H, W] of pictures, float32 [3, H, W] in [-1, 1], as they are encoded.

    first, following: the opened `encoder_first` and `encoder_next` graphs: the first latent frame stands for one picture,
    each later one for as many as the temporal scale says. Pictures that do not fill the last one are left out. Memory does
    not grow with their number. Raises EngineError.
    """
    state: dict[str, Tensor] = {}
    waiting = iter(pictures)
    index = 0
    while True:
        count = 1 if index == 0 else geometry.temporal_scale
        block = [picture for _, picture in zip(range(count), waiting, strict=False)]
        if len(block) < count:
            return
        stacked = np.stack(block, axis=1)[None]
        outputs = (first if index == 0 else following).run({"pictures": Tensor.from_numpy(stacked), **state})
        index += 1
        doing = f"encoding latent frame {index}"
        latent = outputs["latent"].numpy() if "latent" in outputs else None
        height, width = (side // geometry.spatial_scale for side in stacked.shape[3:])
        if latent is None or latent.shape != (1, geometry.channels, 1, height, width):
            given = "nothing" if latent is None else f"latents of shape {list(latent.shape)}"
            raise EngineError(f"{doing} gave {given}: the bundle is at fault")
        if not np.isfinite(latent).all():
            raise EngineError(f"{doing} gave values that are not numbers: the bundle or engine is at fault")
        state = next_state(outputs, state, doing)
        yield latent
