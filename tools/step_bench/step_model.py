"""A denoiser of Wan 2.1 1.3B's width with two layers and seeded random weights: checkpoint, canonical graph, int8 graph."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from ...core.processes import python_command
from .random_wan import TRANSFORMER, write_random_wan

LAYERS = 2
CONFIG: dict[str, Any] = {**TRANSFORMER, "num_layers": LAYERS}
TEXT_TOKENS = 512
LATENTS = (1, 16, 3, 60, 104)
"""832×480 pixels, 9 frames: 4,680 tokens of 1×2×2 latents."""


def write_bundle(folder: Path) -> Path:
    """Write the checkpoint and export it, both into a folder; return the canonical denoiser's path."""
    checkpoint, bundle = folder / "checkpoint", folder / "step.reel"
    write_random_wan(checkpoint, layers=LAYERS)
    _run("export", checkpoint, "-o", bundle)
    return denoiser_of(folder)


def write_int8_bundle(folder: Path) -> Path:
    """Quantize what `write_bundle` wrote to int8, activations dynamic; return the denoiser's path."""
    _run("quantize", folder / "step.reel", "-o", folder / "int8.reel", "--precision", "int8", "--no-compare")
    return denoiser_of(folder, "int8")


def denoiser_of(folder: Path, bundle: str = "step") -> Path:
    """Return where `write_bundle` ("step") or `write_int8_bundle` ("int8") puts the denoiser."""
    return folder / f"{bundle}.reel" / "denoiser.onnx"


def _run(*arguments: str | Path) -> None:
    # By the command line, in a process of its own: what it leaves in memory would be in the way of the contenders.
    command = python_command("edgereel", *map(str, arguments))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def random_inputs(latents: tuple[int, ...] = LATENTS, tokens: int = TEXT_TOKENS, seed: int = 0) -> dict[str, Any]:
    """Return unit normal latents and embeddings, float32, and a timestep in the middle."""
    random = np.random.default_rng(seed)
    return {
        "latents": random.standard_normal(latents).astype(np.float32),
        "timestep": np.full(latents[0], 731, np.float32),
        "prompt_embeds": random.standard_normal((latents[0], tokens, CONFIG["text_dim"])).astype(np.float32),
    }
