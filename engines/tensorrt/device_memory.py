"""Memory of an NVIDIA GPU and a stream of work on it, through NVIDIA's cuda-python, without torch.

CUDA's return values become errors of ours here and nowhere else. The calls were checked against the real cuda-python
12.9 and 13.4, which import without a GPU, and have not run on one.
"""

from __future__ import annotations

import contextlib
import heapq
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError, MissingExtraError, OutOfMemory, brief
from ..base import Ring, Tensor

_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"


def import_cudart() -> Any:
    """Return the module that binds CUDA's runtime, wherever the installed cuda-python has it. No device is touched.

    Raises MissingExtraError where it is not installed, EngineError where it cannot be loaded.
    """
    try:
        from cuda.bindings import runtime  # 12.6 and newer
    except ModuleNotFoundError:
        try:
            from cuda import cudart as runtime  # before
        except ModuleNotFoundError as error:
            raise MissingExtraError("cuda-python", "tensorrt", "the tensorrt engine") from error
        except ImportError as error:
            raise EngineError(f"cuda-python is installed but cannot be loaded: {brief(error)}") from error
    except ImportError as error:
        raise EngineError(f"cuda-python is installed but cannot be loaded: {brief(error)}") from error
    return runtime


class CudaDevice:
    """The current GPU, and one stream on which everything happens in order.

    Every method raises EngineError with CUDA's name and text for what went wrong, OutOfMemory for want of memory.
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self._stream: Any = self._call("cudaStreamCreateWithFlags", cudart.cudaStreamNonBlocking)

    @property
    def stream(self) -> int:
        """The stream as the number that TensorRT takes."""
        return int(self._stream)

    def allocate(self, size: int) -> int:
        """Return the address of new memory of `size` bytes, at least one."""
        return int(self._call("cudaMalloc", max(1, size), what=f"allocating {size:,} bytes of GPU memory"))

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cudaFree", address)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Begin to copy a contiguous host array to the device. It must not change before `synchronize`."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fill a contiguous host array from the device, when all that came before is done."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)
        self.synchronize()

    def copy(self, source: int, target: int, size: int) -> None:
        """Begin to copy `size` bytes from one address on the device to another."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def synchronize(self) -> None:
        """Wait until everything asked for is done; what went wrong meanwhile is raised here."""
        self._call("cudaStreamSynchronize", self._stream)

    def free_memory(self) -> int:
        """Return how many bytes the device has free, 0 where it does not tell."""
        with contextlib.suppress(EngineError):
            return int(self._call("cudaMemGetInfo")[0])
        return 0

    def capture(self, work: Callable[[], None]) -> Any:
        """Return an executable CUDA graph of what `work` puts on the stream, which is not run by that.

        `work` may neither allocate nor wait. Raises its error, or EngineError where something in it cannot be captured.
        """
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            # The stream is of no use to anyone until its capture has ended, however that ends.
            with contextlib.suppress(EngineError):
                self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", self._stream))
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        """Put a captured graph on the stream."""
        self._call("cudaGraphLaunch", graph, self._stream)

    def destroy_graph(self, graph: Any) -> None:
        """Release a captured graph."""
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Release the stream."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            self._call("cudaStreamDestroy", stream)

    def _call(self, name: str, *arguments: Any, what: str = "") -> Any:
        error, *values = getattr(self._cudart, name)(*arguments)
        if int(error) != 0:
            self._raise(error, what or name)
        return values[0] if len(values) == 1 else tuple(values)

    def _raise(self, error: Any, what: str) -> None:
        name, text = (_text(self._cudart, ask, error) for ask in ("cudaGetErrorName", "cudaGetErrorString"))
        # CUDA keeps the error for whoever asks next, which would be TensorRT.
        self._cudart.cudaGetLastError()
        if name == _OUT_OF_MEMORY:
            raise OutOfMemory(
                f"{what} failed, {self.free_memory():,} bytes are free ({name}: {text}): "
                "close other programs that use the GPU, or make the video smaller"
            )
        raise EngineError(f"{what} failed on the GPU ({name}: {text})")


