"""Graphs run in segments give the bits of graphs run whole, and hold no more weights than they may."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from helpers.words_bundle import WORDS_REEL

onnx = pytest.importorskip("onnx")

from edgereel.core.errors import EngineError, MissingExtraError  # noqa: E402
from edgereel.engines import EngineOptions, EngineReport, Session, Tensor, get_engine  # noqa: E402
from edgereel.engines.graphs.segments import (  # noqa: E402
    Segment,
    interface_of,
    least_weight_limit,
    split_model,
    stored_size,
    weights_of,
)
from edgereel.engines.streaming import StreamedSession, open_within, segments_that_stay  # noqa: E402

FLOAT, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
make_node = onnx.helper.make_node
SIZES = ((8, 8), (6, 10))


def open_graph(path, **options):
    return get_engine("cpu").open(path, EngineOptions(threads=1, **options))


def run(session, inputs):
    outputs = session.run({name: Tensor.from_numpy(array) for name, array in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def normal(random, *shape):
    return random.standard_normal(shape).astype(np.float32)


def denoiser_inputs(random):
    trials = [(1, (5, *SIZES[0]), 16), (2, (3, *SIZES[1]), 11)]
    with open_graph(WORDS_REEL / "denoiser.onnx", lower=False) as session:
        channels, width = (session.specs.inputs[name].shape for name in ("latents", "prompt_embeds"))
    return [
        {
            "latents": normal(random, batch, channels[1], *size),
            "timestep": random.uniform(0, 1000, batch).astype(np.float32),
            "prompt_embeds": normal(random, batch, tokens, width[2]),
        }
        for batch, size, tokens in trials
    ]


def text_inputs(random):
    trials = [
        {name: random.integers(0, most, (batch, length)) for name, most in (("input_ids", 30), ("attention_mask", 2))}
        for batch, length in ((1, 16), (2, 9))
    ]
    for trial in trials:
        trial["attention_mask"][:, 0] = 1
    return trials


def decoder_inputs(random, *, following):
    with open_graph(WORDS_REEL / "decoder_first.onnx") as session:
        channels = session.specs.inputs["latent"].shape[1]
        latents = [{"latent": normal(random, 1, channels, 1, *size)} for size in SIZES]
        if not following:
            return latents
        states = [run(session, latent) for latent in latents]
    return [
        {"latent": normal(random, *latent["latent"].shape)}
        | {name: array for name, array in state.items() if name != "frames"}
        for latent, state in zip(latents, states, strict=True)
    ]


def assert_identical(path, trials, budgets=(0, 0.4, 0.9), **options):
    """Every budget (as part of what lies between the least that works and all) gives the bits of the whole graph."""
    model = path.read_bytes()
    # Lowering adds a few small constants to the parts.
    least, most = least_weight_limit(model) + 1024, weights_of(model) - 1
    with open_graph(path, **options) as whole:
        wanted = [run(whole, trial) for trial in trials]
        assert whole.report.streamed == 1
        for part in budgets:
            with open_graph(path, weight_budget=int(least + part * (most - least)), **options) as streamed:
                assert streamed.specs == whole.specs
                assert streamed.report.streamed > 2
                for trial, values in zip(trials, wanted, strict=True):
                    found = run(streamed, trial)
                    assert found.keys() == values.keys()
                    for name in values:
                        np.testing.assert_array_equal(found[name], values[name], err_msg=name)
                assert streamed.report.precision == whole.report.precision
                assert streamed.report.rewrites == whole.report.rewrites


@pytest.mark.parametrize("lower", [True, False])
def test_the_demos_graphs_give_the_same_bits(lower):
    random = np.random.default_rng()
    assert_identical(WORDS_REEL / "denoiser.onnx", denoiser_inputs(random), lower=lower)
    assert_identical(WORDS_REEL / "text_encoder.onnx", text_inputs(random), lower=lower)
    assert_identical(WORDS_REEL / "decoder_first.onnx", decoder_inputs(random, following=False), lower=lower)
    assert_identical(WORDS_REEL / "decoder_next.onnx", decoder_inputs(random, following=True), lower=lower)


@pytest.mark.parametrize(
    ("precision", "activations"), [("int8", "dynamic"), ("int8", "static"), ("int4", None)], ids=str
)
def test_quantized_denoisers_give_the_same_bits(precision, activations, tmp_path):
    from edgereel.calibration import calibrate, quantize

    stats = None
    if activations == "static":
        (tmp_path / "prompts.txt").write_text("a red ball bounces over the ocean\n")
        stats = tmp_path / "stats.npz"
        calibrate(WORDS_REEL, tmp_path / "prompts.txt", stats, steps=1)
    quantize(WORDS_REEL, tmp_path / "q.reel", precision=precision, activations=activations, stats=stats, compare=False)
    path, trials = tmp_path / "q.reel" / "denoiser.onnx", denoiser_inputs(np.random.default_rng())
    assert_identical(path, trials, activations="float" if activations is None else "dynamic")


@pytest.mark.full
def test_a_model_as_wide_as_wan_gives_the_same_bits(tmp_path):
    from edgereel.tools.step_bench.step_model import random_inputs, write_bundle, write_int8_bundle

    trials = [random_inputs((1, 16, 2, 12, 20), 64, 1), random_inputs((2, 16, 1, 16, 8), 32, 2)]
    assert_identical(write_bundle(tmp_path), trials)
    assert_identical(write_int8_bundle(tmp_path), trials, activations="dynamic")


def test_a_budget_for_all_weights_streams_nothing():
    path = WORDS_REEL / "denoiser.onnx"
    with open_graph(path, weight_budget=weights_of(path.read_bytes())) as session:
        assert session.report.streamed == 1


def write_chain(folder, layers=6, width=32, kind=FLOAT):
    """Write `layers` times x = x + tanh-like norm(x) @ w, external weights of width x width, all with one shared weight."""
    random = np.random.default_rng(0)
    nodes, tensors, data = [], [], b""
    for layer in range(layers):
        weight = random.standard_normal((width, width)).astype(np.float32) / np.float32(width)
        array = weight if kind == FLOAT else (weight.view(np.uint32) >> 16).astype(np.uint16)
        tensor = onnx.TensorProto(
            name=f"w{layer}", data_type=kind, dims=array.shape, data_location=onnx.TensorProto.EXTERNAL
        )
        for key, value in {"location": "chain.data", "offset": len(data), "length": array.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        data += array.tobytes()
        name = f"w{layer}"
        if kind != FLOAT:
            name = f"w{layer}_float32"
            nodes.insert(0, make_node("Cast", [f"w{layer}"], [name], to=FLOAT))
        nodes += [
            make_node("LayerNormalization", [f"x{layer}", "shared"], [f"n{layer}"]),
            make_node("MatMul", [f"n{layer}", name], [f"p{layer}"]),
            make_node("Add", [f"x{layer}", f"p{layer}"], [f"x{layer + 1}"]),
        ]
    tensors.append(onnx.numpy_helper.from_array(np.ones(width, np.float32), "shared"))
    values = [onnx.helper.make_tensor_value_info(f"x{at}", FLOAT, ["t", width]) for at in (0, layers)]
    graph = onnx.helper.make_graph(nodes, "chain", values[:1], values[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11)
    (folder / "chain.data").write_bytes(data)
    (folder / "chain.onnx").write_bytes(model.SerializeToString())
    return folder / "chain.onnx"


def weights(segment):
    return {tensor.name: tensor for tensor in onnx.ModelProto.FromString(segment.model).graph.initializer}


@pytest.mark.parametrize("kind", [FLOAT, BFLOAT16])
def test_segments_are_within_the_limit_and_name_the_same_bytes(tmp_path, kind):
    """Without the data file there: nothing of it is read. What a Cast makes of a weight is what counts."""
    model = write_chain(tmp_path, kind=kind).read_bytes()
    (tmp_path / "chain.data").unlink()
    one, shared = 32 * 32 * 4, 32 * 4
    assert weights_of(model) == 6 * one + shared
    assert least_weight_limit(model) == one + shared
    segments = split_model(model, 2 * one + shared)
    assert [segment.weight_bytes for segment in segments] == 3 * [2 * one + shared]
    whole = {tensor.name: tensor for tensor in onnx.ModelProto.FromString(model).graph.initializer}
    for at, segment in enumerate(segments):
        assert weights(segment).keys() == {f"w{2 * at}", f"w{2 * at + 1}", "shared"}
        assert all(tensor == whole[name] for name, tensor in weights(segment).items())
    assert segments[0].inputs == ("x0",)
    assert segments[-1].outputs == ("x6",)
    made = {"x0"}
    for segment in segments:
        assert made.issuperset(segment.inputs)
        made.update(segment.outputs)


def test_the_device_says_what_it_makes_of_a_weight(tmp_path):
    model = write_chain(tmp_path, kind=BFLOAT16).read_bytes()
    asked = set()

    def halved(element_type, count):
        asked.add(element_type)
        return stored_size(element_type, count) // 2

    assert weights_of(model, halved) == weights_of(model) // 2
    assert asked == {"float32"}


@pytest.mark.parametrize(
    ("element_type", "count", "size"), [("float32", 3, 12), ("bfloat16", 3, 6), ("int4", 3, 2), ("float8e4m3fn", 3, 3)]
)
def test_sizes_by_type(element_type, count, size):
    assert stored_size(element_type, count) == size


def test_no_cut_where_operators_are_fused():
    """A residual Add stays with its norm, a product with its bias, a quantized value with what reads it."""
    together = {("Add", "LayerNormalization"), ("MatMul", "Add"), ("DequantizeLinear", "MatMul"), ("Sigmoid", "Mul")}
    model = (WORDS_REEL / "denoiser.onnx").read_bytes()
    segments = split_model(model, least_weight_limit(model))
    assert len(segments) > 10
    makers = {}
    for at, segment in enumerate(segments):
        for node in onnx.ModelProto.FromString(segment.model).graph.node:
            for name in node.input:
                if name in makers and makers[name][0] != at:
                    assert (makers[name][1], node.op_type) not in together
            makers |= dict.fromkeys(node.output, (at, node.op_type))


def test_a_budget_that_is_too_small_names_the_least():
    path = WORDS_REEL / "denoiser.onnx"
    least = least_weight_limit(path.read_bytes())
    with pytest.raises(EngineError, match=f"cannot open denoiser.onnx: .* the least that works is {least}$"):
        open_graph(path, weight_budget=least - 1)
    with pytest.raises(EngineError, match="weight budget of 0 bytes is not possible"):
        open_graph(path, weight_budget=0)
    open_graph(path, weight_budget=least).close()


def test_what_is_no_model_is_refused():
    with pytest.raises(EngineError, match="not an ONNX model"):
        split_model(b"\xff\xff\xff", 1)


def test_without_onnx_the_message_says_what_to_install(monkeypatch):
    model = (WORDS_REEL / "denoiser.onnx").read_bytes()
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "edgereel.engines.graphs.segments")
    monkeypatch.delattr("edgereel.engines.graphs.segments", raising=False)
    with pytest.raises(MissingExtraError, match=r'onnx, which is not installed: pip install "edgereel\[cpu\]"'):
        open_within(2**40, "denoiser.onnx", model, lambda: None, lambda segment: None)


def test_outputs_that_are_inputs_constants_or_used_again(tmp_path):
    """`kept` is read in both segments and is an output; `fixed` depends on no input; `x` is passed through."""
    nodes = [
        make_node("MatMul", ["x", "w0"], ["kept"]),
        make_node("MatMul", ["kept", "w1"], ["b"]),
        make_node("MatMul", ["b", "w2"], ["c"]),
        make_node("MatMul", ["c", "w0"], ["d"]),
        make_node("Max", ["d", "kept"], ["y"]),
        make_node("Neg", ["w2"], ["fixed"]),
    ]
    random = np.random.default_rng()
    tensors = [onnx.numpy_helper.from_array(normal(random, 8, 8), f"w{at}") for at in range(3)]
    info = {name: onnx.helper.make_tensor_value_info(name, FLOAT, ["t", 8]) for name in ("x", "kept", "y")}
    info["fixed"] = onnx.helper.make_tensor_value_info("fixed", FLOAT, [8, 8])
    graph = onnx.helper.make_graph(nodes, "g", [info["x"]], [info[name] for name in ("kept", "y", "fixed")], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11)
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())
    segments = split_model(path.read_bytes(), 512)
    assert [set(weights(segment)) for segment in segments] == [{"w0", "w1"}, {"w0", "w2"}]
    assert [segment.weight_bytes for segment in segments] == [512, 512]
    trial = {"x": normal(random, 5, 8)}
    with open_graph(path) as whole, open_graph(path, weight_budget=512) as streamed:
        assert streamed.report.streamed > 2
        wanted, found = run(whole, trial), run(streamed, trial)
    assert list(found) == ["kept", "y", "fixed"]
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize(
    ("sizes", "budget", "count"),
    [([4, 4, 4, 4], 16, 4), ([4, 4, 4, 4], 15, 2), ([4, 4, 4, 4], 8, 1), ([4, 4, 4, 4], 4, 0), ([1, 1, 9, 1], 10, 1)],
)
def test_how_many_segments_stay(sizes, budget, count):
    assert segments_that_stay(sizes, budget) == count


class Opener:
    """Opens segments whose outputs are their index; counts what is open, and fails where it is told to."""

    def __init__(self, name="s"):
        self.open, self.most, self.opened, self.fails, self.made = set(), 0, [], None, []

    def __call__(self, segment):
        index = int(segment.model)
        if self.fails == ("open", index):
            raise EngineError("cannot open")
        self.open.add(index)
        self.most = max(self.most, len(self.open))
        self.opened.append(index)
        return OpenedSegment(self, index, segment)


class OpenedSegment(Session):
    def __init__(self, opener, index, segment):
        self._opener, self._index, self._segment = opener, index, segment
        self.report = EngineReport("fake", "fake", f"p{index // 3}", "0", 1, {"fake": 10})

    def run(self, inputs):
        assert set(inputs) == set(self._segment.inputs)
        if self._opener.fails == ("run", self._index):
            raise EngineError("cannot run")
        gc.collect()
        alive = [at for at, tensor in self._opener.made if tensor() is not None]
        assert alive == ([] if self._index == 0 else [self._index - 1]), "a value is kept that nobody reads any more"
        outputs = {name: Tensor(np.full(1, self._index)) for name in self._segment.outputs}
        self._opener.made += [(self._index, weakref.ref(tensor)) for tensor in outputs.values()]
        return outputs

    def close(self):
        self._opener.open.discard(self._index)


def chain(opener, count=6, budget=40):
    segments = [
        Segment(str(at).encode(), (f"v{at}",), (f"v{at + 1}",), 10)  # v0 is the input
        for at in range(count)
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([], "g", [value("v0", FLOAT, [1])], [value(f"v{count}", FLOAT, [1])])
    specs = interface_of(onnx.helper.make_model(graph).SerializeToString())
    return StreamedSession("chain.onnx", segments, specs, budget, opener)


def test_one_segment_beside_those_that_stay_is_open():
    opener = Opener()
    session = chain(opener)
    assert opener.opened == [0, 1, 2]
    assert session.report.precision == "p0"
    for _ in range(2):
        opener.made.clear()
        assert run(session, {"v0": np.zeros(1)})["v6"] == [5]
        assert opener.open == {0, 1, 2}
    assert opener.opened == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert opener.most == 4
    assert session.report == EngineReport("fake", "fake", "p0 and p1", "0", 1, {"fake": 60}, streamed=6)
    session.close()
    assert opener.open == set()
    with pytest.raises(EngineError, match=r"chain.onnx is closed"):
        run(session, {"v0": np.zeros(1)})


@pytest.mark.parametrize("where", [("run", 1), ("run", 4), ("open", 4)])
def test_an_error_in_the_middle_leaves_the_session_usable(where):
    opener = Opener()
    with chain(opener) as session:
        opener.fails = where
        with pytest.raises(EngineError, match=f"cannot {where[0]}"):
            run(session, {"v0": np.zeros(1)})
        assert opener.open == {0, 1, 2}
        opener.fails = None
        opener.made.clear()
        assert run(session, {"v0": np.zeros(1)})["v6"] == [5]


@pytest.mark.parametrize(("budget", "fails"), [(40, 2), (10, 0)])
def test_a_segment_that_cannot_be_opened_at_first_leaves_nothing_open(budget, fails):
    opener = Opener()
    opener.fails = ("open", fails)
    with pytest.raises(EngineError, match="cannot open"):
        chain(opener, budget=budget)
    assert opener.open == set()


def test_wrong_inputs_are_refused_by_name():
    with open_graph(WORDS_REEL / "text_encoder.onnx", weight_budget=600_000) as session:
        trial = text_inputs(np.random.default_rng())[0]
        with pytest.raises(EngineError, match=r"text_encoder.onnx: missing inputs \['attention_mask'\]"):
            run(session, {"input_ids": trial["input_ids"]})
        with pytest.raises(EngineError, match="input attention_mask is int32, the graph takes int64"):
            run(session, trial | {"attention_mask": trial["attention_mask"].astype(np.int32)})
        assert run(session, trial)


PEAK = """
import sys
from pathlib import Path
import numpy as np
import onnx
from edgereel.engines import EngineOptions, Tensor, get_engine
graph, budget = Path(sys.argv[1]), int(sys.argv[2]) or None
with get_engine("cpu").open(graph, EngineOptions(threads=1, weight_budget=budget)) as session:
    for _ in range(2):
        session.run({"x0": Tensor.from_numpy(np.ones((4, 1024), np.float32))})
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_the_budget(tmp_path):
    """Of 201 MB of weights 21 may be held: at least 140 MB less are used than by the graph opened whole."""
    path = write_chain(tmp_path, layers=48, width=1024)
    peaks = [
        int(subprocess.run([sys.executable, "-c", PEAK, path, str(budget)], check=True, capture_output=True).stdout)
        for budget in (0, 21_000_000)
    ]
    assert weights_of(path.read_bytes()) > 201_000_000
    assert peaks[1] < peaks[0] - 140_000_000, peaks
