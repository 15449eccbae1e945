"""Whether stored weights are alive: every value finite, no matrix all zeros. Damage that a proof of a graph cannot see.

A file of the right size whose end was never written reads as zeros, and a graph of zeros equals its module exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch

from ...core.errors import CheckpointError
from .tensors import StoredTensor

SCANNED = 2**24
"""Number of values that are looked at once."""
LARGE = 2**12
"""Number of values from which half a matrix of zeros is damage, too."""


def check_values(tensors: Iterable[StoredTensor]) -> None:
    """Read every tensor once; raise CheckpointError for the first with values that are not finite, or of zeros alone.

    Vectors may be zeros, as biases are. Of a large matrix neither half may be: files end in the middle of one.
    """
    for tensor in sorted(set(tensors), key=lambda tensor: (str(tensor.path), tensor.key)):
        _check(tensor)


def check_equal(first: StoredTensor, second: StoredTensor, meaning: str) -> None:
    """Raise CheckpointError where two tensors that must be one differ. meaning: what they are, for the message."""
    if first.shape == second.shape:
        pairs = zip(_parts(first.read()), _parts(second.read()), strict=True)
        if all(torch.equal(one.to(torch.float32), other.to(torch.float32)) for one, other in pairs):
            return
    raise CheckpointError(
        f"{second.path}: {first.key} and {second.key} are {meaning} under two names and differ; "
        "which is meant is unknown: copy or download the file again, or save the model with one of them"
    )


def _check(tensor: StoredTensor) -> None:
    if not math.prod(tensor.shape):
        return
    values = tensor.read()
    place = f"{tensor.path}: tensor {tensor.key}"
    if not all(bool(torch.isfinite(part).all()) for part in _parts(values)):
        raise CheckpointError(f"{place} has values that are not finite numbers; copy or download the file again")
    if len(tensor.shape) < 2:
        return
    flat = values.flatten()
    halves = (flat[: len(flat) // 2], flat[len(flat) // 2 :])
    dead = [not any(bool((part != 0).any()) for part in _parts(half)) for half in halves]
    if all(dead):
        raise CheckpointError(f"{place} is all zeros; copy or download the file again")
    if any(dead) and values.numel() >= LARGE:
        which = "first" if dead[0] else "second"
        raise CheckpointError(f"{place} is all zeros in its {which} half; copy or download the file again")


def _parts(values: torch.Tensor) -> Iterator[torch.Tensor]:
    return iter(torch.split(values.flatten(), SCANNED))
