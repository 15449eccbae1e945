"""Random tiny decoders in the layout of madebyollin's taehv: files, and the demo's bundle with one beside its full decoder."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conftest import DEMO_REEL
from safetensors.torch import save_file

from edgereel.bundle.manifest import LatentGeometry
from edgereel.bundle.reader import hash_file
from edgereel.export.families.wan.tiny.layout import TinyShape
from edgereel.export.families.wan.tiny.modules import TinyDecoder
from edgereel.export.families.wan.tiny.part import TinyDecoderPart
from edgereel.export.request import TinyDecoderFile
from helpers.exported_parts import exported
from helpers.small_bundle import sign

WIDTHS = (12, 8, 6, 4)
TAEW2_1 = TinyShape(16, WIDTHS, (1, 2, 2), 1)
TAEW2_2 = TinyShape(48, WIDTHS, (1, 2, 2), 2)
OF_THE_DEMO = TinyShape(24, WIDTHS, (1, 2, 2), 2)
FULL_SIZE = (256, 128, 64, 64)
"""The widths of published files."""


_CENTRED = torch.tensor([[0.1, 0.3, 0.1], [0.3, 2.8, 0.3], [0.1, 0.3, 0.1]])


class Statistics:
    """What a tiny decoder needs to know of an autoencoder's configuration."""

    def __init__(self, channels: int) -> None:
        self.latents_mean = [0.1 * channel - 0.4 for channel in range(channels)]
        self.latents_std = [0.5 + 0.05 * channel for channel in range(channels)]


def geometry_of(shape: TinyShape) -> LatentGeometry:
    return LatentGeometry(
        channels=shape.channels, temporal_scale=shape.temporal_scale, spatial_scale=shape.spatial_scale, patch=[1, 1, 1]
    )


def tensors_of(shape: TinyShape, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the tensors of a file: the decoder's, and some of an encoder's.

    Activations keep their size, and most of what a convolution sees lies at its centre: as in trained decoders, pictures depend
    little on what is far away.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, value in TinyDecoder(shape).state_dict().items():
        size = math.sqrt(1.5 / max(1, value[0].numel())) if value.ndim > 1 else 0.05
        tensors[name] = torch.randn(value.shape, generator=generator) * size
        if value.shape[2:] == (3, 3):
            tensors[name] *= _CENTRED
    tensors["decoder.22.weight"] *= 0.4
    tensors["decoder.22.bias"] += 0.5
    return {**tensors, "encoder.0.weight": torch.randn(4, 3, 3, 3, generator=generator)}


def write_tiny(path: Path, shape: TinyShape, seed: int = 0, **changes: torch.Tensor | None) -> Path:
    """Write a file; changes: other tensors by name, None for none."""
    tensors = {**tensors_of(shape, seed), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def part_of(
    path: Path, shape: TinyShape, notes: list[str] | None = None, scaled: bool | None = None
) -> TinyDecoderPart:
    given = replace(TinyDecoderFile.of(path), scaled=scaled)
    return TinyDecoderPart(given, geometry_of(shape), Statistics(shape.channels), [] if notes is None else notes)


def write_two_decoder_reel(reel: Path) -> None:
    """Write the demo's bundle with a random tiny decoder in the place of its own, exported as the export does it."""
    shutil.copytree(DEMO_REEL, reel, ignore=shutil.ignore_patterns("tiny_decoder*"))
    part = part_of(write_tiny(reel.with_name("tiny.safetensors"), OF_THE_DEMO), OF_THE_DEMO)
    exported(part, reel)
    data = json.loads((reel / "reel.json").read_text())
    roles = data["roles"]
    data["files"] = {name: entry for name, entry in data["files"].items() if not name.startswith("tiny_decoder")}
    tiny = {source.name.removeprefix("tiny_"): _entry(source) for source in part.graphs(part.load(), torch.float32)}
    roles["decoders"]["tiny"] = tiny
    for path in reel.glob("tiny_decoder*"):
        data["files"][path.name] = {"size": path.stat().st_size, "sha256": hash_file(path)}
    sign(reel, data)


def _entry(source: Any) -> dict[str, Any]:
    specs = {
        key: {name: spec.model_dump(mode="json") for name, spec in getattr(source, key).items()}
        for key in ("inputs", "outputs")
    }
    return {"file": f"{source.name}.onnx", "data": "tiny_decoder.data", **specs}
