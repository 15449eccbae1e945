"""What a LoRA file does to one parameter, as arithmetic.

low rank:  alpha / r · up · down       (Hu et al., "LoRA", arXiv:2106.09685, section 4.1)
LoKr:      alpha / r · w1 ⊗ w2         (Yeh et al., "LyCORIS", arXiv:2309.14859, section 4.1; w1, w2 whole or products)
full:      diff
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Shape = tuple[int, ...]

PARTNERS = {
    "down": ("up", "lora_B (lora_up)"),
    "up": ("down", "lora_A (lora_down)"),
    "alpha": (None, "lora_A (lora_down)"),
    "lokr_w1_a": ("lokr_w1_b", "lokr_w1_b"),
    "lokr_w1_b": ("lokr_w1_a", "lokr_w1_a"),
    "lokr_w2_a": ("lokr_w2_b", "lokr_w2_b"),
    "lokr_w2_b": ("lokr_w2_a", "lokr_w2_a"),
}
"""Parts that need another beside them, and its name for people."""


@dataclass
class Change:
    """The keys of a change's parts (down and up, diff, the factors of LoKr) and what their product is multiplied by.

    module: the layer's names, the model's first. expert: the denoiser that the keys name.
    """

    module: tuple[str, ...]
    expert: int | None = None
    keys: dict[str, str] = field(default_factory=dict)
    factor: float = 1.0

    @property
    def is_kronecker(self) -> bool:
        """Whether it is LoKr's."""
        return any(part.startswith("lokr_") for part in self.keys)

    def missing_partner(self) -> tuple[str, str] | None:
        """Return a key and the name of the part that it lacks beside it."""
        for part, key in self.keys.items():
            partner, name = PARTNERS.get(part, (part, ""))
            if partner is None:
                partner = None if {"down", "up"} & set(self.keys) or self.is_kronecker else "down"
            if partner is not None and partner not in self.keys:
                return key, name
        for factor in ("lokr_w1", "lokr_w2") if self.is_kronecker else ():
            if factor not in self.keys and f"{factor}_a" not in self.keys:
                return next(key for part, key in self.keys.items() if part != "alpha"), factor
        return None

    def rank(self, shapes: Mapping[str, Shape]) -> int | None:
        """Return r, None for what has none: full differences, and LoKr of two whole factors. shapes: by part."""
        if "down" in shapes:
            return shapes["down"][0]
        if "lokr_w2_b" in shapes:
            return shapes["lokr_w2_b"][0]
        return shapes["lokr_w1_b"][0] if "lokr_w1_b" in shapes else None

    def misfit(self, shapes: Mapping[str, Shape], wanted: Shape) -> str | None:
        """Return what is wrong with the parts' shapes, for a parameter of the shape wanted; None where they fit."""
        if math.prod(shapes.get("alpha", ())) != 1:
            return f"{self.keys['alpha']} has shape {list(shapes['alpha'])}, not one number"
        if "down" in shapes:
            down, up = shapes["down"], shapes["up"]
            if len(down) < 2 or len(up) < 2 or down[0] != up[1]:
                return f"ranks disagree: {self.keys['down']} has shape {list(down)}, {self.keys['up']} {list(up)}"
            # Convolutions: down has the kernel (or is flattened), up is 1x1.
            into = down[1:] in (wanted[1:], (math.prod(wanted[1:]),))
            fits = len(wanted) > 1 and into and up[0] == wanted[0] and math.prod(up[2:]) == 1
        elif self.is_kronecker:
            found = [_factor_shape(shapes, factor) for factor in ("lokr_w1", "lokr_w2")]
            if any(shape is None for shape in found):
                return (
                    f"ranks disagree: {', '.join(f'{self.keys[part]} {list(shape)}' for part, shape in shapes.items())}"
                )
            first, second = (shape for shape in found if shape is not None)
            kernel = math.prod(wanted[1:])
            fits = len(wanted) > 1 and first[0] * second[0] == wanted[0] and first[1] * second[1] == kernel
        else:
            fits = shapes.get("diff", shapes.get("up_bias")) == wanted
        return None if fits else ""

    def delta(self, tensors: Any, shape: Shape) -> torch.Tensor:
        """Return the change at scale 1, float32 of the parameter's shape. tensors: the opened file."""
        parts: dict[str, torch.Tensor] = {
            part: tensors.get_tensor(key).to(torch.float32) for part, key in self.keys.items() if part != "alpha"
        }
        for whole in ("diff", "up_bias"):
            if whole in parts:
                return self.factor * parts[whole]
        if self.is_kronecker:
            first, second = (_factor(parts, factor) for factor in ("lokr_w1", "lokr_w2"))
            return (self.factor * torch.kron(first, second)).reshape(shape)
        return (self.factor * (parts["up"].flatten(1) @ parts["down"].flatten(1))).reshape(shape)


def _factor_shape(shapes: Mapping[str, Shape], factor: str) -> Shape | None:
    """Return rows and columns of one of LoKr's factors, None where its two parts do not go together."""
    if (whole := shapes.get(factor)) is not None:
        return (whole[0], math.prod(whole[1:])) if len(whole) > 1 else None
    left, right = shapes[f"{factor}_a"], shapes[f"{factor}_b"]
    if len(left) != 2 or len(right) < 2 or left[1] != right[0]:
        return None
    return left[0], math.prod(right[1:])


def _factor(parts: Mapping[str, torch.Tensor], factor: str) -> torch.Tensor:
    """Return one of LoKr's factors as a matrix."""
    if factor in parts:
        return parts[factor].flatten(1)
    return parts[f"{factor}_a"] @ parts[f"{factor}_b"].flatten(1)
