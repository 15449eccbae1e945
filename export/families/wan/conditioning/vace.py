"""Wan VACE: a denoiser beside which a second stack of blocks reads the condition, and adds what it makes of it.

Its condition is two films, one of known pictures and one of blanks, and the mask of what is to be made: see
`Condition.layout`. How strong each block speaks is constant, 1, as diffusers' pipeline has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import WanVACETransformer3DModel
from torch import Tensor

from ..modules import Denoiser, ExportAttention
from .part import ConditionedDenoiserPart


class VaceDenoiser(Denoiser):
    """WanVACETransformer3DModel: the denoiser's inputs and a condition [B, Cc, F, H, W] to a velocity [B, C, F, H, W]."""

    def __init__(self, model: Any, compute: torch.dtype) -> None:
        super().__init__(model, compute)
        for block in model.vace_blocks:
            block.attn1.set_processor(ExportAttention())
            block.attn2.set_processor(ExportAttention())

    def forward(self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, *given: Tensor) -> Tensor:
        """Return the predicted velocity, float32, of the latents' shape. given: the condition alone."""
        (condition,) = given
        prediction: Tensor = self.model(
            latents.to(self.compute),
            timestep,
            prompt_embeds.to(self.compute),
            control_hidden_states=condition.to(self.compute),
            return_dict=False,
        )[0]
        return prediction.float()


class VaceDenoiserPart(ConditionedDenoiserPart):
    """WanVACETransformer3DModel to `denoiser.onnx`."""

    def build(self, config: dict[str, Any]) -> Any:
        """Return a WanVACETransformer3DModel."""
        return WanVACETransformer3DModel.from_config(config)

    @property
    def channels(self) -> int:
        """How many channels the latents have: the condition is not put behind them."""
        return int(self.config.in_channels)

    def predict(self, module: Any, inputs: Mapping[str, Tensor], timestep: Tensor) -> Tensor:
        """Return what the untouched module predicts."""
        prediction: Tensor = module(
            inputs["latents"],
            timestep,
            inputs["prompt_embeds"],
            control_hidden_states=inputs["condition"],
            return_dict=False,
        )[0]
        return prediction

    def traced(self, module: Any, compute: torch.dtype) -> torch.nn.Module:
        """Return the module that becomes the graph."""
        return VaceDenoiser(module, compute)
