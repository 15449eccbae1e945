"""Rings of frames: on the host, where ONNX Runtime's sessions have their tensors, and in a GPU's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from helpers.bound_sessions import CPU, REPORT, open_plain
from helpers.causal_bundle import write_causal_bundle
from helpers.fake_cudart import FakeCudart

import edgereel
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import EngineError
from edgereel.engines import EngineOptions, Ring, Tensor
from edgereel.engines.base import Engine
from edgereel.engines.onnxruntime.bound import BoundSession
from edgereel.engines.onnxruntime.device_ring import DeviceRing, RingView
from edgereel.engines.onnxruntime.device_tensor import Device, DeviceTensor
from edgereel.engines.tensorrt.device_memory import BufferPool, CudaDevice, DeviceBuffer
from edgereel.engines.tensorrt.device_memory import DeviceRing as GpuRing
from edgereel.runtime.reel import Reel

pytestmark = pytest.mark.lean

SHAPE = (4, 3, 2)
PROVIDERS = ["CPUExecutionProvider"]


class BoundEngine(Engine):
    """Opens graphs as the engines of NVIDIA GPUs do, on the device `cpu`."""

    name = "bound"

    def __init__(self):
        self.rings = []

    def open(self, graph_path: Path, options: EngineOptions) -> BoundSession:
        session = BoundSession(onnxruntime, open_plain(graph_path), graph_path.name, CPU, REPORT, providers=PROVIDERS)
        make = session.ring
        session.ring = lambda *arguments: self.rings.append(make(*arguments)) or self.rings[-1]
        return session


def rings(dtype):
    pool = BufferPool(CudaDevice(FakeCudart()))
    return {
        "host": (Ring(SHAPE, dtype), Tensor.from_numpy),
        "ONNX Runtime": (
            DeviceRing(onnxruntime, SHAPE, dtype, CPU, PROVIDERS),
            lambda array: DeviceTensor(onnxruntime.OrtValue.ortvalue_from_numpy(array), CPU),
        ),
        "ONNX Runtime, from the host": (DeviceRing(onnxruntime, SHAPE, dtype, CPU, PROVIDERS), Tensor.from_numpy),
        "TensorRT": (GpuRing(pool, SHAPE, dtype), lambda array: uploaded(pool, array)),
        "TensorRT, from the host": (GpuRing(pool, SHAPE, dtype), Tensor.from_numpy),
    }


def uploaded(pool, array):
    buffer = DeviceBuffer(pool, array.shape, array.dtype)
    pool.device.upload(buffer.address, array)
    return buffer


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", list(rings("float32")))
def test_frames_go_where_they_are_put(kind, dtype):
    ring, tensor_of = rings(dtype)[kind]
    assert ring.tensor(0).shape == (1, 0, 3, 2)
    made = np.arange(5 * 6).reshape(1, 5, 3, 2).astype(dtype)
    expected = np.zeros((1, *SHAPE), dtype)
    first = ring.tensor(2)
    for place, index in ((0, 1), (1, 4), (3, 0), (2, 2), (1, 3)):
        ring.write(place, tensor_of(made), index)
        expected[:, place] = made[:, index]
    for count in range(1, 5):
        read = ring.tensor(count)
        assert read.shape == (1, count, 3, 2)
        assert np.array_equal(read.numpy(), expected[:, :count])
    assert np.array_equal(first.numpy(), expected[:, :2]), "a tensor is the ring's own memory"


def test_a_frame_of_another_size_is_refused():
    ring = DeviceRing(onnxruntime, SHAPE, "float32", CPU, PROVIDERS)
    with pytest.raises(EngineError, match="does not fit into a ring"):
        ring.write(0, Tensor.from_numpy(np.zeros((1, 2, 3, 3), np.float32)), 0)


def test_memory_of_another_kind_and_damaged_providers_are_told():
    with pytest.raises(EngineError, match="making room for what a stream remembers failed"):
        DeviceRing(onnxruntime, SHAPE, "float32", Device("cuda"), PROVIDERS)


def test_a_film_on_the_device_is_that_on_the_host(tmp_path):
    """The ring's tensors are read where they are: a graph that is given them gets the address, not a copy."""
    bundle = write_causal_bundle(tmp_path / "small.reel")
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        expected = reel.generate("a red ball", seed=4, frames=17).latents
    engine = BoundEngine()
    with Reel(open_bundle(bundle), engine, EngineOptions(threads=1)) as reel:
        assert np.abs(reel.generate("a red ball", seed=4, frames=17).latents - expected).max() < 1e-5
        with reel.stream("a red ball", seed=4) as stream:
            for _ in range(60):
                next(stream)
    assert len(engine.rings) == 4
    views = [ring.tensor(3) for ring in engine.rings]
    assert all(isinstance(view, RingView) and view.dtype == "float16" for view in views)
    assert all(view.address == ring._value.data_ptr() for view, ring in zip(views, engine.rings, strict=True))
