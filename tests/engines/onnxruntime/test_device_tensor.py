"""Tensors that stay on a device from call to call, buffers that keep their addresses, and want of memory.

All of it runs for real, on ONNX Runtime's device `cpu`. Nothing here has run on a GPU.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import helpers_environment
from helpers.words_bundle import WORDS_REEL

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers.bound_sessions import (  # noqa: E402
    FLOAT,
    INT64,
    normal,
    open_bound,
    open_fixed,
    open_plain,
    plain_run,
    tensors,
    write_counter,
    write_graph,
)

from edgereel.core.errors import EngineError, OutOfMemory  # noqa: E402
from edgereel.engines import EngineOptions, Tensor, get_engine  # noqa: E402
from edgereel.engines.onnxruntime.common import Runs, failure  # noqa: E402
from edgereel.engines.onnxruntime.device_tensor import Device, DeviceTensor  # noqa: E402


@pytest.fixture
def counter(tmp_path):
    return write_counter(tmp_path)


def test_the_demos_decoder_with_its_state_on_the_device(monkeypatch):
    """Bit for bit what the plain session gives, and only the frames are ever copied to the host."""
    random = np.random.default_rng()
    first, later = WORDS_REEL / "decoder_first.onnx", WORDS_REEL / "decoder_next.onnx"
    channels = open_plain(first).get_inputs()[0].shape[1]
    latents = normal(random, 3, 1, channels, 1, 8, 6)
    wanted, state = [], {}
    for index, latent in enumerate(latents):
        outputs = plain_run(first if index == 0 else later, {"latent": latent, **state})
        wanted.append(outputs["frames"])
        state = {name.removesuffix("_next"): value for name, value in outputs.items() if name.startswith("state_")}

    copied = []
    numpy = DeviceTensor.numpy
    monkeypatch.setattr(DeviceTensor, "numpy", lambda self: copied.append(self.shape) or numpy(self))
    state = {}
    with open_bound(first) as opening, open_bound(later) as following:
        for index, latent in enumerate(latents):
            session = opening if index == 0 else following
            outputs = session.run({**tensors({"latent": latent}), **state})
            assert all(isinstance(tensor, DeviceTensor) for tensor in outputs.values())
            state = {name.removesuffix("_next"): value for name, value in outputs.items() if name.startswith("state_")}
            assert outputs["frames"].shape == wanted[index].shape
            assert copied == []
            np.testing.assert_array_equal(outputs["frames"].numpy(), wanted[index])
            copied.clear()


def test_a_state_is_taken_as_it_is(counter, monkeypatch):
    """The same memory goes in again that came out."""
    bound = []
    with open_bound(counter) as session:
        outputs = session.run(tensors({"x": np.zeros(5, np.float32), "state": np.zeros(5, np.float32)}))
        binding_type = type(session._session.io_binding())
        bind = binding_type.bind_ortvalue_input
        monkeypatch.setattr(
            binding_type,
            "bind_ortvalue_input",
            lambda self, name, value: bound.append((name, value.data_ptr())) or bind(self, name, value),
        )
        state = outputs["state_next"]
        monkeypatch.setattr(state, "numpy", None, raising=False)
        session.run({**tensors({"x": np.ones(5, np.float32)}), "state": state})
    assert ("state", state.value.data_ptr()) in bound


HELD = """
import gc
import sys
from pathlib import Path
import numpy as np
from helpers.bound_sessions import open_bound, tensors

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

with open_bound(Path(sys.argv[1]), arena=False) as session:
    zeros = np.zeros(2**24, np.float32)
    state = session.run(tensors({"x": zeros, "state": zeros}))["state_next"]
    after_one = resident()
    for _ in range(10):
        state = session.run({**tensors({"x": zeros}), "state": state})["state_next"]
        print(resident() - after_one)
    assert state.numpy()[-1] == 11
