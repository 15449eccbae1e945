"""What the parts of every family share: a component of the checkpoint, compared with its configuration when it is named."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from ...bundle.manifest import FusedLora
from ..checkpoint import Component
from ..lora.fuse import CheckedLora, check_lora, fuse_all
from ..lora.keys import Naming
from ..request import FusedAs, Lora
from .base import FrameStream

TRIAL_SEED = 5_000_011  # of parity inputs; tracing takes others


class ComponentPart:
    """A component as a part of the export; a ModelPart but for its trials and graphs."""

    streams: FrameStream | None = None
    aliases: Mapping[str, str] = MappingProxyType({})
    """Other names of tensors: what one is tied to, or how some files call it."""

    def __init__(self, name: str, component: Component) -> None:
        """Raises CheckpointError where a tensor is missing, or has another shape than the configuration asks for."""
        self.name = name
        self.component = component
        skeleton = component.skeleton(self.build)
        component.check(skeleton, self.aliases)
        self.config: Any = skeleton.config

    def build(self, config: dict[str, Any]) -> Any:
        """Return the torch module of a configuration."""
        raise NotImplementedError

    def load(self) -> Any:
        """Return the torch module with its weights, in float32."""
        return self.component.load(self.component.skeleton(self.build), self.aliases)

    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(TRIAL_SEED)


class LoraPart(ComponentPart):
    """A denoiser, into which LoRAs are fused as it loads. namings: how files may name its tensors."""

    namings: ClassVar[tuple[Naming, ...]]

    def __init__(self, name: str, component: Component) -> None:
        super().__init__(name, component)
        self._loras: list[CheckedLora] = []
        self._fused_as: FusedAs = "fp32"

    def add_lora(self, lora: Lora, expert: int | None = None, fused_as: FusedAs = "fp32") -> FusedLora:
        """Check a LoRA, to be fused by `load`, and return the manifest's record of it; raise CheckpointError.

        expert: which one of two this denoiser is. fused_as: what the sums are stored as.
        """
        skeleton = self.component.skeleton(self.build)
        shapes = {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
        checked = check_lora(lora, shapes, self.namings, expert)
        self._loras.append(checked)
        self._fused_as = fused_as
        return checked.record(self.name)

    def load(self) -> Any:
        """Return the torch module in float32, LoRAs fused in the order given."""
        module = super().load()
        if self._loras:
            fuse_all(self._loras, module, self._fused_as)
        return module
