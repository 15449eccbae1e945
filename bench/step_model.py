"""A denoiser of Wan 2.1 1.3B's width with two layers and seeded random weights: checkpoint, canonical graph, int8 graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIG: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
"""The published transformer configuration of Wan2.1-T2V-1.3B, but for `num_layers`, which is 30 there."""
TEXT_TOKENS = 512
LATENTS = (1, 16, 3, 60, 104)
"""832×480 pixels, 9 frames: 4,680 tokens of 1×2×2 latents."""
SMALLEST_LINEAR = 1_000_000
"""Number of weights from which a linear is quantized."""


def write_checkpoint(folder: Path, **changes: Any) -> None:
    """Write the transformer in diffusers' layout; changes: other values for the configuration."""
    import torch
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    module = WanTransformer3DModel.from_config(CONFIG | changes)
    with torch.no_grad():
        for parameter in module.parameters():  # norms of 1 and biases of 0 would be a special case
            parameter.add_(0.01 * torch.randn_like(parameter))
    module.save_pretrained(folder, safe_serialization=True)


def write_graph(checkpoint: Path, folder: Path) -> Path:
    """Export a checkpoint of `write_checkpoint` to `denoiser.onnx` in a folder and return its path."""
    import torch

    from ..export.checkpoint import Component, read_json
    from ..export.graphs import DataFile, save_graph
    from ..export.wan_parts import DenoiserPart

    part = DenoiserPart("denoiser", Component(checkpoint, read_json(checkpoint / "config.json")))
    with DataFile(folder / "denoiser.data") as data:
        for source in part.graphs(part.load(), torch.float32):
            save_graph(source, folder, data)
    return folder / "denoiser.onnx"


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
