"""What is told of a film: its plan, and what its file says that it was made with."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ...core.version import __version__
from ...runtime.reel import Reel
from .picture_cache import PictureCache, picture_key
from .plan import FilmPlan
from .speed import read_speed
from .store import Store


def film_facts(plan: FilmPlan, reel: Reel, store: Store) -> dict[str, Any]:
    """Return a plan as plain data."""
    speed = read_speed(reel)
    scenes: list[dict[str, Any]] = []
    work, to_decode, fps = 0, 0, float(plan.fps)
    cache = PictureCache()
    for scene in plan.scenes:
        kept = None if scene.key is None else scene.key in store
        request = scene.request
        facts: dict[str, Any] = {
            "number": scene.number + 1,
            "name": scene.name,
            "at": round(scene.start / fps, 3),
            "seconds": round(scene.pictures / fps, 3),
            "pictures": scene.pictures,
            "transition": scene.transition,
            "kept": kept,
        }
        if request is not None:
            facts |= {"prompt": request.prompt, "seed": request.seed, "key": scene.key}
            facts["from"] = None if scene.origin is None else plan.scenes[scene.origin].name
            key = picture_key(scene.key or "", request.decoder, reel.threads)
            if cache.read(key, scene.pictures) is None:
                to_decode += scene.pictures
            if not kept:
                work += scene_work(plan, reel, len(scenes))
        else:
            facts["card"] = scene.card.text if scene.card is not None else ""
        scenes.append(facts)
    return {
        "title": plan.file.story.title,
        "bundle": reel.bundle.manifest.name,
        "bundle_digest": reel.bundle.manifest.digest,
        "width": plan.size.shown[0],
        "height": plan.size.shown[1],
        "fps": str(plan.fps) if not isinstance(plan.fps, int) else plan.fps,
        "pictures": plan.pictures,
        "seconds": float(plan.seconds),
        "memory_bytes": plan.peak,
        "expected_seconds": speed.seconds(work, to_decode * plan.size.made[0] * plan.size.made[1]),
        "scenes": scenes,
    }


def scene_work(plan: FilmPlan, reel: Reel, index: int) -> int:
    """Return a scene's tokens times steps, about."""
    request, latent = plan.scenes[index].request, reel.bundle.manifest.latent
    assert request is not None
    frames = -(-plan.scenes[index].pictures // latent.temporal_scale)
    patches = (request.height // latent.spatial_scale // latent.patch[1]) * (
        request.width // latent.spatial_scale // latent.patch[2]
    )
    return frames * patches // latent.patch[0] * request.steps


def film_settings(plan: FilmPlan, reel: Reel, *, private: bool) -> dict[str, Any]:
    """Return what a film says it was made with: the same whenever it is made, and whatever of it was kept.

    private: without the title. Scenes are told by a hash of the keys that they are kept under.
    """
    keys = [
        scene.key or json.dumps([scene.card.written if scene.card else "", scene.pictures]) for scene in plan.scenes
    ]
    manifest = reel.bundle.manifest
    settings = {
        "ai_generated": True,
        "edgereel": __version__,
        "bundle": manifest.name,
        "bundle_digest": manifest.digest,
        "story": plan.file.story.title,
        "scenes": len(plan.scenes),
        "scenes_sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        "width": plan.size.shown[0],
        "height": plan.size.shown[1],
        "fps": str(plan.fps) if not isinstance(plan.fps, int) else plan.fps,
        "numerics": reel.numerics(),
    }
    if private:
        del settings["story"]
    return settings
