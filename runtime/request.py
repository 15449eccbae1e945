"""One generation's settings: what the caller asked for, completed from the bundle, and checked."""

from __future__ import annotations

import hashlib
import math
import numbers
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.geometry import clip_size, latent_shape
from ..bundle.manifest import FORMAT_NAME, Manifest, Recipe
from ..core.errors import GeometryError, UsageError
from ..media.presets import presets
from .conditioning import GivenPictures, check_pictures
from .memory.sizes import Uses, contexts_of, decoder_graphs
from .pictures.file import read_picture
from .pictures.fit import FITS, Fit, Picture, fit_picture
from .pictures.named_sizes import shape_size
from .sampling.noise import LARGEST_SEED
from .sampling.recipes import schedule_of
from .sampling.stages import Stage, check_second, stages_of
from .video.frame_rate import FrameRate, frame_rate


@dataclass(frozen=True)
class OpenRequest:
    """What a caller asks for; None leaves it to the bundle's recipe and defaults.

    negative_prompt: what the video should not show. seed: 0 to 2**32 - 1; None is 0. guidance: classifier-free, 0 to 100;
    1 and below turns it off. size: (width, height) in pixels, or the name of one of the bundle's formats or of a shape, which
    is cut out of the size nearest to it, see media/presets.toml. fps: 1 to 240,
    also a fraction, see frame_rate. latents: initial noise, float32 [1, C, F, H, W], unit normal, instead of the seed's;
    what the sampler draws later on stays the seed's. sampler, recipe, decoder: names. image, last_image: the clip's first
    and last picture, a PNG, JPEG or WebP file or pixels uint8 [H, W, 3]. fit: how pictures of another shape become the
    clip's, `crop` or `pad`. Whole numbers may be of any type that is one, numpy's too.

    Raises UsageError for values of another kind.
    """

    prompt: str
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    size: tuple[int, int] | str | None = None
    frames: int | None = None
    fps: FrameRate | None = None
    latents: NDArray[Any] | None = None
    sampler: str | None = None
    recipe: str | None = None
    image: Any = None
    last_image: Any = None
    fit: str | None = None
    decoder: str | None = None

    def __post_init__(self) -> None:
        converted: dict[str, Any] = {}
        if self.seed is not None:
            converted["seed"] = _whole("seed", self.seed)
            if not 0 <= converted["seed"] <= LARGEST_SEED:
                raise UsageError(
                    f"seed {_told(converted['seed'])} is out of range: it must be from 0 to {LARGEST_SEED}"
                )
        for name in ("steps", "frames"):
            if (value := getattr(self, name)) is not None:
                converted[name] = _whole(name, value)
        if self.size is not None and not _is_format_name(self.size):
            converted["size"] = _size(self.size)
        if self.fps is not None:
            converted["fps"] = frame_rate(self.fps)
        if self.guidance is not None:
            converted["guidance"] = _number("guidance", self.guidance)
        for name in ("sampler", "recipe", "decoder"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise UsageError(f"{name} is {_told(value)}: give its name")
        if self.fit not in (None, *FITS):
            raise UsageError(f"fit is {_told(self.fit)}: choose {' or '.join(FITS)}")
        if self.fit is not None and self.image is None and self.last_image is None:
            raise UsageError("fit is for pictures, and none is given: leave it out")
        for name, value in converted.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def of(prompt: str, settings: Mapping[str, Any]) -> OpenRequest:
        """Return the request of a prompt and settings by name. Raises TypeError for a name that is none, UsageError."""
        if unknown := sorted(set(settings) - set(OpenRequest.__dataclass_fields__)):
            known = ", ".join(name for name in OpenRequest.__dataclass_fields__ if name != "prompt")
            raise TypeError(f"there is no setting {unknown[0]!r}: choose from {known}")
        return OpenRequest(prompt, **settings)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its pictures are read from; those that are given as pixels have none."""
        return tuple(Path(image) for image in (self.image, self.last_image) if isinstance(image, str | os.PathLike))

    def with_pictures(self, manifest: Manifest) -> OpenRequest:
        """Return the request with its pictures read from their files, once. Raises UsageError."""
        check_pictures(manifest, first=self.image is not None, last=self.last_image is not None)
        first, last = (None if image is None else read_picture(image) for image in (self.image, self.last_image))
        return replace(self, image=first, last_image=last)

    def pictures(self, request: Request) -> GivenPictures:
        """Return its pictures, which were read, in the size of the completed request."""
        fit: Fit = "pad" if self.fit == "pad" else "crop"

        def fitted(image: Any) -> Picture | None:
            return None if image is None else fit_picture(image, request.width, request.height, fit)

        first, last = fitted(self.image), fitted(self.last_image)
        return GivenPictures(() if first is None else (first,), last)

    def complete(self, manifest: Manifest) -> Request:
        """Fill in what was left open and refuse what the model cannot do, before anything is computed.

        Pictures are checked and read by `with_pictures`, before. Raises UsageError, GeometryError.
        """
        chosen = _recipe(manifest, self.recipe, self.steps)
        steps = schedule_of(chosen, self.sampler, self.steps).steps
        if chosen.second is not None:
            self._check_two_stages(chosen)
        guidances = _guidances(manifest, chosen, self.guidance)
        if self.negative_prompt and max(guidances) <= 1:
            made_for = "" if self.guidance is not None else f", which the recipe {chosen.name} is made for"
            raise UsageError(
                f"a negative prompt has no effect at guidance {max(guidances):g}{made_for}: leave it out, or choose more "
                "guidance"
            )
        (size, shown), frames = named_size(manifest, self.size), self.frames
        if self.latents is not None:
            size, frames = _size_of_latents(manifest, self.latents, size, frames)
        width, height, frames = manifest.defaults.complete(size, frames)
        latent_shape(manifest.latent, width, height, frames)
        if frames == 1 and self.last_image is not None:
            raise UsageError("a clip of one frame has no last picture beside its first: ask for more frames")
        if manifest.stream is not None and manifest.stream.negative_context == "own":
            _check_contexts(manifest, guidances)
        return Request(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            seed=0 if self.seed is None else self.seed,
            steps=steps,
            guidances=guidances,
            sampler=self.sampler or chosen.sampler,
            shift=chosen.shift,
            recipe=chosen.name,
            width=width,
            height=height,
            frames=frames,
            fps=frame_rate(manifest.defaults.fps) if self.fps is None else self.fps,
            own_latents=self.latents is not None,
            image=_hash(self.image),
            last_image=_hash(self.last_image),
            fit=self.fit,
            decoder=chosen_decoder(manifest, self.decoder),
            shown=shown,
        )

    def _check_two_stages(self, recipe: Recipe) -> None:
        """Raise UsageError for what is of one size alone, where the recipe samples at two."""
        for name in ("latents", "image", "last_image"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"recipe {recipe.name} samples at a smaller size first, without {name}: leave it out, or choose another recipe"
                )
        check_second(recipe, self.sampler or recipe.sampler)


@dataclass(frozen=True)
class Request:
    """Everything that decides what a clip looks like; written into the video's metadata.

    guidances: classifier-free guidance of each denoiser. shift: None where the recipe has none. image, last_image: sha256 of
    the pixels given, None where none are. decoder: None where the bundle has only one. overlap: pictures at the beginning that
    are another clip's, which this one continues, and are not shown; frames counts them. shown: (width, height) that is cut out
    of the pictures, None where they are shown whole.
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidances: tuple[float, ...]
    sampler: str
    shift: float | None
    recipe: str
    width: int
    height: int
    frames: int
    fps: FrameRate
    own_latents: bool
    image: str | None = None
    last_image: str | None = None
    fit: str | None = None
    decoder: str | None = None
    overlap: int = 0
    shown: tuple[int, int] | None = None

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) of the pictures that are shown."""
        return self.shown or (self.width, self.height)

    def cut(self, pictures: Iterable[Picture]) -> Iterable[Picture]:
        """Return pictures, uint8 [H, W, 3], as they are shown."""
        size = self.shown
        return pictures if size is None else (fit_picture(picture, *size) for picture in pictures)

    def chosen_recipe(self, manifest: Manifest) -> Recipe:
        """Return the recipe that it names, of the bundle that it was completed from."""
        recipe = manifest.recipe(self.recipe)
        assert recipe is not None
        return recipe

    def stages(self, manifest: Manifest) -> list[Stage]:
        """Return the sizes that the clip is sampled at, one or two, with the noise levels of each."""
        shape = latent_shape(manifest.latent, self.width, self.height, self.frames)
        return stages_of(self.chosen_recipe(manifest), self.sampler, self.steps, manifest.latent, shape)

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain data; a speed that is no whole number as text, `24000/1001`.

        What the clip does without is left out: pictures, a choice of decoders, an earlier clip.
        """
        without = {name for name in ("image", "last_image", "fit", "decoder", "shown") if getattr(self, name) is None}
        plain = {name: value for name, value in asdict(self).items() if name not in without}
        if not self.overlap:
            del plain["overlap"]
        return {**plain, "fps": str(self.fps)} if isinstance(self.fps, Fraction) else plain


