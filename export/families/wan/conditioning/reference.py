"""What the untouched WanTransformer3DModel makes of clean frames and noisy ones behind them, all in one pass.

Frames that went before see each other; the later ones see everything. The keys and values that the pass makes are noted
on the way, so they tell what a context must hold, and what a call with that context must leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor


class WholePass(NamedTuple):
    """prediction: of the later frames. before, later: key, value of each layer [B, frames, S, D], keys before rotation."""

    prediction: Tensor
    before: list[Tensor]
    later: list[Tensor]


def whole_pass(model: Any, latents: Tensor, levels: Tensor, text: Tensor, before: int, kept: torch.dtype) -> WholePass:
    """Run a WanTransformer3DModel over latents [B, C, F, H, W] of which the first `before` frames are what went before.

    levels: a timestep for each frame, [B, F]. kept: the type that keys and values of earlier frames pass through.
    """
    frames = latents.shape[2]
    rows, columns = (latents.shape[axis] // model.config.patch_size[axis - 2] for axis in (3, 4))
    tokens = rows * columns
    later = torch.arange(frames * tokens) >= before * tokens
    hidden = ~later[:, None] & later[None, :]
    mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))[None, None]
    with _masked(model, mask), _noted(model, before * tokens, kept) as noted:
        of_token = levels.repeat_interleave(tokens, dim=1)
        prediction = model(latents, of_token, text, return_dict=False)[0]
    by_frame = [tensor.reshape(tensor.shape[0], frames, tokens, -1) for tensor in noted]
    return WholePass(
        prediction[:, :, before:], [part[:, :before] for part in by_frame], [part[:, before:] for part in by_frame]
    )


class _MaskedAttention:
    """Diffusers' own self-attention under a mask."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    def __call__(self, attn: Any, hidden: Tensor, text: Any, _: Any, rotary_emb: Any) -> Tensor:
        mixed: Tensor = WanAttnProcessor()(attn, hidden, text, self._mask, rotary_emb)
        return mixed


@contextmanager
def _masked(model: Any, mask: Tensor) -> Iterator[None]:
    for block in model.blocks:
        block.attn1.set_processor(_MaskedAttention(mask))
    try:
        yield
    finally:
        for block in model.blocks:
            block.attn1.set_processor(WanAttnProcessor())


@contextmanager
def _noted(model: Any, tokens: int, kept: torch.dtype) -> Iterator[list[Tensor]]:
    """Note key and value of each layer, and have those of the first tokens pass through the type they are kept in."""
    layers = [layer for block in model.blocks for layer in (block.attn1.norm_k, block.attn1.to_v)]
    noted: list[Tensor] = [torch.empty(0)] * len(layers)

    def noting(index: int) -> Any:
        def note(_: Any, __: Any, made: Tensor) -> Tensor:
            noted[index] = torch.cat([made[:, :tokens].to(kept).to(made.dtype), made[:, tokens:]], dim=1)
            return noted[index]

        return note

    hooks = [layer.register_forward_hook(noting(index)) for index, layer in enumerate(layers)]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()
