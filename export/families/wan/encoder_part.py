"""The encoder of a Wan checkpoint's autoencoder as a part of a bundle: for models that take pictures or streams."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import Dim

from ....bundle.manifest import TensorSpec
from ....core.errors import CheckpointError
from ...checkpoint import Component
from ..base import FrameStream, GraphSource, Trial
from .encoder import EncoderFirst, EncoderNext
from .parts import DecoderPart, picture_spec, times


class EncoderPart(DecoderPart):
    """AutoencoderKLWan's encoder to `encoder_first.onnx` and `encoder_next.onnx`."""

    def __init__(self, name: str, component: Component) -> None:
        super().__init__(name, component)
        if component.lacks("encoder."):
            raise CheckpointError(
                f"{component.folder}: has no tensors of the encoder, which clips that begin with pictures need; "
                "take the whole vae"
            )
        if self.shuffle > 1:
            raise CheckpointError(
                f"{component.config_path}: out_channels is {self.config.out_channels}: a vae that enlarges pictures "
                "cannot take them; take the model's own"
            )
        if self.config.attn_scales:
            raise CheckpointError(
                f"{component.config_path}: attn_scales is {self.config.attn_scales}; "
                "only encoders without attention in their levels can be exported"
            )
        self.streams = FrameStream(whole="film", part="pictures", first=1, later=self.temporal_scale, made="latent")

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return films of noise and what diffusers encodes each to at once, normalised."""
        generator = self._random()
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1) for values in (self.config.latents_mean, self.config.latents_std)
        )
        trials = []
        for batch, later, rows, columns in ((1, 3, 3, 2), (2, 2, 2, 5)):
            shape = (batch, self._colours, 1 + later * self.temporal_scale, *self._pixels(rows, columns))
            pictures = torch.rand(shape, generator=generator) * 2 - 1
            latents = (module.encode(pictures, return_dict=False)[0].mode() - mean) / std
            label = f"{'x'.join(map(str, shape))} pictures"
            trials.append(Trial(label, {"film": pictures.numpy()}, latents.numpy()))
        return trials

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return both graphs; batch, height and width dynamic, states the size of the layer they belong to."""
        first, later = EncoderFirst(module, compute), EncoderNext(module, compute)
        rows, columns = 2, 3
        pictures = [
            torch.zeros(2, self._colours, count, *self._pixels(rows, columns)) for count in (1, self.temporal_scale)
        ]
        with torch.no_grad():
            states = first(pictures[0])[1:]
        sides = {0: Dim("batch"), 3: Dim("height"), 4: Dim("width")}
        scales = [state.shape[3] // rows for state in states]
        of_states = tuple({axis: times(scale, dim) if axis else dim for axis, dim in sides.items()} for scale in scales)
        of_pictures = {axis: times(self.spatial_scale, dim) if axis else dim for axis, dim in sides.items()}
        specs = [
            picture_spec(state.shape[1], state.shape[2], scale) for state, scale in zip(states, scales, strict=True)
        ]
        given = {f"state_{index:02}": spec for index, spec in enumerate(specs)}
        left = {f"{name}_next": spec for name, spec in given.items()}
        wanted = [picture_spec(self._colours, count, self.spatial_scale) for count in (1, self.temporal_scale)]
        latent = {"latent": TensorSpec(dtype="float32", shape=["batch", self.config.z_dim, 1, "height", "width"])}
        return [
            GraphSource(
                "encoder_first", first, (pictures[0],), (of_pictures,), {"pictures": wanted[0]}, latent | given
            ),
            GraphSource(
                "encoder_next",
                later,
                (pictures[1], *(torch.zeros_like(state) for state in states)),
                (of_pictures, of_states),
                {"pictures": wanted[1]} | given,
                latent | left,
            ),
        ]

    @property
    def _colours(self) -> int:
        return int(self.config.in_channels) // (self.config.patch_size or 1) ** 2

    def _pixels(self, rows: int, columns: int) -> tuple[int, int]:
        return rows * self.spatial_scale, columns * self.spatial_scale