def _text(cudart: Any, ask: str, error: Any) -> str:
    _, text = getattr(cudart, ask)(error)
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


class BufferPool:
    """Device memory that is used again: what a dropped tensor held goes to the next one of the same size.

    So a state that goes in as the next comes out takes two buffers and no copy, whichever graph made it and whoever holds on
    to which of them, and every step finds the same few addresses, which is what CUDA graphs need.
    """

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self._idle: defaultdict[int, list[int]] = defaultdict(list)

    def take(self, size: int) -> int:
        """Return the address of `size` bytes. Raises OutOfMemory, after everything idle was given back in vain."""
        if self._idle[size]:
            # Always the lowest: buffers that come back in another order are handed out in the same one.
            return heapq.heappop(self._idle[size])
        try:
            return self.device.allocate(size)
        except OutOfMemory:
            if not self.trim():
                raise
            return self.device.allocate(size)

    def give(self, size: int, address: int) -> None:
        """Take back what was taken. Nothing is raised: this runs when a tensor is dropped."""
        heapq.heappush(self._idle[size], address)

    def trim(self) -> int:
        """Free what no tensor holds; return how many bytes that were. Nothing is raised."""
        idle, self._idle = self._idle, defaultdict(list)
        for addresses in idle.values():
            for address in addresses:
                with contextlib.suppress(EngineError):
                    self.device.free(address)
        return sum(size * len(addresses) for size, addresses in idle.items())


class DeviceBuffer(Tensor):
    """A tensor in GPU memory, C order. Its memory goes back to the pool when it is freed or dropped."""

    def __init__(self, pool: BufferPool, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape = shape
        self.dtype = dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.device = pool.device
        self.address = pool.take(self.nbytes)
        self._release = weakref.finalize(self, pool.give, self.nbytes, self.address)
        self._release.atexit = False  # a process that ends gives everything back

    def numpy(self) -> NDArray[Any]:
        """Copy the values to the host."""
        if not self._release.alive:
            raise EngineError("a tensor was read after its GPU memory was given back")
        array = np.empty(self._shape, self.dtype)
        self.device.download(self.address, array)
        return array

    def detached(self) -> DeviceBuffer:
        """Return the tensor itself: its memory is the pool's, never a session's."""
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of all dimensions."""
        return self._shape

    @property
    def alive(self) -> bool:
        """Whether the memory is still this tensor's."""
        return bool(self._release.alive)

    def free(self) -> None:
        """Give the memory back now, not when the tensor is dropped."""
        self._release()


class DeviceView(DeviceBuffer):
    """The beginning of a buffer in another shape. It keeps the buffer."""

    def __init__(self, buffer: DeviceBuffer, shape: tuple[int, ...]) -> None:
        self._buffer, self._shape = buffer, shape
        self.dtype = buffer.dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * buffer.dtype.itemsize
        self.device, self.address = buffer.device, buffer.address
        self._release = buffer._release


class DeviceRing(Ring):
    """A ring of frames in GPU memory; see Ring. Frames are copied where they are."""

    def __init__(self, pool: BufferPool, shape: tuple[int, ...], dtype: str) -> None:
        self._buffer = DeviceBuffer(pool, (1, *shape), np.dtype(dtype))
        self._bytes = self._buffer.nbytes // shape[0]

    def tensor(self, count: int) -> Tensor:
        """See Ring.tensor."""
        return DeviceView(self._buffer, (1, count, *self._buffer.shape[2:]))

    def write(self, place: int, made: Tensor, index: int) -> None:
        """See Ring.write."""
        device, target = self._buffer.device, self._buffer.address + place * self._bytes
        if isinstance(made, DeviceBuffer) and made.device is device and made.dtype == self._buffer.dtype:
            device.copy(made.address + index * self._bytes, target, self._bytes)
        else:
            frame = np.ascontiguousarray(made.numpy()[:, index], self._buffer.dtype)
            device.upload(target, frame)
        device.synchronize()  # the source may be dropped, and its memory used again, once we return