del state
print(resident() - after_one)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_the_state_of_before_is_freed(counter):
    """Ten calls with a state of 64 MiB hold two of them at the most at any time, and none at the end.

    In a process of its own: where others have left holes in the heap, what is freed stays.
    """
    ended = subprocess.run(
        [sys.executable, "-c", HELD, counter], env=helpers_environment(), capture_output=True, text=True, timeout=300
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    *growth, at_the_end = map(float, ended.stdout.split())
    assert len(growth) == 10
    assert max(growth) < 32
    assert at_the_end < -64


def test_tensors_of_another_device_travel_through_the_host(counter):
    with open_bound(counter) as session:
        zeros = np.zeros(3, np.float32)
        state = session.run(tensors({"x": zeros, "state": zeros}))["state_next"]
        elsewhere = DeviceTensor(state.value, Device("cuda", 1))
        outputs = session.run({**tensors({"x": zeros}), "state": elsewhere})
        np.testing.assert_array_equal(outputs["state_next"].numpy(), np.full(3, 2, np.float32))


def test_wrong_inputs_are_refused_without_a_copy(counter, monkeypatch):
    ids = np.zeros(3, np.int64)
    zeros = np.zeros(3, np.float32)
    with open_bound(counter) as session:
        with pytest.raises(EngineError, match=r"missing inputs \['state'\], unknown inputs \['stat'\]"):
            session.run(tensors({"x": zeros, "stat": zeros}))
        with pytest.raises(EngineError, match="input x is int64, the graph takes float32"):
            session.run(tensors({"x": ids, "state": zeros}))
        with pytest.raises(EngineError, match=r"running c.onnx failed"):
            session.run(tensors({"x": np.zeros(2, np.float32), "state": zeros}))
        outputs = session.run(tensors({"x": zeros, "state": zeros}))
        assert outputs["y"].dtype == "float32"
    with pytest.raises(EngineError, match="closed"):
        session.run(tensors({"x": zeros, "state": zeros}))


def test_an_error_of_the_device_that_shows_late():
    class Lost:
        def numpy(self):
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    with pytest.raises(EngineError, match="copying values from cuda failed: CUDA failure 700"):
        DeviceTensor(Lost(), Device("cuda")).numpy()


def test_fixed_buffers_compute_the_same(counter):
    """Outputs of earlier runs stay as they were, and host and device tensors may be mixed."""
    random = np.random.default_rng()
    entries = {"ordinary_entries": {"gpu_graph_id": "-1"}, "recorded_entries": {"gpu_graph_id": "1"}}
    with open_fixed(counter, {"x": (4,), "state": (4,)}, **entries) as session:
        state = normal(random, 4)
        trials = [normal(random, 4) for _ in range(5)]
        held, wanted, given = [], [], Tensor.from_numpy(state)
        for x in trials:
            outputs = session.run({**tensors({"x": x}), "state": given})
            given = outputs["state_next"]
            held.append(outputs["y"])
            wanted.append(x + state)
            state = state + np.float32(1)
        assert session._binding is not None
        for found, expected in zip(held, wanted, strict=True):
            np.testing.assert_array_equal(found.numpy(), expected)
        np.testing.assert_array_equal(given.numpy(), state)


def test_fixed_buffers_keep_their_addresses(counter):
    zeros = np.zeros(4, np.float32)
    with open_fixed(counter, {"x": (4,), "state": (4,)}) as session:
        session.run(tensors({"x": zeros, "state": zeros}))
        before = {name: value.data_ptr() for name, value in session._buffers.items()}
        returned = session.run(tensors({"x": zeros, "state": zeros}))
        assert {name: value.data_ptr() for name, value in session._buffers.items()} == before
        assert not {tensor.value.data_ptr() for tensor in returned.values()} & set(before.values())


def test_a_detached_tensor_has_memory_of_its_own(counter):
    state = {"x": np.random.default_rng().random(4, np.float32), "state": np.zeros(4, np.float32)}
    tensor = open_bound(counter).run(tensors(state))["y"]
    copy = tensor.detached()
    assert (copy.device, copy.shape, copy.dtype) == (tensor.device, tensor.shape, tensor.dtype)
    before = copy.numpy().copy()
    assert copy.value.data_ptr() != tensor.value.data_ptr()
    np.testing.assert_array_equal(before, tensor.numpy())
    tensor.value.update_inplace(np.ascontiguousarray(before + 1))
    np.testing.assert_array_equal(copy.numpy(), before)


def test_another_thread_gets_ordinary_runs(counter):
    """What ONNX Runtime records it keeps for each thread: one that comes and goes would record anew each time."""
    random = np.random.default_rng()
    with open_fixed(counter, {"x": (4,), "state": (4,)}) as session:
        arrays = [{name: normal(random, 4) for name in ("x", "state")} for _ in range(3)]
        for given in arrays[:2]:
            session.run(tensors(given))
        fixed = session._buffers["y"].numpy().copy()
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(session.run, tensors(arrays[2])).result()["y"].numpy()
        np.testing.assert_array_equal(found, arrays[2]["x"] + arrays[2]["state"])
        np.testing.assert_array_equal(session._buffers["y"].numpy(), fixed)


def test_other_shapes_than_the_fixed_ones_are_refused(counter):
    with open_fixed(counter, {"x": (4,), "state": (4,)}) as session:
        for length in (4, 4, 5, 4):
            given = tensors({"x": np.zeros(length, np.float32), "state": np.zeros(4, np.float32)})
            if length == 4:
                session.run(given)
                continue
            with pytest.raises(EngineError, match=r"c.onnx was opened for x \[4\], given is \[5\]"):
                session.run(given)
    with pytest.raises(EngineError, match=r"shapes are given for \['x'\], its inputs are \['state', 'x'\]"):
        open_fixed(counter, {"x": (4,)})


@pytest.mark.parametrize(
    ("recording", "recorded"),
    [
        ({"after": 3}, [False, False, False, True, True]),
        ({"after": 3, "longest": 0.0}, [False] * 5),
        ({}, [False, True, True, True, True]),
    ],
)
def test_short_runs_are_recorded_after_some_ordinary_ones(counter, monkeypatch, recording, recorded):
    """Recording executes a run three times: a clip of few steps, or of long ones, would only lose by it."""
    kinds = []
    run = Runs.run

    def noting(runs, work, entries):
        kinds.append(entries["kind"] == "recorded")
        return run(runs, work, None)

    monkeypatch.setattr(Runs, "run", noting)
    kept = {"ordinary_entries": {"kind": "ordinary"}, "recorded_entries": {"kind": "recorded"}, **recording}
    given = {"x": np.ones(4, np.float32), "state": np.zeros(4, np.float32)}
    with open_fixed(counter, {"x": (4,), "state": (4,)}, **kept) as session:
        for _ in range(5):
            np.testing.assert_array_equal(session.run(tensors(given))["y"].numpy(), given["x"])
    assert kinds == recorded


def test_large_tensors_get_no_second_buffers(counter, monkeypatch):
    monkeypatch.setattr("edgereel.engines.onnxruntime.bound.LARGEST_FIXED", 4 * 4 * 4 - 1)
    zeros = np.zeros(4, np.float32)
    with open_fixed(counter, {"x": (4,), "state": (4,)}) as session:
        for _ in range(3):
            session.run(tensors({"x": zeros, "state": zeros}))
        assert session._buffers == {}


def test_the_demos_denoiser_with_fixed_shapes():
    path = WORDS_REEL / "denoiser.onnx"
    random = np.random.default_rng()
    specs = {item.name: item.shape for item in open_plain(path).get_inputs()}
    shapes = {
        "latents": (1, specs["latents"][1], 3, 8, 8),
        "timestep": (1,),
        "prompt_embeds": (1, 7, specs["prompt_embeds"][2]),
    }
    with open_fixed(path, shapes) as session:
        for _ in range(3):
            arrays = {name: normal(random, *shape) for name, shape in shapes.items()}
            found = session.run(tensors(arrays))["prediction"].numpy()
            np.testing.assert_array_equal(found, plain_run(path, arrays)["prediction"])


@pytest.fixture
def huge(tmp_path):
    """A graph that makes a tensor of the shape it is given and returns its sum."""
    nodes = [
        onnx.helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        onnx.helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
    ]
    return write_graph(tmp_path / "huge.onnx", nodes, {"size": (INT64, [2])}, {"sum": (FLOAT, [])})


@pytest.mark.parametrize("arena", [True, False])
def test_a_tensor_that_no_machine_can_hold(huge, arena):
    """2^60 bytes: ONNX Runtime says one thing with its arena and another without."""
    size = {"size": np.array([2**29, 2**29])}
    with open_bound(huge, arena) as session:
        with pytest.raises(
            OutOfMemory, match=r"running huge.onnx failed, there is not enough memory: (?!.*smaller).*ConstantOfShape"
        ):
            session.run(tensors(size))
        assert session.run(tensors({"size": np.array([2, 3])}))["sum"].numpy() == 0


def test_the_cpu_engine_runs_out_of_memory_and_goes_on(huge):
    with get_engine("cpu").open(huge, EngineOptions(threads=1)) as session:
        with pytest.raises(OutOfMemory, match=r"running huge.onnx failed"):
            session.run(tensors({"size": np.array([2**29, 2**29])}))
        assert session.run(tensors({"size": np.array([2, 3])}))["sum"].numpy() == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("bad allocation"),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=x"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("Available memory of 100 is smaller than requested bytes of 200"),
        RuntimeError("Failed to allocate memory for requested buffer of size 8"),
    ],
)
def test_what_counts_as_want_of_memory(error):
    assert type(failure("opening x", error)) is OutOfMemory
    assert str(failure("opening x", error)).startswith("opening x, there is not enough memory")


@pytest.mark.parametrize(
    "text", ["INVALID_GRAPH", "CUDA failure 700: an illegal memory access", "no such node: memory"]
)
def test_what_does_not(text):
    error = failure("opening x", RuntimeError(text))
    assert type(error) is EngineError
    assert str(error) == f"opening x: {text}"
