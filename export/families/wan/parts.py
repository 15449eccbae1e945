"""The three parts of a Wan checkpoint: each loads one component, makes its parity trials and describes its graphs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.export import Dim
from transformers import UMT5Config, UMT5EncoderModel

from ....bundle.manifest import TensorSpec
from ....core.errors import CheckpointError
from ...checkpoint import Component
from ..base import FrameStream, GraphSource, Trial
from ..component import ComponentPart, LoraPart
from ..t5 import MaskedTextEncoder
from .decoder import DecoderFirst, DecoderNext, pixel_shuffle
from .lora import NAMINGS
from .modules import Denoiser
from .published.latents import check_latent_statistics, shuffle_of


class TextEncoderPart(ComponentPart):
    """UMT5 encoder to `text_encoder.onnx`."""

    # T5 stores the table under one of its two names, or both.
    aliases = MappingProxyType({"encoder.embed_tokens.weight": "shared.weight"})

    def build(self, config: dict[str, Any]) -> Any:
        """Return an UMT5EncoderModel."""
        return UMT5EncoderModel(UMT5Config(**config))

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return trials of one short prompt and of two, one padded, longer than the relative positions reach."""
        generator = self._random()
        reach = self.config.relative_attention_max_distance
        trials = []
        for batch, length, padding in ((1, 7, 0), (2, 2 * reach + 3, reach)):
            ids = torch.randint(0, self.config.vocab_size, (batch, length), generator=generator)
            mask = torch.ones(batch, length, dtype=torch.int64)
            mask[-1, length - padding :] = 0
            embeds = module(ids, mask).last_hidden_state * mask[:, :, None]
            inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
            trials.append(Trial(f"{batch}x{length} tokens", inputs, embeds.numpy()))
        return trials

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the one graph, batch and number of tokens dynamic."""
        axes = {0: Dim("batch"), 1: Dim("tokens")}
        ids = TensorSpec(dtype="int64", shape=["batch", "tokens"])
        embeds = TensorSpec(dtype="float32", shape=["batch", "tokens", self.config.d_model])
        return [
            GraphSource(
                name=self.name,
                module=MaskedTextEncoder(module, compute),
                # Two tensors: the tracer takes one given twice for one input.
                examples=(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)),
                dynamic=(axes, axes),
                inputs={"input_ids": ids, "attention_mask": ids},
                outputs={"prompt_embeds": embeds},
            )
        ]


class DenoiserPart(LoraPart):
    """WanTransformer3DModel to `denoiser.onnx` (or `denoiser_2.onnx`)."""

    namings = NAMINGS

    def __init__(self, name: str, component: Component, facts: Mapping[str, Any] | None = None) -> None:
        """facts: see GraphSource."""
        super().__init__(name, component)
        self._facts = dict(facts or {})

    def build(self, config: dict[str, Any]) -> Any:
        """Return a WanTransformer3DModel."""
        return WanTransformer3DModel.from_config(config)

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return trials at two batch sizes, lengths, sizes, prompt lengths and noise levels."""
        generator = self._random()
        trials = []
        for patches, times, tokens in (((2, 3, 5), (977.0,), 9), ((1, 4, 2), (731.0, 12.0), 6)):
            extent = [count * size for count, size in zip(patches, self.config.patch_size, strict=True)]
            shape = (len(times), self.config.in_channels, *extent)
            latents = torch.randn(shape, generator=generator)
            embeds = torch.randn(len(times), tokens, self.config.text_dim, generator=generator)
            prediction = module(latents, torch.tensor(times), embeds, return_dict=False)[0]
            inputs = {
                "latents": latents.numpy(),
                "timestep": torch.tensor(times).numpy(),
                "prompt_embeds": embeds.numpy(),
            }
            label = f"{'x'.join(map(str, shape))} latents, {tokens} tokens"
            trials.append(Trial(label, inputs, prediction.numpy()))
        return trials

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the one graph; batch, frames, height, width and number of tokens dynamic."""
        most = self.config.rope_max_seq_len
        batch = Dim("batch")
        counts = [Dim(name, max=most) for name in ("frame_patches", "row_patches", "column_patches")]
        patch = list(self.config.patch_size)
        sizes = [size * count if size > 1 else count for size, count in zip(patch, counts, strict=True)]
        extent = [size * count for size, count in zip(patch, (3, 2, 5), strict=True)]
        latents = TensorSpec(dtype="float32", shape=["batch", self.config.in_channels, "frames", "height", "width"])
        return [
            GraphSource(
                name=self.name,
                module=Denoiser(module, compute),
                examples=(
                    torch.zeros(2, self.config.in_channels, *extent),
                    torch.zeros(2),
                    torch.zeros(2, 7, self.config.text_dim),
                ),
                dynamic=({0: batch, 2: sizes[0], 3: sizes[1], 4: sizes[2]}, {0: batch}, {0: batch, 1: Dim("tokens")}),
                inputs={
                    "latents": latents,
                    "timestep": TensorSpec(dtype="float32", shape=["batch"]),
                    "prompt_embeds": TensorSpec(dtype="float32", shape=["batch", "tokens", self.config.text_dim]),
                },
                outputs={"prediction": latents},
                facts=self._facts,
            )
        ]


class DecoderPart(ComponentPart):
    """AutoencoderKLWan's decoder to `decoder_first.onnx` and `decoder_next.onnx`."""

    streams = FrameStream(whole="latents", part="latent", first=1, later=1, made="frames")

    def __init__(self, name: str, component: Component) -> None:
        super().__init__(name, component)
        self.temporal_scale = 2 ** sum(map(bool, self.config.temperal_downsample))
        scale = 2 ** (len(self.config.dim_mult) - 1) * (self.config.patch_size or 1)
        self.shuffle = shuffle_of(self.config, component.config_path)
        self.spatial_scale = scale * self.shuffle
        check_latent_statistics(self.config, component.config_path)
        stated = (self.config.scale_factor_temporal, self.config.scale_factor_spatial)
        if stated not in ((self.temporal_scale, scale), (self.temporal_scale, self.spatial_scale)):
            raise CheckpointError(
                f"{component.config_path}: scale_factor_temporal, scale_factor_spatial are {stated}, "
                f"but its layers scale by {(self.temporal_scale, self.spatial_scale)}"
            )

    def build(self, config: dict[str, Any]) -> Any:
        """Return an AutoencoderKLWan."""
        return AutoencoderKLWan.from_config(config)

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return clips of normalised latents and what diffusers decodes from each at once."""
        generator = self._random()
        channels = self.config.z_dim
        mean = torch.tensor(self.config.latents_mean).view(1, channels, 1, 1, 1)
        std = torch.tensor(self.config.latents_std).view(1, channels, 1, 1, 1)
        trials = []
        for shape in ((1, channels, 4, 3, 5), (2, channels, 3, 4, 2)):
            latents = torch.randn(shape, generator=generator)
            frames = pixel_shuffle(module.decode(latents * std + mean, return_dict=False)[0], self.shuffle)
            trials.append(Trial(f"{'x'.join(map(str, shape))} latents", {"latents": latents.numpy()}, frames.numpy()))
        return trials

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return both graphs; batch, height and width dynamic, states the size of the layer they belong to."""
        first, later = DecoderFirst(module, compute, self.shuffle), DecoderNext(module, compute, self.shuffle)
        rows, columns = 2, 3
        latent = torch.zeros(2, self.config.z_dim, 1, rows, columns)
        with torch.no_grad():
            states = first(latent)[1:]
        axes = {0: Dim("batch"), 3: Dim("height"), 4: Dim("width")}
        scales = [state.shape[3] // rows for state in states]
        latent_spec = {"latent": TensorSpec(dtype="float32", shape=["batch", self.config.z_dim, 1, "height", "width"])}
        specs = [
            picture_spec(state.shape[1], state.shape[2], scale) for state, scale in zip(states, scales, strict=True)
        ]
        given = {f"state_{index:02}": spec for index, spec in enumerate(specs)}
        left = {f"{name}_next": spec for name, spec in given.items()}
        colours = self.config.out_channels // ((self.config.patch_size or 1) * self.shuffle) ** 2
        frames = [picture_spec(colours, count, self.spatial_scale) for count in (1, self.temporal_scale)]
        scaled = tuple({axis: times(scale, dim) if axis else dim for axis, dim in axes.items()} for scale in scales)
        return [
            GraphSource("decoder_first", first, (latent,), (axes,), latent_spec, {"frames": frames[0]} | given),
            GraphSource(
                "decoder_next",
                later,
                (latent, *(torch.zeros_like(state) for state in states)),
                (axes, scaled),
                latent_spec | given,
                {"frames": frames[1]} | left,
            ),
        ]


def times(scale: int, dim: Any) -> Any:
    """Return a dimension that is as many times another one."""
    return dim if scale == 1 else scale * dim


def picture_spec(channels: int, frames: int, scale: int) -> TensorSpec:
    """Return what the manifest says about pictures whose height and width are as many times those of the latents."""
    height, width = (name if scale == 1 else f"{name}*{scale}" for name in ("height", "width"))
    return TensorSpec(dtype="float32", shape=["batch", channels, frames, height, width])
