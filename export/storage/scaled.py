"""Weights in 8 bits with a scale beside them, made into numbers again: value = stored · scale.

ComfyUI's files have `scale_weight` or `weight_scale` (a number, or one for each row or block) beside a `weight` in float8,
LightX2V's beside one in int8; `scaled_fp8` and `comfy_quant` say so once more, `scale_input` and `input_scale` are of
activations.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from ...core.errors import CheckpointError
from .files import open_safetensors

SCALES = ("scale_weight", "weight_scale")
INPUT_SCALES = ("scale_input", "input_scale")
MARKS = ("scaled_fp8", "comfy_quant")
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_rowwise")
KNOWN_KEYS = {"format", "full_precision_matrix_mult"}
MARK_BYTES = 4096


class Dequantized(AbstractContextManager["Dequantized"]):
    """An opened safetensors file whose tensors are widened to float32 and multiplied by a scale of their shape."""

    def __init__(self, opened: Any, scale: torch.Tensor | None) -> None:
        self._opened = opened
        self._scale = scale

    def __enter__(self) -> Dequantized:
        self._file = self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def get_tensor(self, key: str) -> torch.Tensor:
        """Return a tensor in float32."""
        values: torch.Tensor = self._file.get_tensor(key).to(torch.float32)
        return values if self._scale is None else values * spread(self._scale, tuple(values.shape))


def spread(scale: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a scale as something to multiply a weight of this shape by: one number, or one for each row or block."""
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.ndim == 1:
        return scale.reshape(-1, *(1 for _ in shape[1:]))
    rows, columns = shape[0] // scale.shape[0], shape[1] // scale.shape[1]
    return scale.reshape(scale.shape[:2]).repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def read_scale(path: Path, key: str, weight: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a scale in float32; raise CheckpointError where it does not fit the weight or is no scale."""
    with open_safetensors(path) as file:
        scale: torch.Tensor = file.get_tensor(key).to(torch.float32)
    found = tuple(scale.shape)
    blocks = len(shape) == 2 and (scale.ndim == 2 or (scale.ndim == 3 and found[2] == 1))
    fits = (
        scale.numel() == 1
        or found == shape[:1]
        or (blocks and all(own > 0 and whole % own == 0 for own, whole in zip(found[:2], shape, strict=True)))
    )
    if not fits:
        raise CheckpointError(f"{path}: {key} {list(found)} is no scale of {weight} {list(shape)}")
    if not torch.isfinite(scale).all() or not bool((scale != 0).any()):
        raise CheckpointError(f"{path}: {key} has values that are not finite, or only zeros; copy or download it again")
    return scale


def check_format(path: Path, key: str, ending: str) -> None:
    """Raise CheckpointError where a mark names a format other than a plain product."""
    if ending == "scaled_fp8":
        return
    with open_safetensors(path) as file:
        view = file.get_slice(key)
        if view.get_dtype() != "U8" or len(view.get_shape()) != 1 or view.get_shape()[0] > MARK_BYTES:
            raise CheckpointError(f"{path}: {key} is not a quantization that edgereel reads")
        text = bytes(file.get_tensor(key).tolist())
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("format") not in FORMATS or set(said) - KNOWN_KEYS:
        raise CheckpointError(
            f"{path}: {key} says {text[:100]!r}, quantized weights that edgereel does not read; "
            "export from F32, F16 or BF16 weights, or from scaled float8"
        )
