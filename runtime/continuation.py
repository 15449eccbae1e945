"""Clips that go on: from the latents of one that was made here, or from the last pictures of a video file."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle.geometry import latent_shape
from ..bundle.manifest import Manifest
from ..bundle.reader import Bundle
from ..core.errors import GeometryError, UsageError
from ..core.progress import Progress
from .chunks.times import check_seconds
from .clip import Video
from .conditioning import GivenPictures, check_pictures
from .denoise import Denoising
from .open_graphs import OpenGraphs
from .pictures.fit import fit_picture
from .pictures.video_file import VideoEnd, last_pictures
from .request import OpenRequest, Request
from .sampling.noise import LARGEST_SEED
from .video.frame_rate import FrameRate

Latents = NDArray[np.float32]
_OF_THE_CLIP = ("size", "frames", "fps", "latents", "image", "last_image")


class Maker(Protocol):
    """What continuing needs of a reel."""

    bundle: Bundle
    graphs: OpenGraphs

    def prepare(
        self, request: Request, pictures: GivenPictures, on_progress: Progress | None
    ) -> tuple[Denoising, Latents | None]:
        """See Reel.prepare."""

    def sample(
        self, request: Request, denoising: Denoising, given: Latents | None, on_progress: Progress | None
    ) -> Video:
        """See Reel.sample."""


def continue_video(
    maker: Maker, video: Video, asked: OpenRequest, seconds: float | None, on_progress: Progress | None
) -> Video:
    """Return what follows a clip; see Video.continue_.

    A bundle of streams goes on from the clip's latents, and nothing is encoded; any other from its last pictures.
    """
    manifest = maker.bundle.manifest
    request = continued_request(manifest, asked, video.request, seconds)
    maker.graphs.begin()
    given, pictures = None, GivenPictures()
    if goes_on_from_latents(manifest):
        given = video.latents
    else:
        pictures = GivenPictures(list(deque(video.made_pictures(), maxlen=request.overlap)))
    denoising, encoded = maker.prepare(request, pictures, on_progress)
    return maker.sample(request, denoising, encoded if given is None else given, on_progress)


def goes_on_from_latents(manifest: Manifest) -> bool:
    """Tell whether a clip goes on from another's latents, so that both are one film, and not from its last pictures."""
    return manifest.stream is not None and manifest.held is None


def can_continue(manifest: Manifest) -> bool:
    """Tell whether a bundle continues clips at all."""
    try:
        _check(manifest, OpenRequest(""))
    except UsageError:
        return False
    return True


def continued_request(manifest: Manifest, asked: OpenRequest, before: Request, seconds: float | None) -> Request:
    """Return the request of what follows a clip, of which only the request need be there; see Video.continue_.

    Raises UsageError where the bundle continues no clips, or not this one; GeometryError.
    """
    _check(manifest, asked)
    if asked.seed is None:
        asked = replace(asked, seed=(before.seed + 1) % (LARGEST_SEED + 1))
    overlap = before.frames
    if not goes_on_from_latents(manifest):
        overlap = _unit(manifest, min(before.frames - before.overlap, _most_pictures(manifest)), "the clip")
    request = _request(manifest, asked, (before.width, before.height), before.fps, overlap, seconds)
    return replace(request, shown=before.shown)


def continue_file(
    maker: Maker, path: Path, asked: OpenRequest, seconds: float | None, on_progress: Progress | None
) -> Video:
    """Return what follows the clip in a video file; see Reel.continue_file."""
    manifest = maker.bundle.manifest
    _check(manifest, asked)
    check_pictures(manifest, first=True, last=False)
    maker.graphs.begin()
    end = last_pictures(path, _most_pictures(manifest))
    size = _size_of(manifest, end)
    overlap = _unit(manifest, len(end.pictures), str(path))
    pictures = [fit_picture(picture, *size) for picture in end.pictures[-overlap:]]
    request = _request(manifest, asked, size, end.fps, overlap, seconds)
    denoising, given = maker.prepare(request, GivenPictures(pictures), on_progress)
    video = maker.sample(request, denoising, given, on_progress)
    video.inputs = (path,)
    return video


def _check(manifest: Manifest, asked: OpenRequest) -> None:
    for name in _OF_THE_CLIP:
        if getattr(asked, name) is not None:
            raise UsageError(f"{name} is that of the clip which is continued: leave it out")
    if manifest.held is None and manifest.stream is None:
        check_pictures(manifest, first=True, last=False)


def _request(
    manifest: Manifest,
    asked: OpenRequest,
    size: tuple[int, int],
    fps: FrameRate,
    overlap: int,
    seconds: float | None,
) -> Request:
    """Return the request of a clip that begins with pictures of another, its length that of both.

    Raises UsageError, GeometryError.
    """
    unit = manifest.latent.temporal_scale * manifest.latent.patch[0]
    if seconds is None:
        new = max(manifest.defaults.frames - (0 if manifest.stream else overlap), unit)
    else:
        check_seconds(seconds)
        new = round(seconds * fps)
    new = max(round(new / unit), 1) * unit
    request = replace(asked, size=size, frames=overlap + new, fps=fps).complete(manifest)
    return replace(request, overlap=overlap)


def _most_pictures(manifest: Manifest) -> int:
    """Return how many pictures a clip is continued from, where it has as many."""
    held, stream = manifest.held, manifest.stream
    frames = held.frames if held is not None else 1 if stream is None else max(stream.window, 1)
    return 1 + (frames - 1) * manifest.latent.temporal_scale


def _unit(manifest: Manifest, pictures: int, name: str) -> int:
    """Return how many of so many last pictures make whole latent frames. Raises UsageError where there are too few."""
    scale, most = manifest.latent.temporal_scale, _most_pictures(manifest)
    least = min(most, 1 + scale)
    if pictures < least:
        raise UsageError(
            f"{name}: has {pictures} picture{'s' * (pictures != 1)}, and this model goes on from {least} at least: "
            "give it as --image to begin with a picture"
        )
    return 1 + (pictures - 1) // scale * scale


def _size_of(manifest: Manifest, end: VideoEnd) -> tuple[int, int]:
    """Return the size of the clip that goes on from a video: the video's where the model can do it, else the bundle's."""
    height, width = end.pictures[0].shape[:2]
    try:
        latent_shape(manifest.latent, width, height, 1)
    except GeometryError:
        return manifest.defaults.width, manifest.defaults.height
    return width, height
