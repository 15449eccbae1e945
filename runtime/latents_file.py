"""Sampled latents in a file, to be decoded later: a safetensors file that knows its bundle and settings.

One tensor, `latents` float32 [1, C, F, H, W] in normalised units, and `noise` beside it where the decoder takes some; in the
metadata, as text, `edgereel` (the release), `bundle_digest`, `decoder` (a digest of the full decoder's files: bundles that share
them decode each other's latents) and `settings` (JSON, see Request).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..bundle.geometry import clip_size
from ..bundle.reader import Bundle
from ..bundle.roles import FULL
from ..core.errors import OutputError, UsageError, one_line
from ..core.files import whole_file
from ..core.machine import free_host_memory
from ..core.units import format_bytes
from ..core.version import __version__
from .clip import Video
from .clip_decoder import decoder_noise
from .reel import Reel
from .request import Request, chosen_decoder
from .sampling.noise import NoiseSource
from .video.frame_rate import frame_rate, parse_frame_rate

SUFFIX = ".safetensors"
_LONGEST_NAME = 255
"""Bytes of a file's name that file systems take."""
_MOST_NAMES = 1000
_LARGEST_HEADER = 2**20


def latents_path(output: Path) -> Path:
    """Return where the latents of an output are kept: beside it, under its name, replacing nothing but latents of ours.

    Where a file of somebody else's has that name, or the name would be too long for the file system, it is another one.
    """
    stem = output.stem if output.suffix else output.name
    for number in range(1, _MOST_NAMES):
        ending = SUFFIX if number == 1 else f".latents{'' if number == 2 else f'-{number - 1}'}{SUFFIX}"
        kept = stem.encode("utf-8", "surrogateescape")[: _LONGEST_NAME - len(ending)].decode("utf-8", "ignore")
        path = output.with_name(kept + ending)
        if not os.path.lexists(path) or _is_ours(path):
            return path
    raise OutputError(f"{output.parent}: holds so many files named {stem} that none is left for the latents")


def write_latents(path: Path, video: Video, bundle: Bundle, *, private: bool = False) -> Path:
    """Write a clip's latents, complete or not at all; private leaves the prompts out. Raises OutputError."""
    settings = video.request.settings()
    if private:
        settings.update(prompt="", negative_prompt="")
    metadata = {
        "edgereel": __version__,
        "bundle_digest": bundle.manifest.digest,
        "decoder": decoder_digest(bundle),
        "settings": json.dumps(settings, ensure_ascii=False),
    }
    with whole_file(path) as temporary:
        try:
            tensors = {"latents": video.latents, "noise": video.noise}
            kept = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items() if tensor is not None}
            save_file(kept, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error
    return path


def read_video(path: Path, reel: Reel, decoder: str | None = None) -> Video:
    """Return the clip whose latents are in a file, for its bundle's decoder to decode.

    decoder: the name of the one to decode with, None for that which the clip was made for. Raises UsageError where the file is
    damaged, or of a bundle with another decoder, or where there is no such decoder.
    """
    metadata, latents, noise = _read(path)
    if metadata.get("decoder") != decoder_digest(reel.bundle):
        made_by = one_line(metadata.get("bundle_digest", "not told"))[:64]
        raise UsageError(
            f"{path}: these latents were made by the bundle of digest {made_by}, whose decoder is another than that of "
            f"{reel.bundle.manifest.name} ({reel.bundle.manifest.digest}): choose it with --bundle"
        )
    try:
        settings = json.loads(metadata.get("settings", ""))
        fps = settings["fps"]
        settings["fps"] = parse_frame_rate(fps) if isinstance(fps, str) else frame_rate(fps)
        request = TypeAdapter(Request).validate_python(settings, strict=False)
        if request.decoder is not None and reel.bundle.manifest.decoder_name(request.decoder) is None:
            request = replace(request, decoder=None)  # a bundle of the same latents that lacks the second decoder
    except UsageError as error:
        raise UsageError(f"{path}: {error}: it is damaged") from error
    except (ValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path}: the settings in it cannot be read: it is damaged") from error
    request = replace(request, decoder=chosen_decoder(reel.bundle.manifest, decoder or request.decoder))
    geometry = reel.bundle.manifest.latent
    if latents.shape[1] != geometry.channels:
        raise UsageError(f"{path}: latents of {latents.shape[1]} channels, the decoder takes {geometry.channels}")
    if clip_size(geometry, latents.shape) != (request.width, request.height, request.frames):
        raise UsageError(f"{path}: the latents are not of the size that the settings say: it is damaged")
    sides = zip(request.shown_size, (request.width, request.height), strict=True)
    if not all(1 <= shown <= made for shown, made in sides):
        raise UsageError(f"{path}: the size that is shown is not one of the clip's: it is damaged")
    if (decoder_noise(reel.bundle.manifest, request.decoder, (1,), NoiseSource(0)) is None) != (noise is None):
        raise UsageError(f"{path}: the noise that goes with the latents does not fit the decoder: it is damaged")
    return reel.video(request, latents, noise)


def decoder_digest(bundle: Bundle) -> str:
    """Return a digest of the decoder that says what latents mean: the full one, where there are others beside it."""
    manifest = bundle.manifest
    decoders = manifest.roles.decoders_by_name
    graphs = [
        manifest.roles.graphs()[graph]
        for name in ([FULL] if FULL in decoders else decoders)
        for graph in manifest.roles.decoder_names(name).values()
    ]
    names = sorted({name for graph in graphs for name in (graph.file, graph.data)})
    facts: list[Any] = [[manifest.files[name].sha256 for name in names], manifest.latent.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _is_ours(path: Path) -> bool:
    """Tell whether a file is one of latents that `write_latents` wrote; a link is not."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= _LARGEST_HEADER else {}
        return {"edgereel", "decoder"} <= set(header["__metadata__"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _read(path: Path) -> tuple[dict[str, str], NDArray[np.float32], NDArray[np.float32] | None]:
    """Return a file's metadata, latents and noise; safetensors checks every size against the file's before it allocates."""
    try:
        if not path.is_file():
            missing = "is not a file" if path.exists() else "there is no such file"
            raise UsageError(f"{path}: {missing}: give what --keep-latents kept")
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            names = sorted(file.keys())
            if names not in (["latents"], ["latents", "noise"]):
                raise UsageError(f"{path}: is not a file of latents: it holds no tensor of that name, or others")
            part = file.get_slice("latents")
            if (
                any(file.get_slice(name).get_shape() != part.get_shape() for name in names)
                or part.get_dtype() != "F32"
                or len(part.get_shape()) != 5
                or 0 in part.get_shape()
            ):
                raise UsageError(f"{path}: the latents must be float32 [1, C, F, H, W]")
            size, free = 4 * math.prod(part.get_shape()) * len(names), free_host_memory()
            if free is not None and size > free:
                raise UsageError(
                    f"{path}: latents of {format_bytes(size)} do not fit into the {format_bytes(free)} that are free"
                )
            latents, *noise = (file.get_tensor(name) for name in names)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UsageError(
            f"{path}: is not a whole file of latents, as --keep-latents keeps them: {one_line(error)}"
        ) from error
    numbers = all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in (latents, *noise))
    if latents.shape[0] != 1 or not numbers:
        raise UsageError(f"{path}: the latents must be float32 [1, C, F, H, W], all of them finite numbers")
    return metadata, latents, next(iter(noise), None)
