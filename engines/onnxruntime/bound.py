"""Sessions of ONNX Runtime whose inputs and outputs stay on the device, and those that replay a CUDA graph."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core.errors import EngineError
from ..base import EngineReport, Ring, Session, Tensor
from ..options import Shapes
from .common import Runs, check_inputs, failure, graph_specs
from .device_ring import DeviceRing, RingView
from .device_tensor import Device, DeviceTensor, new_value, on_device, overwrite

LARGEST_FIXED = 64 * 2**20
"""Bytes of inputs and outputs up to which fixed buffers are kept for them beside what the caller holds."""


class BoundSession(Session):
    """A graph whose outputs stay on the device. Host inputs are copied there; tensors that are there are taken as they are.

    run_entries: onnxruntime.RunOptions entries of each run. detached: outputs are to outlive the session, see Tensor.detached.
    providers: what copies frames within the device, see DeviceRing; without them rings are on the host.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        graph_name: str,
        device: Device,
        report: EngineReport,
        run_entries: Mapping[str, str] | None = None,
        *,
        detached: bool = False,
        providers: Sequence[Any] | None = None,
    ) -> None:
        self._providers = providers
        self._onnxruntime = onnxruntime
        self._session: Any | None = session
        self._graph_name = graph_name
        self._device = device
        self._runs = Runs(onnxruntime, graph_name)
        self._run_entries = run_entries or {}
        self._detached = detached
        self.specs = graph_specs(session)
        self.report = report

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run. The outputs are DeviceTensors, copied to the host where asked for."""
        session = self._opened()
        check_inputs(self._graph_name, self.specs, {name: _dtype(tensor) for name, tensor in inputs.items()})

        def run_bound(options: Any) -> list[DeviceTensor]:
            binding = session.io_binding()
            for name, tensor in inputs.items():
                self._bind(binding, name, tensor)
            for name in self.specs.outputs:
                binding.bind_output(name, self._device.kind, self._device.index)
            session.run_with_iobinding(binding, options)
            # Each output keeps the binding alive, which would keep the inputs: the state of before is large.
            binding.clear_binding_inputs()
            made = [DeviceTensor(value, self._device) for value in binding.get_outputs()]
            return [tensor.detached() for tensor in made] if self._detached else made

        return dict(zip(self.specs.outputs, self._runs.run(run_bound, self._run_entries), strict=True))

    def _bind(self, binding: Any, name: str, tensor: Tensor) -> None:
        if isinstance(tensor, RingView) and tensor.device == self._device:
            kind, index = self._device.kind, self._device.index
            binding.bind_input(name, kind, index, np.dtype(tensor.dtype), list(tensor.shape), tensor.address)
        else:
            binding.bind_ortvalue_input(name, on_device(self._onnxruntime, tensor, self._device))

    def ring(self, shape: tuple[int, ...], dtype: str) -> Ring:
        """See Session.ring."""
        if self._providers is None:
            return super().ring(shape, dtype)
        return DeviceRing(self._onnxruntime, shape, dtype, self._device, self._providers)

    def stop(self) -> None:
        """See Session.stop."""
        self._runs.stop()

    def close(self) -> None:
        """Release the graph."""
        self._session = None

    def _opened(self) -> Any:
        if self._session is None:
            raise EngineError(f"{self._graph_name} is closed and cannot run")
        return self._session


class FixedShapeSession(BoundSession):
    """A graph of which each run has the same shapes: from the second run on in buffers whose addresses stay.

    CUDA graphs need that: ONNX Runtime records the kernels of such a run with their addresses and replays them. The first
    run is an ordinary one (first_entries), which tells the shapes of the outputs; the others (run_entries) may be recorded.
    What a caller gets is a copy, so that the next run does not change it. Where inputs and outputs are larger than
    LARGEST_FIXED each run is an ordinary one: such graphs take far longer than the launching of their kernels. ONNX Runtime
    keeps what it recorded for each thread apart: other threads than the one of the second run get ordinary runs.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        graph_name: str,
        device: Device,
        report: EngineReport,
        shapes: Shapes,
        first_entries: Mapping[str, str] | None = None,
        run_entries: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(onnxruntime, session, graph_name, device, report, first_entries)
        self._shapes = dict(shapes)
        if set(self._shapes) != set(self.specs.inputs):
            raise EngineError(
                f"{graph_name}: shapes are given for {sorted(self._shapes)}, its inputs are {sorted(self.specs.inputs)}"
            )
        self._fixed_entries = run_entries or {}
        self._buffers: dict[str, Any] = {}
        self._binding: Any | None = None
        self._ordinary = False
        self._thread: int | None = None

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run."""
        session = self._opened()
        for name, tensor in inputs.items():
            if tensor.shape != self._shapes.get(name, tensor.shape):
                wanted = list(self._shapes[name])
                raise EngineError(f"{self._graph_name} was opened for {name} {wanted}, given is {list(tensor.shape)}")
        if self._binding is None:
            outputs = super().run(inputs)
            if not self._ordinary:
                self._fix(session, outputs)
            return outputs
        self._thread = self._thread or threading.get_ident()
        if self._thread != threading.get_ident():
            return super().run(inputs)
        check_inputs(self._graph_name, self.specs, {name: _dtype(tensor) for name, tensor in inputs.items()})

        def run_fixed(options: Any) -> dict[str, Tensor]:
            for name, tensor in inputs.items():
                overwrite(self._buffers[name], tensor, self._device)
            session.run_with_iobinding(self._binding, options)
            return {name: DeviceTensor(self._buffers[name], self._device).detached() for name in self.specs.outputs}

        return self._runs.run(run_fixed, self._fixed_entries)

    def close(self) -> None:
        """Release the graph and the buffers, which hold on to it."""
        self._binding = None
        self._buffers = {}
        super().close()

    def _fix(self, session: Any, outputs: Mapping[str, Tensor]) -> None:
        """Make the buffers of all later runs, if they are small enough."""
        shapes = {**self._shapes, **{name: tensor.shape for name, tensor in outputs.items()}}
        dtypes = {name: info.dtype for name, info in (*self.specs.inputs.items(), *self.specs.outputs.items())}
        size = sum(math.prod(shape) * np.dtype(dtypes[name]).itemsize for name, shape in shapes.items())
        self._ordinary = size > LARGEST_FIXED
        if self._ordinary:
            return
        try:
            buffers = {
                name: new_value(self._onnxruntime.OrtValue, shape, dtypes[name], self._device)
                for name, shape in shapes.items()
            }
            binding = session.io_binding()
            for name in self.specs.inputs:
                binding.bind_ortvalue_input(name, buffers[name])
            for name in self.specs.outputs:
                binding.bind_ortvalue_output(name, buffers[name])
        except Exception as error:
            raise failure(f"preparing {self._graph_name} failed", error) from error
        self._buffers, self._binding = buffers, binding


def _dtype(tensor: Tensor) -> str:
    """Return the type of a tensor's values without copying them."""
    return tensor.dtype if isinstance(tensor, DeviceTensor | RingView) else str(tensor.numpy().dtype)
