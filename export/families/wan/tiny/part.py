"""A tiny decoder to `tiny_decoder_first.onnx` and `tiny_decoder_next.onnx`: a stream exactly as the full one is."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import Dim

from .....bundle.manifest import LatentGeometry, TensorSpec
from ....request import TinyDecoderFile
from ...base import FrameStream, GraphSource, Trial
from ...component import TRIAL_SEED
from ..parts import picture_spec, times
from .layout import COLOURS, open_tiny
from .modules import TinyDecoder, TinyFirst, TinyNext, state_sizes

NAME = "tiny_decoder"


class TinyDecoderPart:
    """A ModelPart. component: the file it is read from."""

    name = NAME
    streams = FrameStream(whole="latents", part="latent", first=1, later=1, made="frames")

    def __init__(self, given: TinyDecoderFile, geometry: LatentGeometry, config: Any, notes: list[str]) -> None:
        """config: of the autoencoder whose latents it decodes. notes: where to tell how it was read.

        Raises CheckpointError where the file is no tiny decoder, or one for other latents.
        """
        self.component, self.shape = open_tiny(given.path, geometry, notes)
        self.component.check(self._skeleton())
        self._scale = (
            (torch.tensor(config.latents_mean), torch.tensor(config.latents_std)) if given.takes_scaled else None
        )
        kind = "as they were before normalising (LightTAE's way)" if given.takes_scaled else "normalised (taehv's way)"
        notes.append(f"{given.path.name}: a tiny decoder for {self.shape}; it is given latents {kind}")

    def load(self) -> Any:
        """Return the network with its weights, in float32."""
        return self.component.load(self._skeleton())

    def _skeleton(self) -> Any:
        return self.component.skeleton(lambda config: TinyDecoder(config["shape"]))

    @torch.no_grad()
    def trials(self, module: Any) -> list[Trial]:
        """Return clips of normalised latents and what the network makes of each at once."""
        generator = torch.Generator().manual_seed(TRIAL_SEED)
        trials = []
        for extents in ((1, self.shape.channels, 4, 3, 5), (2, self.shape.channels, 3, 4, 2)):
            latents = torch.randn(extents, generator=generator)
            given = latents
            if self._scale is not None:
                mean, std = (values.view(1, -1, 1, 1, 1) for values in self._scale)
                given = latents * std + mean
            label = f"{'x'.join(map(str, extents))} latents"
            trials.append(Trial(label, {"latents": latents.numpy()}, module(given).numpy()))
        return trials

    def graphs(self, module: Any, compute: torch.dtype) -> list[GraphSource]:
        """Return both graphs; batch, height and width dynamic, states the size of the block they belong to."""
        first, later = (kind(module, compute, self._scale) for kind in (TinyFirst, TinyNext))
        rows, columns, shape = 2, 3, self.shape
        latent = torch.zeros(2, shape.channels, 1, rows, columns)
        sizes = state_sizes(shape)
        states = [torch.zeros(2, width, 1, rows * scale, columns * scale) for width, scale in sizes]
        axes = {0: Dim("batch"), 3: Dim("height"), 4: Dim("width")}
        scaled = tuple({axis: times(scale, dim) if axis else dim for axis, dim in axes.items()} for _, scale in sizes)
        taken = {"latent": TensorSpec(dtype="float32", shape=["batch", shape.channels, 1, "height", "width"])}
        given = {f"state_{index:02}": picture_spec(width, 1, scale) for index, (width, scale) in enumerate(sizes)}
        left = {f"{name}_next": spec for name, spec in given.items()}
        frames = [picture_spec(COLOURS, count, shape.spatial_scale) for count in (1, shape.temporal_scale)]
        return [
            GraphSource(f"{NAME}_first", first, (latent,), (axes,), taken, {"frames": frames[0]} | given),
            GraphSource(
                f"{NAME}_next",
                later,
                (latent, *states),
                (axes, scaled),
                taken | given,
                {"frames": frames[1]} | left,
                states_may_idle=True,
            ),
        ]
