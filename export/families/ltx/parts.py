"""The three parts of an LTX-Video checkpoint: each loads one component, makes its parity trials and describes its graphs."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel
from torch.export import Dim
from transformers import T5Config, T5EncoderModel

from ....bundle.manifest import TensorSpec
from ....core.errors import CheckpointError
from ...checkpoint import Component
from ..base import GraphSource, Trial
from ..component import ComponentPart, LoraPart
from ..t5 import MaskedTextEncoder, UnmaskedTextEncoder
from .decoder import Decoder
from .modules import Denoiser
from .names import NAMINGS

MOST_LATENTS = 1024
"""Of latent frames, rows and columns: positions have no limit of their own."""
DECODE_TIMESTEP, DECODE_NOISE = 0.05, 0.025
"""LTX-Video, configs/ltxv-2b-0.9.8-distilled.yaml, as in those of all releases whose decoders take a timestep."""


class TextEncoderPart(ComponentPart):
    """T5 encoder to `text_encoder.onnx`. LTXPipeline runs it over the padding, LTXConditionPipeline masks that."""

    # T5 stores the table under one of its two names, or both.
    aliases = MappingProxyType({"encoder.embed_tokens.weight": "shared.weight"})

    def __init__(self, name: str, component: Component, *, masked: bool) -> None:
        """masked: whether tokens do not attend to the padding."""
        super().__init__(name, component)
        self._masked = masked

    def build(self, config: dict[str, Any]) -> Any:
        """Return a T5EncoderModel."""
        return T5EncoderModel(T5Config(**config))

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return trials of one short prompt and of two longer than the relative positions reach."""
        generator = self._random()
        trials = []
        for batch, length in ((1, 7), (2, 2 * self.config.relative_attention_max_distance + 3)):
            ids = torch.randint(0, self.config.vocab_size, (batch, length), generator=generator)
            mask = torch.ones_like(ids)
            mask[-1, length - batch :] = 0
            inputs = {"input_ids": ids.numpy()} | ({"attention_mask": mask.numpy()} if self._masked else {})
            embeds = module(ids, mask).last_hidden_state * mask[:, :, None] if self._masked else module(ids)[0]
            trials.append(Trial(f"{batch}x{length} tokens", inputs, embeds.numpy()))
        return trials

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the one graph, batch and number of tokens dynamic."""
        axes = {0: Dim("batch"), 1: Dim("tokens")}
        names = ["input_ids", "attention_mask"] if self._masked else ["input_ids"]
        return [
            GraphSource(
                name=self.name,
                module=(MaskedTextEncoder if self._masked else UnmaskedTextEncoder)(module, compute),
                examples=tuple(torch.ones(2, 5, dtype=torch.int64) for _ in names),
                dynamic=tuple(axes for _ in names),
                inputs=dict.fromkeys(names, TensorSpec(dtype="int64", shape=["batch", "tokens"])),
                outputs={"prompt_embeds": TensorSpec(dtype="float32", shape=["batch", "tokens", self.config.d_model])},
            )
        ]


class DenoiserPart(LoraPart):
    """LTXVideoTransformer3DModel to `denoiser.onnx`."""

    namings = NAMINGS

    def __init__(self, name: str, component: Component, scales: tuple[int, int], *, first_frame_is_short: bool) -> None:
        """scales: pictures and pixels of a latent. first_frame_is_short: see RotaryTables."""
        super().__init__(name, component)
        self._scales = scales
        self._short = first_frame_is_short

    def build(self, config: dict[str, Any]) -> Any:
        """Return an LTXVideoTransformer3DModel."""
        return LTXVideoTransformer3DModel.from_config(config)

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return trials at two batch sizes, lengths, sizes, prompt lengths, noise levels by frame, and speeds."""
        generator = self._random()
        trials = []
        for extent, times, tokens, rate in (
            ((2, 3, 5), ((977.0, 977.0),), 9, 25.0),
            ((3, 4, 2), ((731.0, 12.0, 12.0), (0.0, 300.0, 650.0)), 6, 16.0),
        ):
            shape = (len(times), self.config.in_channels, *extent)
            latents = torch.randn(shape, generator=generator)
            embeds = torch.randn(len(times), tokens, self.config.caption_channels, generator=generator)
            prediction = self._reference(module, latents, torch.tensor(times), embeds, rate)
            inputs = {
                "latents": latents.numpy(),
                "timestep": torch.tensor(times).numpy(),
                "prompt_embeds": embeds.numpy(),
                "frame_rate": torch.full((len(times),), rate).numpy(),
            }
            label = f"{'x'.join(map(str, shape))} latents, {tokens} tokens, {rate:g} pictures/s"
            trials.append(Trial(label, inputs, prediction.numpy()))
        return trials

    def _reference(
        self, module: Any, latents: torch.Tensor, times: torch.Tensor, embeds: torch.Tensor, rate: float
    ) -> torch.Tensor:
        """Return what diffusers' class predicts, packed and with positions as its pipelines make them."""
        batch, _, frames, height, width = latents.shape
        pictures, pixels = self._scales
        picture = torch.arange(frames) * pictures
        if self._short:
            picture = (picture + 1 - pictures).clamp(min=0)
        rows, columns = (torch.arange(count).float() * pixels for count in (height, width))
        places = torch.meshgrid(picture / rate, rows, columns, indexing="ij")
        coordinates = torch.stack([place.flatten() for place in places]).expand(batch, -1, -1)
        by_token = times[:, :, None].expand(batch, frames, height * width).reshape(batch, -1)
        packed = LTXPipeline._pack_latents(latents)
        output = module(packed, embeds, by_token, None, video_coords=coordinates, return_dict=False)[0]
        unpacked: torch.Tensor = LTXPipeline._unpack_latents(output, frames, height, width)
        return unpacked

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the one graph; batch, frames, height, width and number of tokens dynamic."""
        channels, width = self.config.in_channels, self.config.caption_channels
        batch, frames = Dim("batch"), Dim("frames", max=MOST_LATENTS)
        rows, columns = Dim("height", max=MOST_LATENTS), Dim("width", max=MOST_LATENTS)
        latents = TensorSpec(dtype="float32", shape=["batch", channels, "frames", "height", "width"])
        return [
            GraphSource(
                name=self.name,
                module=Denoiser(module, compute, self._scales, first_frame_is_short=self._short),
                examples=(
                    torch.zeros(2, channels, 3, 4, 5),
                    torch.zeros(2, 3),
                    torch.zeros(2, 7, width),
                    torch.ones(2),
                ),
                dynamic=(
                    {0: batch, 2: frames, 3: rows, 4: columns},
                    {0: batch, 1: frames},
                    {0: batch, 1: Dim("tokens")},
                    {0: batch},
                ),
                inputs={
                    "latents": latents,
                    "timestep": TensorSpec(dtype="float32", shape=["batch", "frames"]),
                    "prompt_embeds": TensorSpec(dtype="float32", shape=["batch", "tokens", width]),
                    "frame_rate": TensorSpec(dtype="float32", shape=["batch"]),
                },
                outputs={"prediction": latents},
            )
        ]


class DecoderPart(ComponentPart):
    """AutoencoderKLLTXVideo's decoder to `decoder.onnx`."""

    def __init__(self, name: str, component: Component) -> None:
        """Raises CheckpointError for decoders that are not plain functions of latents and noise, too."""
        super().__init__(name, component)
        path = component.config_path
        doubled = sum(map(bool, self.config.decoder_spatio_temporal_scaling))
        self.temporal_scale = 2**doubled
        self.spatial_scale = 2**doubled * self.config.patch_size
        skeleton = component.skeleton(self.build)
        stated = (skeleton.temporal_compression_ratio, skeleton.spatial_compression_ratio)
        if stated != (self.temporal_scale, self.spatial_scale):
            raise CheckpointError(
                f"{path}: temporal and spatial compression are {stated}, but the decoder's layers scale by "
                f"{(self.temporal_scale, self.spatial_scale)}"
            )
        if any(self.config.decoder_inject_noise):
            raise CheckpointError(
                f"{path}: decoder_inject_noise is set, as in LTX-Video 0.9.1: such a decoder draws noise in every block, "
                "which a graph cannot; export 0.9.0, or 0.9.5 and later"
            )
        if self.config.decoder_causal or self.config.patch_size_t != 1:
            raise CheckpointError(
                f"{path}: decoder_causal is {self.config.decoder_causal} and patch_size_t {self.config.patch_size_t}; "
                "edgereel exports decoders with false and 1, which all of LTX-Video's have"
            )

    def build(self, config: dict[str, Any]) -> Any:
        """Return an AutoencoderKLLTXVideo."""
        return AutoencoderKLLTXVideo.from_config(config)

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return clips of normalised latents, noise where it takes some, and what diffusers decodes from each."""
        generator = self._random()
        channels, conditioned = self.config.latent_channels, self.config.timestep_conditioning
        mean, std = (values.view(1, -1, 1, 1, 1) for values in (module.latents_mean, module.latents_std))
        trials = []
        for shape in ((1, channels, 7, 2, 3), (2, channels, 2, 3, 1)):  # the first has a window in its middle
            latents = torch.randn(shape, generator=generator)
            inputs = {"latents": latents.numpy()}
            scaled = latents * std / module.config.scaling_factor + mean
            level = None
            if conditioned:
                noise = torch.randn(shape, generator=generator)
                inputs["noise"] = noise.numpy()
                scaled = (1 - DECODE_NOISE) * scaled + DECODE_NOISE * noise
                level = torch.full((shape[0],), DECODE_TIMESTEP)
            frames = module.decode(scaled, level, return_dict=False)[0].clamp(-1, 1)
            trials.append(Trial(f"{'x'.join(map(str, shape))} latents", inputs, frames.numpy()))
        return trials

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return the one graph; batch, frames, height and width dynamic."""
        channels, scale = self.config.latent_channels, self.spatial_scale
        axes = {
            0: Dim("batch"),
            2: Dim("frames", max=MOST_LATENTS),
            3: Dim("height", max=MOST_LATENTS),
            4: Dim("width", max=MOST_LATENTS),
        }
        latents = TensorSpec(dtype="float32", shape=["batch", channels, "frames", "height", "width"])
        names = ["latents", "noise"] if self.config.timestep_conditioning else ["latents"]
        pictures = f"frames*{self.temporal_scale}-{self.temporal_scale - 1}"
        shape: list[int | str] = ["batch", self.config.out_channels, pictures, f"height*{scale}", f"width*{scale}"]
        return [
            GraphSource(
                name=self.name,
                module=Decoder(module, compute, DECODE_TIMESTEP, DECODE_NOISE),
                examples=tuple(torch.zeros(2, channels, 3, 4, 5) for _ in names),
                dynamic=tuple(axes for _ in names),
                inputs=dict.fromkeys(names, latents),
                outputs={"frames": TensorSpec(dtype="float32", shape=shape)},
            )
        ]
