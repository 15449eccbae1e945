"""Small ONNX graphs, and sessions whose tensors stay on ONNX Runtime's device `cpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from conftest import DEMO_REEL

from edgereel.engines import EngineReport, Tensor
from edgereel.engines.onnxruntime.bound import BoundSession, FixedShapeSession, Recording
from edgereel.engines.onnxruntime.common import session_settings
from edgereel.engines.onnxruntime.device_tensor import Device

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
CPU = Device("cpu")
REPORT = EngineReport("test", "CPUExecutionProvider", "float32", "0", 1)


def write_graph(path: Path, nodes, inputs, outputs):
    """Write a graph; inputs, outputs: {name: (type, shape)}."""
    values = [
        [onnx.helper.make_tensor_value_info(name, *info) for name, info in group.items()] for group in (inputs, outputs)
    ]
    graph = onnx.helper.make_graph(nodes, "main", *values)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def open_plain(path, arena=True):
    settings = session_settings(onnxruntime, path, 1, {})
    settings.enable_cpu_mem_arena = arena
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def open_bound(path, arena=True):
    return BoundSession(onnxruntime, open_plain(path, arena), path.name, CPU, REPORT)


def open_fixed(path, shapes, **recording):
    shapes = tuple(sorted(shapes.items()))
    return FixedShapeSession(onnxruntime, open_plain(path), path.name, CPU, REPORT, shapes, Recording(**recording))


def tensors(arrays):
    return {name: Tensor.from_numpy(array) for name, array in arrays.items()}


def plain_run(path, arrays):
    session = open_plain(path)
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, arrays), strict=True))


def normal(random, *shape):
    return random.standard_normal(shape).astype(np.float32)


def demo_denoiser_inputs(random):
    specs = {item.name: item.shape for item in open_plain(DEMO_REEL / "denoiser.onnx").get_inputs()}
    return {
        "latents": normal(random, 1, specs["latents"][1], 3, 8, 8),
        "timestep": random.uniform(0, 1000, 1).astype(np.float32),
        "prompt_embeds": normal(random, 1, 7, specs["prompt_embeds"][2]),
    }


def write_counter(folder):
    """A graph with a state: y = x + state, state_next = state + 1."""
    nodes = [
        onnx.helper.make_node("Constant", [], ["one"], value_float=1.0),
        onnx.helper.make_node("Add", ["x", "state"], ["y"]),
        onnx.helper.make_node("Add", ["state", "one"], ["state_next"]),
    ]
    vector = (FLOAT, ["n"])
    return write_graph(folder / "c.onnx", nodes, {"x": vector, "state": vector}, {"y": vector, "state_next": vector})
