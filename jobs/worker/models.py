"""The bundles that a worker knows, of which one at a time is in memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ...bundle.manifest import Manifest
from ...bundle.reader import Bundle, open_bundle
from ...bundle.vocabulary import prompt_words
from ...core.errors import UsageError
from ...core.machine import give_back_memory
from ...core.progress import Progress
from ...engines import EngineOptions, get_engine
from ...runtime.reel import Reel
from ...runtime.request import OpenRequest, Request
from ...runtime.text.embedding_cache import EmbeddingCache
from ...runtime.video.frame_rate import frame_rate
from ..settings import JobSettings, parse_size


class Models:
    """Bundles by name. One reel is kept warm; that of another name takes its place.

    engine, threads, memory: see reel.load.
    """

    def __init__(
        self, paths: dict[str, str | None], engine: str, threads: int | None, memory: int | str | None
    ) -> None:
        """Read every bundle. paths: by name, None for the built-in demo. Raises BundleError, UsageError."""
        self._engine = get_engine(engine)
        self._options, self._memory = EngineOptions(threads=threads), memory
        self.bundles: dict[str, Bundle] = {}
        for name, path in paths.items():
            self.bundles[name] = open_bundle("demo" if path is None else Path(path))
        self._checkers = {name: self._new_reel(name) for name in self.bundles}
        self._warm: tuple[str, Reel] | None = None

    @property
    def device(self) -> str:
        """`cpu` or `gpu`."""
        return self._engine.device

    @property
    def warm(self) -> str | None:
        """The name of the bundle in memory."""
        return None if self._warm is None else self._warm[0]

    def bundle(self, name: str) -> Bundle:
        """Return a bundle. Raises UsageError for a name that is none."""
        if name not in self.bundles:
            raise UsageError(f"there is no model {name!r}: choose from {', '.join(self.bundles)}")
        return self.bundles[name]

    def reel(self, name: str, on_progress: Progress | None = None) -> Reel:
        """Return a bundle's reel, after letting go of another's; for the thread that runs reels alone."""
        self.bundle(name)
        if self._warm is not None and self._warm[0] != name:
            self.unload()
        if self._warm is None:
            # Opened again: its files may have changed since.
            self.bundles[name] = open_bundle(self.bundles[name].folder, on_progress=on_progress)
            self._warm = (name, self._new_reel(name))
        return self._warm[1]

    def stop(self) -> None:
        """End what the warm reel does, from another thread."""
        if (warm := self._warm) is not None:
            warm[1].stop()

    def unload(self) -> None:
        """Let go of the reel in memory; for the thread that runs reels alone."""
        if self._warm is not None:
            self._warm[1].close()
            self._warm = None
            give_back_memory()

    def complete(self, name: str, settings: JobSettings, picture: Path | None) -> Request:
        """Return what a job's settings come to, while another clip is made; nothing is opened.

        Raises UsageError, PromptError, GeometryError.
        """
        manifest = self.bundle(name).manifest
        asked = open_request(manifest, settings, picture).with_pictures(manifest)
        request = asked.complete(manifest)
        self._checkers[name].check_prompt(settings.prompt)
        return request

    def check_prompt(self, name: str, prompt: str) -> None:
        """Raise PromptError where a model cannot take a prompt."""
        self._checkers[name].check_prompt(prompt)

    def describe(self) -> list[dict[str, Any]]:
        """Return what each model is and can do, as plain data."""
        return [describe_model(name, bundle.manifest) for name, bundle in self.bundles.items()]

    def _new_reel(self, name: str) -> Reel:
        started = time.perf_counter()
        reel = Reel(self.bundles[name], self._engine, self._options, EmbeddingCache(), self._memory)
        reel.add_time("open", started)
        return reel


def open_request(manifest: Manifest, settings: JobSettings, picture: Path | None) -> OpenRequest:
    """Return the request of a job's settings, its length one that the model can do where it was asked for in seconds."""
    fps = None if settings.fps is None else frame_rate(round(settings.fps, 3))
    frames = settings.num_frames
    if settings.seconds is not None:
        unit = manifest.latent.temporal_scale * manifest.latent.patch[0]
        asked = settings.seconds * float(fps or manifest.defaults.fps)
        frames = 1 + max(0, round((asked - 1) / unit)) * unit
    return OpenRequest(
        settings.prompt,
        seed=settings.seed,
        steps=settings.num_inference_steps,
        guidance=settings.guidance_scale,
        negative_prompt=settings.negative_prompt,
        size=None if settings.size is None else parse_size(settings.size),
        frames=frames,
        fps=fps,
        recipe=settings.recipe,
        image=picture,
        fit=settings.fit if picture is not None else None,
        decoder=settings.decoder,
    )


def describe_model(name: str, manifest: Manifest) -> dict[str, Any]:
    """Return what a model is and can do, as plain data."""
    defaults, condition = manifest.defaults, manifest.condition
    in_stream = manifest.stream is not None and manifest.roles.encoder_first is not None
    first = manifest.held is not None or in_stream or (condition is not None and condition.first != "no")
    return {
        "name": name,
        "title": manifest.name,
        "digest": manifest.digest,
        "width": defaults.width,
        "height": defaults.height,
        "frames": defaults.frames,
        "fps": defaults.fps,
        "formats": {"default": [defaults.width, defaults.height], **defaults.formats},
        "recipes": [{"name": recipe.name, "steps": recipe.steps} for recipe in manifest.recipes],
        "decoders": list(manifest.roles.decoders_by_name),
        "takes_picture": first,
        "takes_last_picture": condition is not None and condition.last != "no",
        "live": manifest.stream is not None,
        **prompt_words(manifest),
    }


def facts_of(request: Request) -> dict[str, Any]:
    """Return what a completed request comes to, in the words of the HTTP interface."""
    return {
        "seed": request.seed,
        "width": request.shown_size[0],
        "height": request.shown_size[1],
        "num_frames": request.frames,
        "fps": float(request.fps) if request.fps != int(request.fps) else int(request.fps),
        "num_inference_steps": request.steps,
        "guidance_scale": max(request.guidances),
        "recipe": request.recipe,
        "decoder": request.decoder,
    }
