"""An opened TensorRT engine: device memory in, device memory out, replayed as a CUDA graph where all shapes are fixed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError
from ..base import EngineReport, Ring, Session, Tensor
from ..options import GraphSpecs, TensorInfo
from .building import explain
from .device_memory import BufferPool, DeviceBuffer, DeviceRing

_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
# A state that alternates between two buffers needs two graphs; a caller that keeps everything would need ever more.
_MOST_GRAPHS = 8
_MOST_SEEN = 64

Addresses = tuple[int, ...]


@dataclass(frozen=True)
class _Port:
    """One input or output: its name, its type on the device, and its shape, -1 where it varies."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def info(self, dtype: str) -> TensorInfo:
        named = tuple(extent if extent >= 0 else f"{self.name}_{axis}" for axis, extent in enumerate(self.shape))
        return TensorInfo(dtype, named)


class TensorRtSession(Session):
    """A graph opened by TensorRt. Has not run on hardware."""

    def __init__(
        self, trt: Any, log: Any, engine: Any, pool: BufferPool, graph_name: str, report: EngineReport, capture: bool
    ) -> None:
        """pool: of the device that the engine is on. capture: all shapes are fixed, so runs may be replayed as CUDA graphs.

        Raises EngineError where TensorRT cannot make a context, OutOfMemory for want of memory.
        """
        self.report = report
        self._log = log
        self._pool = pool
        self._device = pool.device
        self._graph_name = graph_name
        self._capture = capture
        self._inputs, self._outputs = _read_ports(trt, engine, graph_name)
        self.specs = GraphSpecs(
            # TensorRT before 10 has no int64 and takes int32 in its place; callers need not know.
            inputs={port.name: port.info(_of_graph(port.dtype)) for port in self._inputs},
            outputs={port.name: port.info(port.dtype.name) for port in self._outputs},
        )
        self._staged: dict[str, DeviceBuffer] = {}
        self._uploading: list[NDArray[Any]] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._seen: set[Addresses] = set()
        self._graphs: OrderedDict[Addresses, Any] = OrderedDict()
        self._engine: Any | None = engine
        self._context: Any | None = engine.create_execution_context()
        if self._context is None:
            raise explain(log, f"TensorRT cannot make room for running {graph_name}")

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run. Outputs stay on the device until someone asks for their values."""
        if self._context is None:
            raise EngineError(f"{self._graph_name} is closed and cannot run")
        if set(inputs) != set(self.specs.inputs):
            missing = sorted(set(self.specs.inputs) - set(inputs))
            unknown = sorted(set(inputs) - set(self.specs.inputs))
            raise EngineError(f"{self._graph_name}: missing inputs {missing}, unknown inputs {unknown}")
        self._log.messages.clear()
        try:
            placed = [self._place(port, inputs[port.name]) for port in self._inputs]
            self._set_shapes({port.name: buffer.shape for port, buffer in zip(self._inputs, placed, strict=True)})
            results = {port.name: self._output(port) for port in self._outputs}
            self._execute(
                {port.name: buffer.address for port, buffer in zip(self._inputs, placed, strict=True)}, results
            )
        finally:
            # Host arrays may change or go, and dropped buffers be used again, once we return.
            self._device.synchronize()
            self._uploading.clear()
        return dict(results)

    def ring(self, shape: tuple[int, ...], dtype: str) -> Ring:
        """See Session.ring."""
        return DeviceRing(self._pool, shape, dtype)

    def close(self) -> None:
        """Release the engine and its memory; outputs that someone still holds stay valid."""
        if self._context is None:
            return
        self._context = None
        for graph in self._graphs.values():
            self._device.destroy_graph(graph)
        self._graphs.clear()
        self._staged.clear()
        self._engine = None
        self._pool.trim()

    def _place(self, port: _Port, tensor: Tensor) -> DeviceBuffer:
        """Return a tensor's values in device memory: where they are, if they are there, else copied there."""
        if isinstance(tensor, DeviceBuffer) and tensor.device is self._device:
            if not tensor.alive:
                raise EngineError(f"{self._graph_name}: the memory of input {port.name} was given back before it ran")
            self._check_type(port, tensor.dtype)
            if tensor.dtype == port.dtype:
                return tensor
        array = tensor.numpy()
        self._check_type(port, array.dtype)
        if array.dtype != port.dtype:
            limits = np.iinfo(np.int32)
            if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
                raise EngineError(f"{self._graph_name}: input {port.name} has values beyond 32 bits")
            array = array.astype(port.dtype)
        buffer = self._staged.get(port.name)
        if buffer is None or buffer.shape != array.shape:
            buffer = None  # the old one goes before the new one is asked for
            self._staged.pop(port.name, None)
            buffer = self._staged[port.name] = DeviceBuffer(self._pool, array.shape, port.dtype)
        self._uploading.append(np.ascontiguousarray(array))
        self._device.upload(buffer.address, self._uploading[-1])
        return buffer

    def _check_type(self, port: _Port, dtype: np.dtype[Any]) -> None:
        expected = self.specs.inputs[port.name].dtype
        if dtype.name not in (expected, port.dtype.name):
            raise EngineError(f"{self._graph_name}: input {port.name} is {dtype.name}, the graph takes {expected}")

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            if self._shapes.get(name) == shape:
                continue
            self._shapes.pop(name, None)
            if not self._context.set_input_shape(name, shape):  # type: ignore[union-attr]
                raise self._shape_error(name, shape)
            self._shapes[name] = shape

    def _shape_error(self, name: str, shape: tuple[int, ...]) -> EngineError:
        self._log.messages.clear()
        port = next(port for port in self._inputs if port.name == name)
        if not any(extent < 0 for extent in port.shape):
            return EngineError(
                f"{self._graph_name}: input {name} has shape {list(shape)}, the engine takes {list(port.shape)}"
            )
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)  # type: ignore[union-attr]
        return EngineError(
            f"{self._graph_name}: input {name} has shape {list(shape)}, the engine was built for "
            f"{list(smallest)} to {list(largest)}"
        )

    def _output(self, port: _Port) -> DeviceBuffer:
        shape = tuple(self._context.get_tensor_shape(port.name))  # type: ignore[union-attr]
        if any(extent < 0 for extent in shape):
            raise EngineError(f"{self._graph_name}: the shape of output {port.name} depends on values, not on shapes")
        return DeviceBuffer(self._pool, shape, port.dtype)

    def _execute(self, inputs: dict[str, int], outputs: dict[str, DeviceBuffer]) -> None:
        addresses = {**inputs, **{name: buffer.address for name, buffer in outputs.items()}}
        key = tuple(addresses.values())
        if self._capture and key in self._graphs:
            self._graphs.move_to_end(key)
            self._device.launch(self._graphs[key])
            return
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):  # type: ignore[union-attr]
                raise explain(self._log, f"{self._graph_name}: TensorRT refuses the memory of {name}")
        # The first run with new shapes does work that must not be captured. Addresses seen twice will be seen again.
        if self._capture and key in self._seen and self._record(key):
            self._device.launch(self._graphs[key])
            return
        self._enqueue()
        if self._capture:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen.add(key)

    def _record(self, key: Addresses) -> bool:
        """Capture one run; return whether that worked. An engine that cannot be captured runs as any other."""
        try:
            graph = self._device.capture(self._enqueue)
        except EngineError:
            self._capture = False
            return False
        self._graphs[key] = graph
        while len(self._graphs) > _MOST_GRAPHS:
            self._device.destroy_graph(self._graphs.popitem(last=False)[1])
        return True

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):  # type: ignore[union-attr]
            raise explain(self._log, f"running {self._graph_name} failed")


def _read_ports(trt: Any, engine: Any, graph_name: str) -> tuple[list[_Port], list[_Port]]:
    inputs: list[_Port] = []
    outputs: list[_Port] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        if dtype not in _DTYPES or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise EngineError(f"{graph_name}: TensorRT wants {name} as {dtype} in a way that is not supported here")
        port = _Port(name, _DTYPES[dtype], tuple(engine.get_tensor_shape(name)))
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(port)
    return inputs, outputs


def _of_graph(dtype: np.dtype[Any]) -> str:
    """Return the type that callers hand over for a type on the device; bundles have no int32 inputs."""
    return "int64" if dtype == np.int32 else dtype.name
