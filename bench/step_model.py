"""A denoiser of Wan 2.1 1.3B's width with two layers and seeded random weights: checkpoint, canonical graph, int8 graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .random_wan import TRANSFORMER, write_random_wan

LAYERS = 2
CONFIG: dict[str, Any] = {**TRANSFORMER, "num_layers": LAYERS}
TEXT_TOKENS = 512
LATENTS = (1, 16, 3, 60, 104)
"""832×480 pixels, 9 frames: 4,680 tokens of 1×2×2 latents."""
SMALLEST_LINEAR = 1_000_000
"""Number of weights from which a linear is quantized."""


def write_bundle(folder: Path) -> Path:
    """Write the checkpoint and export it, both into a folder; return the canonical denoiser's path."""
    checkpoint, bundle = folder / "checkpoint", folder / "step.reel"
    write_random_wan(checkpoint, layers=LAYERS)
    # By the command line, in a process of its own: what it leaves in memory would be in the way of the contenders.
    command = [sys.executable, "-m", "edgereel", "export", str(checkpoint), "-o", str(bundle)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return denoiser_of(folder)


def denoiser_of(folder: Path) -> Path:
    """Return where `write_bundle` puts the canonical denoiser."""
    return folder / "step.reel" / "denoiser.onnx"


def write_int8_graph(graph: Path, target: Path, smallest: int = SMALLEST_LINEAR) -> Path:
    """Quantize a graph's linears of at least `smallest` weights to int8, one scale for each output, nearest value.

    Weights are written as `DequantizeLinear(int8 [K, N], scale [N], axis=1)`; activations are left as they are. No
    calibration: this is for measuring speed. Returns the target, whose weights lie beside it.
    """
    import onnx

    model = onnx.load(graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:  # weights that are stored as bfloat16 stand behind a Cast
        if node.op_type == "Cast" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    made = []
    for node in model.graph.node:
        tensor = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if tensor is None or int(np.prod(tensor.dims)) < smallest:
            continue
        values, scale = quantize_columns(onnx.numpy_helper.to_array(tensor).astype(np.float32))
        name = tensor.name
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"{name}_int8"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
        made.append(
            onnx.helper.make_node(
                "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [f"{name}_dequantized"], axis=1
            )
        )
        node.input[1] = f"{name}_dequantized"
    read = {name for node in model.graph.node for name in node.input}
    nodes = [*made, *(node for node in model.graph.node if read.intersection(node.output) or _is_output(model, node))]
    read = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)
    onnx.save_model(model, target, save_as_external_data=True, location=f"{target.stem}.data", size_threshold=1024)
    return target


def _is_output(model: Any, node: Any) -> bool:
    return any(value.name in node.output for value in model.graph.output)


def quantize_columns(weights: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 [K, N] and scale float32 [N] of weights [K, N]: scale = max|column| / 127."""
    largest: NDArray[Any] = np.abs(weights).max(axis=0)
    scale = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.round(weights / scale), -127, 127).astype(np.int8), scale


def random_inputs(latents: tuple[int, ...] = LATENTS, tokens: int = TEXT_TOKENS, seed: int = 0) -> dict[str, Any]:
    """Return unit normal latents and embeddings, float32, and a timestep in the middle."""
    random = np.random.default_rng(seed)
    return {
        "latents": random.standard_normal(latents).astype(np.float32),
        "timestep": np.full(latents[0], 731, np.float32),
        "prompt_embeds": random.standard_normal((latents[0], tokens, CONFIG["text_dim"])).astype(np.float32),
    }
