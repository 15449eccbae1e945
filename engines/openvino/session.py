"""An opened graph of OpenVINO, and what it says of itself."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ...core.errors import Cancelled, EdgereelError, EngineError, brief
from ..base import EngineReport, Session, Tensor
from ..options import GraphSpecs, TensorInfo
from ..stopping import run_stoppable

_PRODUCTS = ("FullyConnected", "MatMul", "Convolution")
_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "uint8"}


class OpenVinoSession(Session):
    """A graph opened by OpenVino. Runs from several threads take turns: a request of OpenVINO's is for one at a time."""

    def __init__(self, compiled: Any, names: Collection[str], graph_name: str, report: EngineReport) -> None:
        """names: of the graph's inputs and outputs; OpenVINO has others for the same values, where nodes only pass them on."""
        self._request: Any | None = compiled.create_infer_request()
        self._graph_name = graph_name
        self._outputs = {
            name: index for index, port in enumerate(compiled.outputs) for name in port.get_names() if name in names
        }
        self._turn = threading.Lock()
        self._stopped = False
        self.specs = GraphSpecs(_specs(compiled.inputs, names), _specs(compiled.outputs, names))
        self.report = report

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see Session.run. Outputs are copies: the next run writes into the same memory."""
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        if odd := feeds.keys() ^ self.specs.inputs.keys():
            raise EngineError(
                f"{self._graph_name} has inputs {', '.join(self.specs.inputs)}; {sorted(odd)[0]} is not right"
            )
        for name, array in feeds.items():  # OpenVINO would convert it without a word
            if (wanted := self.specs.inputs[name].dtype) != str(array.dtype):
                raise EngineError(f"{self._graph_name}: input {name} is {array.dtype}, the graph takes {wanted}")
        with self._turn:
            request = self._request
            if request is None:
                raise EngineError(f"{self._graph_name} is closed and cannot run")
            self._stopped = False

            def work() -> list[Any]:
                try:
                    request.start_async(feeds, share_inputs=True)
                    request.wait()
                    return [np.array(tensor.data) for tensor in request.output_tensors]
                except EdgereelError:
                    raise
                except Exception as error:
                    if self._stopped:
                        raise Cancelled(f"running {self._graph_name} was stopped") from error
                    raise EngineError(f"running {self._graph_name} failed: {brief(error)}") from error

            values = run_stoppable(work, self.stop)
        return {name: Tensor(values[index]) for name, index in self._outputs.items()}

    def stop(self) -> None:
        """See Session.stop: OpenVINO looks between two nodes whether it is to go on."""
        if (request := self._request) is not None:
            self._stopped = True
            request.cancel()

    def close(self) -> None:
        """Release the graph."""
        self._request = None


def precision_of(compiled: Any) -> str:
    """Return the types that matrix products and convolutions calculate in, as the compiled graph tells them."""
    found = set()
    for operation in compiled.get_runtime_model().get_ordered_ops():
        told = operation.get_rt_info()
        if "layerType" in told and told["layerType"].astype(str) in _PRODUCTS and "runtimePrecision" in told:
            found.add(told["runtimePrecision"].astype(str))
    return "/".join(sorted(_TYPES.get(kind, kind) for kind in found)) or "unknown"


def _specs(ports: Any, names: Collection[str]) -> dict[str, TensorInfo]:
    specs = {}
    for port in ports:
        extents = [str(extent) if extent.is_dynamic else extent.get_length() for extent in port.get_partial_shape()]
        dtype = np.dtype(port.get_element_type().to_dtype()).name
        specs.update({name: TensorInfo(dtype, tuple(extents)) for name in port.get_names() if name in names})
    return specs
