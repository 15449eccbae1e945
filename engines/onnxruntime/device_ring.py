"""A ring of frames on ONNX Runtime's device: graphs read it where it is, and frames are copied into it there.

ONNX Runtime binds inputs and outputs to addresses, but copies nothing within a device by itself. So a graph of one node does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError, MissingExtraError
from ..base import Ring, Tensor
from .common import failure
from .device_tensor import Device, new_value, on_device


class RingView(Tensor):
    """The first frames of a ring, where they are. address: of the first one. dtype: as numpy names it."""

    def __init__(self, value: Any, device: Device, shape: tuple[int, ...], dtype: str) -> None:
        """value: the whole ring's OrtValue, which this keeps."""
        self._value, self._shape = value, shape
        self.device, self.dtype = device, dtype

    @property
    def address(self) -> int:
        """Where the first frame begins."""
        return int(self._value.data_ptr())

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of all dimensions."""
        return self._shape

    def numpy(self) -> NDArray[Any]:
        """Copy the values to the host."""
        try:
            return np.asarray(self._value.numpy())[:, : self._shape[1]]
        except Exception as error:
            raise failure(f"copying values from {self.device.kind} failed", error) from error

    def detached(self) -> Tensor:
        """See Tensor.detached: a copy on the host."""
        return Tensor(self.numpy().copy())


class DeviceRing(Ring):
    """See Ring. Memory is the process's, not a session's."""

    def __init__(
        self, onnxruntime: Any, shape: tuple[int, ...], dtype: str, device: Device, providers: Sequence[Any]
    ) -> None:
        """providers: as onnxruntime.InferenceSession takes them, of the device. Raises EngineError, OutOfMemory."""
        self._onnxruntime, self._device, self._dtype = onnxruntime, device, dtype
        self._shape = (1, *shape)
        self._count = math.prod(shape[1:])
        self._bytes = self._count * np.dtype(dtype).itemsize
        try:
            from ..graphs.copying import copying_graph

            self._value = new_value(onnxruntime.OrtValue, self._shape, dtype, device)
            settings = onnxruntime.SessionOptions()
            settings.log_severity_level = 4
            self._copy = onnxruntime.InferenceSession(
                copying_graph(dtype), settings, providers=list(providers), enable_fallback=0
            )
        except ModuleNotFoundError as error:
            raise MissingExtraError("onnx", "gpu", "a stream on the GPU") from error
        except Exception as error:
            raise failure("making room for what a stream remembers failed", error) from error

    def tensor(self, count: int) -> Tensor:
        """See Ring.tensor."""
        return RingView(self._value, self._device, (1, count, *self._shape[2:]), self._dtype)

    def write(self, place: int, made: Tensor, index: int) -> None:
        """See Ring.write."""
        source = on_device(self._onnxruntime, made, self._device)
        if tuple(source.shape())[2:] != self._shape[2:]:
            raise EngineError(f"a frame of {list(source.shape())} does not fit into a ring of {list(self._shape)}")
        kind, number, dtype = self._device.kind, self._device.index, np.dtype(self._dtype)
        try:
            binding = self._copy.io_binding()
            given = source.data_ptr() + index * self._bytes
            binding.bind_input("given", kind, number, dtype, [self._count], given)
            copied = self._value.data_ptr() + place * self._bytes
            binding.bind_output("copied", kind, number, dtype, [self._count], copied)
            self._copy.run_with_iobinding(binding)
        except Exception as error:
            raise failure("copying a frame within the device failed", error) from error
