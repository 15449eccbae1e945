"""Large weights that stay in their files: read when something is computed with them, one at a time, and let go again.

A text encoder of 5.7 G parameters is 11.4 GB as bfloat16 in its files and 23 GB as the float32 that torch computes in.
So its module holds a `StoredWeight` for every large matrix. For tracing, which needs types and shapes but no values, each
is replaced by a blank tensor that has an address and no memory behind it; the address tells afterwards which weight a
constant of the graph is, and the strides how the tracer turned it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

Open = Callable[[Path], Any]
"""Opens a safetensors file, its tensors unread."""

STORED_SIZE = 2**20
"""Number of values from which a matrix (or a tensor of more axes) stays in its file.

Smaller ones are read at once: the tracer folds constants of up to 8,192 values, for which it needs them.
"""
PAGE = 4096


class StoredWeight(torch.Tensor):
    """A tensor of a safetensors file that counts as `dtype`; whatever is computed with it reads it.

    Every operator sees plain tensors, and so gives plain ones. The file is memory-mapped for as long as one operator
    runs, so what was read of it leaves memory with the operator.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    path: Path
    key: str
    _open: Open

    @staticmethod
    def __new__(cls, open_file: Open, path: Path, key: str, shape: Sequence[int], dtype: torch.dtype) -> StoredWeight:
        """Return the tensor `key` of a file as a weight of this type, unread; open_file is what opens the file."""
        made: StoredWeight = torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=dtype)
        made.path, made.key, made._open = path, key, open_file
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator on the values; a table of embeddings gives the rows asked for without being widened whole."""
        if func is torch.ops.aten.detach.default:
            return args[0].cast(args[0].dtype)
        if func is torch.ops.aten.embedding.default and isinstance(args[0], StoredWeight):
            table, *others = args
            return func(table.as_stored(), *others, **(kwargs or {})).to(torch.float32).to(table.dtype)
        args, kwargs = tree_map_only(StoredWeight, StoredWeight.values, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        """Name the place instead of showing values."""
        return f"StoredWeight({str(self.path)!r}, {self.key!r}, {tuple(self.shape)}, {self.dtype})"

    def cast(self, dtype: torch.dtype) -> StoredWeight:
        """Return the same weight as another type, unread."""
        return StoredWeight(self._open, self.path, self.key, self.shape, dtype)

    def as_stored(self) -> torch.Tensor:
        """Return the values in the type that the file has them in, memory-mapped."""
        with self._open(self.path) as file:
            tensor: torch.Tensor = file.get_tensor(self.key)
        return tensor

    def values(self) -> torch.Tensor:
        """Return the values as a plain tensor, by way of float32 as small weights go."""
        return self.as_stored().to(torch.float32).to(self.dtype)

    def exact(self) -> torch.Tensor:
        """Return the values in the smallest type at hand that has them all: bfloat16 for a float32 that was one."""
        stored = self.as_stored()
        return stored if (stored.dtype, self.dtype) == (torch.bfloat16, torch.float32) else self.values()


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Make the module's parameters, its children's too, count as another floating type, in place."""
    for child in module.modules():
        cast_own_weights(child, dtype)


def cast_own_weights(module: nn.Module, dtype: torch.dtype, except_for: Sequence[str] = ()) -> None:
    """Make a module's own parameters (not its children's) count as another floating type, in place."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        if name in except_for or parameter.dtype == dtype:
            continue
        if isinstance(parameter, StoredWeight):
            put_weight(module, name, parameter.cast(dtype))
        else:
            parameter.data = parameter.data.to(dtype)


def put_weight(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Make a tensor the module's parameter of this name, dots for its children's; it takes no gradients."""
    owner, _, own = name.rpartition(".")
    setattr(module.get_submodule(owner), own, nn.Parameter(tensor, requires_grad=False))


class Blanks:
    """What stands for stored weights while a module is traced: tensors of their type and shape, one page apart.

    They lie in one array that is never written or read, so no memory is behind it.
    """

    def __init__(self, weights: Sequence[StoredWeight]) -> None:
        self._weights: list[StoredWeight] = []
        self._places: dict[tuple[Path, str, torch.dtype], int] = {}
        for weight in weights:
            place = (weight.path, weight.key, weight.dtype)
            if place not in self._places:  # tied weights stay tied
                self._places[place] = len(self._weights)
                self._weights.append(weight)
        largest = max((weight.nbytes for weight in self._weights), default=0)
        self._array = np.empty(largest + PAGE * len(self._weights), np.uint8)

    def blank(self, weight: StoredWeight) -> torch.Tensor:
        """Return the tensor that stands for a weight."""
        start = PAGE * self._places[weight.path, weight.key, weight.dtype]
        values = torch.from_numpy(self._array[start : start + weight.nbytes])
        return values.view(weight.dtype).view(weight.shape)

    def restore(self, address: int, shape: Sequence[int], strides: Sequence[int]) -> torch.Tensor | None:
        """Return the `exact` values that a blank, turned as the tracer turned it, stands for.

        address: of the constant in question; strides: in values. None where that is no blank.
        """
        offset = address - self._array.ctypes.data
        if not 0 <= offset < self._array.nbytes:
            return None
        index, rest = divmod(offset, PAGE)
        if rest or index >= len(self._weights) or self._weights[index].numel() != math.prod(shape):
            raise RuntimeError("a constant of the graph is a part of a stored weight")
        return self._weights[index].exact().contiguous().as_strided(tuple(shape), tuple(strides))


@contextmanager
def blank_weights(module: nn.Module) -> Iterator[Blanks]:
    """Have blanks in a module in the place of its stored weights for a while."""
    stored = {name: weight for name, weight in _named_parameters(module) if isinstance(weight, StoredWeight)}
    blanks = Blanks(list(stored.values()))
    try:
        for name, weight in stored.items():
            put_weight(module, name, blanks.blank(weight))
        yield blanks
    finally:
        for name, weight in stored.items():
            put_weight(module, name, weight)


def _named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return module.named_parameters(remove_duplicate=False)
