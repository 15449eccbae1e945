"""What a clip claims of itself: plain data, and the C2PA manifest that says it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.version import __version__
from .xmp import MADE_BY_A_MODEL

WATERMARK_ALGORITHM = "org.edgereel.watermark.1"
OTHER_ALGORITHM = "org.edgereel.marker.1"
"""Our payload in somebody else's watermark."""
CLIP_ASSERTION = "org.edgereel.clip"
_PROMPTS = ("prompt", "negative_prompt")
TYPES = {"mp4": "video/mp4", "gif": "image/gif", "webp": "image/webp", "png": "image/png"}
"""MIME types of the formats that are signed; of a folder of PNGs each picture is."""


@dataclass(frozen=True)
class Origin:
    """What a clip is made of. settings: without prompts. inputs: files of pictures and clips that went into the model.

    scenes: files of clips that it is put together from, in their order.
    """

    settings: Mapping[str, Any]
    inputs: tuple[Path, ...] = ()
    scenes: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Claim:
    """What is said of one clip, in California's SB 942 four things: who provides the system, which, when, which clip.

    id: unique. provider: None where no one is named. made: None where the clock is not trusted. settings: what it was made
    with, without prompts. watermark: the id that its frames carry. inputs: pictures that went into the model. scenes: clips
    that it was put together from. found: what is known of each input, the marks that it carries among it.
    algorithm: the watermark's.
    """

    id: str
    settings: Mapping[str, Any]
    provider: str | None = None
    made: datetime.datetime | None = None
    watermark: str | None = None
    inputs: tuple[Path, ...] = ()
    scenes: tuple[Path, ...] = ()
    found: tuple[Mapping[str, Any], ...] = ()
    algorithm: str = WATERMARK_ALGORITHM

    def fields(self) -> dict[str, Any]:
        """Return the claim as JSON holds it."""
        fields: dict[str, Any] = {
            "id": self.id,
            "provider": self.provider,
            "system": "edgereel",
            "version": __version__,
            "made": None if self.made is None else self.made.isoformat(timespec="seconds"),
            "watermark": self.watermark,
            "inputs": [dict(each) for each in self.found] or None,
            "settings": {key: value for key, value in self.settings.items() if key not in _PROMPTS},
        }
        return {key: value for key, value in fields.items() if value is not None}

    def manifest(self, format: str) -> dict[str, Any]:
        """Return the definition of the C2PA manifest (C2PA 2.x, claim version 2) of a file of that format."""
        software = {"name": "edgereel", "version": __version__}
        created: dict[str, Any] = {
            "action": "c2pa.created",
            "digitalSourceType": MADE_BY_A_MODEL,
            "softwareAgent": software,
            "description": "created by a generative model",
        }
        if self.made is not None:
            created["when"] = self.made.isoformat(timespec="seconds")
        if self.inputs:
            created["parameters"] = {"ingredientIds": [f"input-{index}" for index in range(len(self.inputs))]}
        actions = [created]
        if self.scenes:
            scenes = [f"scene-{index}" for index in range(len(self.scenes))]
            actions.append({"action": "c2pa.placed", "parameters": {"ingredientIds": scenes}})
        assertions: list[dict[str, Any]] = []
        if self.watermark is not None:
            actions.append({"action": "c2pa.watermarked.bound"})
            blocks = [{"scope": {}, "value": self.watermark}]
            assertions.append({"label": "c2pa.soft-binding", "data": {"alg": self.algorithm, "blocks": blocks}})
        assertions.insert(0, {"label": "c2pa.actions.v2", "data": {"actions": actions}})
        assertions.append({"label": CLIP_ASSERTION, "data": self.fields()})
        return {
            "claim_generator_info": [software],
            "title": "AI-generated video",
            "format": TYPES[format],
            "assertions": assertions,
        }