def _is_format_name(size: object) -> bool:
    return isinstance(size, str) and re.fullmatch(FORMAT_NAME, size) is not None


def named_size(
    manifest: Manifest, size: tuple[int, int] | str | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return (width, height) that is made, None for the bundle's own, and that is shown, None for all of it.

    size: also the name of one of the bundle's formats, or of a shape. Raises UsageError for another name.
    """
    if not isinstance(size, str):
        return size, None
    formats = manifest.defaults.formats
    if size in formats:
        width, height = formats[size]
        return (width, height), None
    if (shape := shape_size(manifest, size)) is not None:
        return shape.made, None if shape.shown == shape.made else shape.shown
    known = ", ".join([*formats, *(name for name in presets() if name not in formats)])
    raise UsageError(
        f"there is no format {_told(size)}: choose from {known}, or write it as WIDTHxHEIGHT, for example 64x64"
    )


def chosen_decoder(manifest: Manifest, asked: str | None) -> str | None:
    """Return the decoder that is used, None where there is no choice. Raises UsageError for one that is not there."""
    decoder_graphs(manifest, Uses(asked))
    return manifest.decoder_name(asked) if len(manifest.roles.decoders_by_name) > 1 else None


def _check_contexts(manifest: Manifest, guidances: Sequence[float]) -> None:
    """Raise UsageError for guidance where the memory of only one context is planned for."""
    if max(guidances) > 1 and contexts_of(manifest) < 2:
        raise UsageError(
            f"guidance {max(guidances):g} would need a second context, and none of this bundle's recipes is guided: leave it out"
        )


def _hash(image: Any) -> str | None:
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() if isinstance(image, np.ndarray) else None


def _whole(name: str, value: object) -> int:
    """Return a value that is a whole number of any type as an int. Raises UsageError."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise UsageError(f"{name} is {_told(value)}: it must be a whole number") from error


def _size(value: Any) -> tuple[int, int]:
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == 2
    if not listed and not (isinstance(value, np.ndarray) and value.shape == (2,)):
        raise UsageError(f"size is {_told(value)}: give width and height in pixels, for example (64, 64)")
    return _whole("width", value[0]), _whole("height", value[1])


def _number(name: str, value: object) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise UsageError(f"{name} is {_told(value)}: it must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise UsageError(f"{name} is {_told(value)}: it is too large") from error


def _told(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of many digits"  # which Python does not write out
    return f"{value!r}"[:60] if isinstance(value, str | int | float | complex | None) else f"a {type(value).__name__}"


def _recipe(manifest: Manifest, name: str | None, steps: int | None) -> Recipe:
    """Return the recipe of that name; without one the default or, if that lists other steps, one that lists these."""
    chosen = manifest.recipe(name)
    if chosen is None:
        known = ", ".join(recipe.name for recipe in manifest.recipes)
        raise UsageError(f"this bundle has no recipe {name!r}: choose from {known}")
    if name is None and chosen.is_fixed and steps not in (None, chosen.steps):
        listed = {recipe.steps: recipe for recipe in reversed(manifest.recipes) if recipe.is_fixed}
        if steps not in listed:
            able = ", ".join(map(str, sorted(listed)))
            raise UsageError(f"{steps} steps are not possible: this bundle's recipes list the noise levels of {able}")
        return listed[steps]
    return chosen


def _guidances(manifest: Manifest, recipe: Recipe, asked: float | None) -> tuple[float, ...]:
    """Return each denoiser's guidance: what was asked for, else the recipe's for it, its own, the recipe's for all."""
    experts = manifest.roles.denoiser
    if asked is not None:
        guidances = [float(asked)] * len(experts)
    else:
        own = [recipe.guidance if expert.guidance is None else expert.guidance for expert in experts]
        guidances = recipe.expert_guidance or own
    for guidance in guidances:
        if not (math.isfinite(guidance) and 0 <= guidance <= 100):
            raise UsageError(f"guidance {guidance} is not possible: choose from 0 to 100 (1 and below turns it off)")
    return tuple(guidances)


def _size_of_latents(
    manifest: Manifest, latents: NDArray[Any], size: tuple[int, int] | None, frames: int | None
) -> tuple[tuple[int, int], int]:
    """Return the size and length that the caller's latents decode to; a different one asked for is an error."""
    channels = manifest.latent.channels
    if not isinstance(latents, np.ndarray):
        raise UsageError(f"latents are a {type(latents).__name__}: they must be a numpy array")
    if latents.ndim != 5 or latents.shape[:2] != (1, channels) or 0 in latents.shape:
        raise GeometryError(f"latents have shape {list(latents.shape)}: this model takes [1, {channels}, F, H, W]")
    if latents.dtype != np.float32:
        raise UsageError(f"latents are {latents.dtype}: they must be float32")
    if not np.isfinite(latents).all():
        raise UsageError("latents hold values that are not finite numbers")
    width, height, length = clip_size(manifest.latent, latents.shape)
    if size not in (None, (width, height)) or frames not in (None, length):
        raise GeometryError(
            f"latents of shape {list(latents.shape)} make {length} frames of {width}x{height}, not what was asked for"
        )
    return (width, height), length
