"""CUDA's runtime as cuda-python binds it, over host memory: a stand-in that keeps the rules a caller can break.

Device addresses are those of numpy arrays, so that a copy is a copy. It refuses to read or write outside what is
allocated, what may not happen while a stream is being captured, and more memory than it has. It proves that the calls
are made in an order that CUDA allows, not that CUDA accepts them.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np


class CudaError(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class MemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class Stream:
    """One stream; what it is asked for happens at once, or is recorded while it is captured."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.recorded: list[Callable[[], bool]] | None = None
        self.spoilt = False

    def __int__(self) -> int:
        return self.number


class FakeCudart(ModuleType):
    """The functions and enums that engines/tensorrt calls, with the signatures and return values of cuda-python 12 and 13.

    calls: (name, arguments) of every call. memory: bytes that there are. in_use, most: bytes allocated now and at most.
    """

    cudaError_t = CudaError
    cudaMemcpyKind = MemcpyKind
    cudaStreamCaptureMode = CaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, memory: int = 2**30) -> None:
        super().__init__("cuda.bindings.runtime")
        self.memory = memory
        self.allocations: dict[int, np.ndarray[Any, Any]] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Callable[[], bool]]] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.most = 0
        self.fail: dict[str, CudaError] = {}
        self._next = 1

    @property
    def in_use(self) -> int:
        return sum(array.nbytes for array in self.allocations.values())

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def _begin(self, name: str, *arguments: Any, capturable: bool = False) -> CudaError:
        self.calls.append((name, arguments))
        if name in self.fail:
            return self.fail.pop(name)
        capturing = [stream for stream in self.streams.values() if stream.recorded is not None]
        if capturing and not capturable:
            for stream in capturing:
                stream.spoilt = True
            return CudaError.cudaErrorStreamCaptureUnsupported
        return CudaError.cudaSuccess

    def _number(self) -> int:
        self._next += 1
        return self._next

    def holds(self, address: int, size: int) -> bool:
        return any(start <= address and address + size <= start + a.nbytes for start, a in self.allocations.items())

    def cudaMalloc(self, size: int) -> tuple[CudaError, int | None]:
        error = self._begin("cudaMalloc", size)
        if not error and self.in_use + size > self.memory:
            error = CudaError.cudaErrorMemoryAllocation
        if error:
            return error, None
        array = np.full(size, 0xA5, np.uint8)  # nobody may rely on zeros
        self.allocations[array.ctypes.data] = array
        self.most = max(self.most, self.in_use)
        return error, array.ctypes.data

    def cudaFree(self, address: int) -> tuple[CudaError]:
        error = self._begin("cudaFree", address)
        if not error and self.allocations.pop(address, None) is None:
            error = CudaError.cudaErrorInvalidValue
        return (error,)

    def cudaMemGetInfo(self) -> tuple[CudaError, int, int]:
        return self._begin("cudaMemGetInfo", capturable=True), self.memory - self.in_use, self.memory

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: MemcpyKind, stream: Stream
    ) -> tuple[CudaError]:
        error = self._begin("cudaMemcpyAsync", target, source, size, kind, stream)
        on_device = {MemcpyKind.cudaMemcpyHostToDevice: [target], MemcpyKind.cudaMemcpyDeviceToHost: [source]}
        if not error and not all(self.holds(address, size) for address in on_device.get(kind, [source, target])):
            error = CudaError.cudaErrorIllegalAddress
        if not error:
            ctypes.memmove(target, source, size)
        return (error,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[CudaError, Stream | None]:
        error = self._begin("cudaStreamCreateWithFlags", flags)
        stream = Stream(self._number())
        self.streams[stream.number] = stream
        return error, stream if not error else None

    def cudaStreamDestroy(self, stream: Stream) -> tuple[CudaError]:
        self.streams.pop(stream.number)
        return (self._begin("cudaStreamDestroy", stream),)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[CudaError]:
        return (self._begin("cudaStreamSynchronize", stream),)

    def cudaStreamBeginCapture(self, stream: Stream, mode: CaptureMode) -> tuple[CudaError]:
        error = self._begin("cudaStreamBeginCapture", stream, mode)
        if not error:
            stream.recorded, stream.spoilt = [], False
        return (error,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[CudaError, int | None]:
        error = self._begin("cudaStreamEndCapture", stream, capturable=True)
        recorded, stream.recorded = stream.recorded, None
        if stream.spoilt or recorded is None:
            return CudaError.cudaErrorStreamCaptureInvalidated, None
        number = self._number()
        self.graphs[number] = recorded
        return error, number

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[CudaError, int]:
        error = self._begin("cudaGraphInstantiate", graph, flags)
        number = self._number()
        self.graphs[number] = self.graphs[graph]
        return error, number

    def cudaGraphDestroy(self, graph: int) -> tuple[CudaError]:
        self.graphs.pop(graph)
        return (self._begin("cudaGraphDestroy", graph),)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: Stream) -> tuple[CudaError]:
        error = self._begin("cudaGraphLaunch", graph, stream)
        if not error and not all(work() for work in self.graphs[graph]):
            error = CudaError.cudaErrorIllegalAddress
        return (error,)

    def cudaGetErrorName(self, error: CudaError) -> tuple[CudaError, bytes]:
        return CudaError.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: CudaError) -> tuple[CudaError, bytes]:
        return CudaError.cudaSuccess, f"the text of {error.name}".encode()

    def cudaGetLastError(self) -> tuple[CudaError]:
        self.calls.append(("cudaGetLastError", ()))
        return (CudaError.cudaSuccess,)
