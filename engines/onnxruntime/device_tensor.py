"""Tensors that stay where ONNX Runtime put them, so that a decoder's state does not travel between calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Tensor
from .common import dtype_of, failure


@dataclass(frozen=True)
class Device:
    """A memory as ONNX Runtime names it: `cpu`, or `cuda` and the number of the GPU."""

    kind: str
    index: int = 0


class DeviceTensor(Tensor):
    """An onnxruntime.OrtValue on a device. The tensors that one run gave are freed together, with the last of them."""

    def __init__(self, value: Any, device: Device) -> None:
        self.value = value
        self.device = device

    def numpy(self) -> NDArray[Any]:
        """Copy the values to the host. Raises EngineError where that fails: what went wrong before may show here only."""
        try:
            return np.asarray(self.value.numpy())
        except Exception as error:
            raise failure(f"copying values from {self.device.kind} failed", error) from error

    def detached(self) -> DeviceTensor:
        """See Tensor.detached: new memory of the process's, not of a session's."""
        copy = new_value(type(self.value), self.shape, self.dtype, self.device)
        overwrite(copy, self, self.device)
        return DeviceTensor(copy, self.device)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of all dimensions, without a copy of the values."""
        return tuple(self.value.shape())

    @property
    def dtype(self) -> str:
        """The type of the values, as numpy names it."""
        return dtype_of(self.value.data_type())


def new_value(ort_value: Any, shape: tuple[int, ...], dtype: str, device: Device) -> Any:
    """Return an instance of ort_value, onnxruntime.OrtValue, on a device, its values not set."""
    return ort_value.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype), device.kind, device.index)


def on_device(onnxruntime: Any, tensor: Tensor, device: Device) -> Any:
    """Return an onnxruntime.OrtValue of a tensor: the one it holds where that is on the device, otherwise a copy.

    Host arrays are not copied for the device `cpu`: the value reads the array's own memory.
    """
    if isinstance(tensor, DeviceTensor) and tensor.device == device:
        return tensor.value
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()), device.kind, device.index)


def overwrite(value: Any, tensor: Tensor, device: Device) -> None:
    """Copy a tensor into an onnxruntime.OrtValue of the same shape and type, whose address stays as it is."""
    if isinstance(tensor, DeviceTensor) and tensor.device == device:
        try:
            value.update_inplace(tensor.value)
            return
        except TypeError:  # ONNX Runtime 1.24 and older take host arrays only
            pass
    value.update_inplace(np.ascontiguousarray(tensor.numpy()))
