"""The image encoder of Wan 2.1's image-to-video models: CLIP's vision tower, but its last layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import CLIPVisionConfig, CLIPVisionModel

from ....bundle.manifest import TensorSpec
from ....core.errors import CheckpointError
from ...checkpoint import Checkpoint, Component
from ...layout import read_json
from ...weights import cast_own_weights
from ..base import GraphSource, Trial
from ..component import ComponentPart

PROCESSOR_NAME = "preprocessor_config.json"
BICUBIC = 3


class ImageEncoder(nn.Module):
    """CLIPVisionModel: pixels [B, 3, n, n] to the hidden states [B, N, D] before its last layer, as Wan's pipelines use it.

    In fp16 products run in half precision; norms, scores and the residual stream stay in float32.
    """

    def __init__(self, model: Any, compute: torch.dtype) -> None:
        super().__init__()
        self.embeddings, self.before = model.embeddings, model.pre_layrnorm
        self.layers = nn.ModuleList(list(model.encoder.layers)[:-1])
        self.compute = compute
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                cast_own_weights(module, compute)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the embeddings, float32."""
        embeddings = self.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        whole = embeddings.class_embedding.expand(pixels.shape[0], 1, -1)
        hidden = torch.cat([whole, patches], dim=1) + embeddings.position_embedding.weight
        hidden = self.before(hidden)
        layer: Any
        for layer in self.layers:
            hidden = hidden + self._attend(layer.self_attn, layer.layer_norm1(hidden).to(self.compute)).float()
            inner = layer.mlp.fc1(layer.layer_norm2(hidden).to(self.compute))
            hidden = hidden + layer.mlp.fc2(layer.mlp.activation_fn(inner)).float()
        result: Tensor = hidden
        return result

    def _attend(self, attention: Any, hidden: Tensor) -> Tensor:
        query, key, value = (part(hidden).float() for part in (attention.q_proj, attention.k_proj, attention.v_proj))
        heads = attention.num_heads
        mixed, *_ = torch.onnx.ops.attention(query, key, value, q_num_heads=heads, kv_num_heads=heads)
        output: Tensor = attention.out_proj(mixed.to(self.compute))
        return output


class ImageEncoderPart(ComponentPart):
    """CLIPVisionModel to `image_encoder.onnx`, and how a picture becomes its pixels."""

    def __init__(self, name: str, component: Component, processor: Path) -> None:
        """processor: the CLIPImageProcessor's folder."""
        super().__init__(name, component)
        self.facts = pixels_of(processor / PROCESSOR_NAME, self.config.image_size)

    def build(self, config: dict[str, Any]) -> Any:
        """Return a CLIPVisionModel."""
        return CLIPVisionModel(CLIPVisionConfig(**config))

    @property
    def tokens(self) -> int:
        """Into how many embeddings a picture is turned: its patches and one for the whole."""
        return 1 + int(self.config.image_size // self.config.patch_size) ** 2

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return trials of one picture of noise and of two."""
        generator = self._random()
        trials = []
        for batch in (1, 2):
            pixels = torch.randn(batch, 3, self.config.image_size, self.config.image_size, generator=generator)
            embeds = module(pixels, output_hidden_states=True).hidden_states[-2]
            label = f"{'x'.join(map(str, pixels.shape))} pixels"
            trials.append(Trial(label, {"pixels": pixels.numpy()}, embeds.numpy()))
        return trials

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the one graph, batch dynamic."""
        size = self.config.image_size
        return [
            GraphSource(
                name=self.name,
                module=ImageEncoder(module, compute),
                examples=(torch.zeros(2, 3, size, size),),
                dynamic=({0: Dim("batch")},),
                inputs={"pixels": TensorSpec(dtype="float32", shape=["batch", 3, size, size])},
                outputs={
                    "image_embeds": TensorSpec(dtype="float32", shape=["batch", self.tokens, self.config.hidden_size])
                },
                facts=self.facts,
            )
        ]


def image_encoder_of(checkpoint: Checkpoint) -> ImageEncoderPart | None:
    """Return the image encoder of a checkpoint that has one; raise CheckpointError where it cannot be exported."""
    if not checkpoint.has("image_encoder"):
        return None
    component = checkpoint.component("image_encoder", "CLIPVisionModel")
    return ImageEncoderPart("image_encoder", component, checkpoint.folder / "image_processor")


def pixels_of(path: Path, size: int) -> dict[str, Any]:
    """Return the manifest's `size`, `mean` and `std` of a CLIPImageProcessor's file for an encoder of that picture size.

    Raises CheckpointError where it does anything but scale the shorter side, crop the middle and normalise.
    """
    config = read_json(path)
    sides = {"shortest_edge": size}, size, {"height": size, "width": size}
    known = {
        "do_resize": (True,),
        "size": sides,
        "resample": (BICUBIC,),
        "do_center_crop": (True,),
        "crop_size": sides,
        "do_rescale": (True,),
        "do_normalize": (True,),
    }
    for key, values in known.items():
        if key in config and config[key] not in values:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; only {values[0]!r} can be exported")
    mean, std = config.get("image_mean"), config.get("image_std")
    for key, given in (("image_mean", mean), ("image_std", std)):
        if not (isinstance(given, list) and len(given) == 3 and all(isinstance(value, float) for value in given)):
            raise CheckpointError(f"{path}: {key} is {given!r}, not a number for each of three colours")
    return {"size": size, "mean": mean, "std": std}
