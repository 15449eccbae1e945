"""A decoder cut in two computes what it computes whole; only its rear may see less than the whole picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.tiny_wan import write_tiny_wan

onnx = pytest.importorskip("onnx")

from edgereel.core.errors import EngineError, MissingExtraError  # noqa: E402
from edgereel.engines import ENGINES, EngineOptions, Tensor, get_engine  # noqa: E402
from edgereel.engines.graphs.cut import cut_part  # noqa: E402
from edgereel.engines.graphs.parts import part_inputs  # noqa: E402
from edgereel.engines.graphs.segments import interface_of  # noqa: E402
from edgereel.engines.lowering.lower import lower_for_target, lower_graph  # noqa: E402
from edgereel.engines.lowering.targets import parse_target  # noqa: E402
from edgereel.engines.options import GraphSpecs, TensorInfo  # noqa: E402

GRAPHS = ("decoder_first", "decoder_next")
FLOAT = onnx.TensorProto.FLOAT
make_node = onnx.helper.make_node


@pytest.fixture(scope="module")
def residual_reel(tmp_path_factory):
    """The decoders of a random VAE as Wan 2.2's is: residual, with patches. That such graphs are right, test_export proves."""
    import torch

    from edgereel.export.catalogue import open_family
    from edgereel.export.checkpoint import open_checkpoint
    from edgereel.export.graphs import DataFile, save_graph

    folder = tmp_path_factory.mktemp("residual")
    checkpoint = write_tiny_wan(folder / "checkpoint", vae_patch=2, residual=True, vae_levels=3)
    part = next(part for part in open_family(open_checkpoint(checkpoint)).parts if part.name == "decoder")
    with DataFile(folder / "decoder.data") as data:
        for source in part.graphs(part.load(), torch.float32):
            save_graph(source, folder, data)
    return folder


@pytest.fixture(params=["demo", "random", "residual"])
def reel(request):
    return DEMO_REEL if request.param == "demo" else request.getfixturevalue(f"{request.param}_reel")


def run(session, inputs):
    outputs = session.run({name: Tensor.from_numpy(array) for name, array in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def open_part(path, part=None, **options):
    return get_engine("cpu").open(path, EngineOptions(threads=1, part=part, **options))


def states(outputs):
    return {name.removesuffix("_next"): array for name, array in outputs.items() if name.startswith("state_")}


def decode(reel, latents, parts, open_session):
    """Return all outputs for each latent frame, the parts run one after another."""
    found, state = [], {}
    for name, frames in (("decoder_first", latents[:1]), ("decoder_next", latents[1:])):
        sessions = [open_session(reel / f"{name}.onnx", part) for part in parts]
        for latent in frames:
            values = {"latent": latent, **state}
            for session in sessions:
                values |= run(session, {name: values[name] for name in session.specs.inputs})
            outputs = {name: array for name, array in values.items() if name == "frames" or name.endswith("_next")}
            if not state:
                outputs |= {name: array for name, array in values.items() if name.startswith("state_")}
            state = states(outputs)
            found.append(outputs)
    return found


def test_front_and_rear_give_the_bits_of_the_whole(reel):
    random = np.random.default_rng()
    channels = interface_of((reel / "decoder_first.onnx").read_bytes()).inputs["latent"].shape[1]
    latents = random.standard_normal((3, 1, channels, 1, 6, 10)).astype(np.float32)
    whole = decode(reel, latents, [None], open_part)
    cut = decode(reel, latents, ["front", "rear"], open_part)
    for expected, found in zip(whole, cut, strict=True):
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_parts_of_the_canonical_graph_compute_the_same(reel, tmp_path):
    """As above without lowering: the parts stand as graphs of their own beside the weights. Batches of 2, to 1e-6."""
    for name in GRAPHS:
        content = (reel / f"{name}.onnx").read_bytes()
        for part in ("front", "rear"):
            model = cut_part(content, part, name)
            (tmp_path / f"{name} {part}.onnx").write_bytes(model)

    def open_canonical(path, part):
        import onnxruntime

        content = path.read_bytes() if part is None else (tmp_path / f"{path.stem} {part}.onnx").read_bytes()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(reel))
        session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        return Plain(session)

    channels = interface_of((reel / "decoder_first.onnx").read_bytes()).inputs["latent"].shape[1]
    latents = np.random.default_rng().standard_normal((2, 2, channels, 1, 4, 6)).astype(np.float32)
    whole = decode(reel, latents, [None], open_canonical)
    cut = decode(reel, latents, ["front", "rear"], open_canonical)
    for expected, found in zip(whole, cut, strict=True):
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6, err_msg=name)


class Plain:
    """A session of ONNX Runtime, spoken to as to one of ours."""

    def __init__(self, session):
        self.session = session
        self.specs = self
        self.inputs = [item.name for item in session.get_inputs()]

    def run(self, inputs):
        names = [item.name for item in self.session.get_outputs()]
        values = self.session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: Tensor(value) for name, value in zip(names, values, strict=True)}


def test_both_graphs_are_cut_alike_and_nothing_is_lost(reel):
    interfaces = {
        (name, part): interface_of(cut_part((reel / f"{name}.onnx").read_bytes(), part, name))
        for name in GRAPHS
        for part in ("front", "rear")
    }
    for part in ("front", "rear"):
        first, later = (interfaces[name, part] for name in GRAPHS)
        of_first, of_later = (
            {name.removesuffix("_next"): info for name, info in interface.outputs.items() if name != "frames"}
            for interface in (first, later)
        )
        assert of_first == of_later
        taken = {name: info for name, info in later.inputs.items() if name.startswith("state_")}
        assert taken == {name: info for name, info in of_later.items() if name.startswith("state_")}
    for name in GRAPHS:
        whole = interface_of((reel / f"{name}.onnx").read_bytes())
        front, rear = (interfaces[name, part] for part in ("front", "rear"))
        hidden = {value: info for value, info in front.outputs.items() if value.startswith("hidden_")}
        assert list(hidden) == [f"hidden_{at:02d}" for at in range(len(hidden))]
        assert hidden == {value: info for value, info in rear.inputs.items() if value.startswith("hidden_")}
        assert all(info.shape[3:] == ("height", "width") for info in hidden.values())
        assert not set(front.inputs) & set(rear.inputs)
        assert front.inputs | rear.inputs == whole.inputs | hidden
        assert front.outputs | rear.outputs == whole.outputs | hidden
        assert "frames" in rear.outputs
        assert "latent" in front.inputs


def test_weights_stay_where_they_are(reel):
    def places(content):
        return {
            tensor.name: [(entry.key, entry.value) for entry in tensor.external_data]
            for tensor in onnx.ModelProto.FromString(content).graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }

    for name in GRAPHS:
        content = (reel / f"{name}.onnx").read_bytes()
        front, rear = (places(cut_part(content, part, name)) for part in ("front", "rear"))
        assert front | rear == places(content)
        assert not set(front) & set(rear)


def _half_state(values):
    return {
        name: TensorInfo("float16", info.shape) if name.startswith("state_") else info for name, info in values.items()
    }


@pytest.mark.parametrize("target", ["tensorrt-10.3", "tensorrt-10.15", "tensorrt-rtx", "cuda"])
def test_parts_are_lowered_for_every_target(target):
    for name in GRAPHS:
        path = DEMO_REEL / f"{name}.onnx"
        for part in ("front", "rear"):
            model = lower_for_target(path, parse_target(target), "float16", part=part).model
            expected = interface_of(cut_part(path.read_bytes(), part, name))
            assert interface_of(model) == GraphSpecs(_half_state(expected.inputs), _half_state(expected.outputs))
            again = lower_for_target(path, parse_target(target), "float16", part=part)
            assert (again.source, again.model) == ("cache", model)


def test_parts_and_the_whole_are_kept_apart_in_the_cache():
    path = DEMO_REEL / "decoder_next.onnx"
    models = [lower_graph(path, "float", "1", part=part).model for part in (None, "front", "rear")]
    assert len(set(models)) == 3
    assert [lower_graph(path, "float", "1", part=part).source for part in (None, "front", "rear")] == 3 * ["cache"]
    for engine in ("cpu", "tensorrt"):
        rear = ENGINES[engine]().graph_to_run(path, EngineOptions(part="rear"))
        assert interface_of(rear).inputs.keys() == part_inputs(path, "rear").keys()


def model_of(nodes, inputs, outputs):
    values = [
        [onnx.helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    graph = onnx.helper.make_graph(nodes, "main", *values)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    return model.SerializeToString()


LATENT = {"latent": ["batch", 4, 1, "height", "width"]}
FRAMES = {"frames": ["batch", 4, 1, "height", "width"]}


def test_a_graph_without_attention_is_all_rear(tmp_path):
    content = model_of([make_node("Tanh", ["latent"], ["frames"])], LATENT, FRAMES)
    assert cut_part(content, "rear", "plain") == content
    with pytest.raises(EngineError, match="plain has no Attention, and so no front"):
        cut_part(content, "front", "plain")
    path = Path(tmp_path / "plain.onnx")
    path.write_bytes(content)
    assert part_inputs(path, "rear") == {"latent": ("batch", 4, 1, "height", "width")}
    with open_part(path, "rear") as session:
        assert list(session.specs.inputs) == ["latent"]
    with pytest.raises(EngineError, match=r"plain.onnx has no Attention"):
        open_part(path, "front")


def attending(*after):
    """Return a graph that attends over all pixels, and nodes after it that read `seen` and make `frames`."""
    shape = make_node("Shape", ["latent"], ["shape"])
    flat = make_node("Reshape", ["latent", "flat_shape"], ["flat"])
    shape_of_flat = make_node("Constant", [], ["flat_shape"], value_ints=[0, 4, -1])
    attention = make_node("Attention", ["flat", "flat", "flat"], ["mixed"], q_num_heads=1, kv_num_heads=1)
    back = make_node("Reshape", ["mixed", "shape"], ["seen"])
    return model_of([shape_of_flat, shape, flat, attention, back, *after], LATENT, FRAMES)


def test_sizes_of_the_rear_are_those_of_what_it_is_given(tmp_path):
    """A rear that reshapes to the latents' shape takes the shape of its own input in its place."""
    rear = [
        make_node("Tanh", ["seen"], ["bent"]),
        make_node("Constant", [], ["row"], value_ints=[-1]),
        make_node("Reshape", ["bent", "row"], ["line"]),
        make_node("Sin", ["line"], ["waves"]),
        make_node("Reshape", ["waves", "shape"], ["frames"]),
    ]
    path = tmp_path / "sizes.onnx"
    path.write_bytes(attending(*rear))
    with open_part(path, "rear") as session:
        (name,) = session.specs.inputs
        tile = np.random.default_rng().standard_normal((2, 4, 1, 3, 5)).astype(np.float32)
        found = run(session, {name: tile})["frames"]
    assert found.shape == tile.shape


def test_graphs_that_cannot_be_cut():
    twice = attending(make_node("Tanh", ["seen"], ["bent"]), make_node("Add", ["bent", "latent"], ["frames"]))
    with pytest.raises(EngineError, match="odd cannot be cut after its last Attention"):
        cut_part(twice, "rear", "odd")
    named = twice.replace(b"height", b"hei+ht")
    with pytest.raises(EngineError, match="has the extent 'hei\\+ht'"):
        cut_part(named, "rear", "odd")
    with pytest.raises(EngineError, match="not an ONNX model"):
        cut_part(b"nothing", "rear", "odd")


def test_without_lowering_or_onnx_there_are_no_parts(monkeypatch):
    path = DEMO_REEL / "decoder_next.onnx"
    for engine in ("cpu", "cuda", "rtx", "tensorrt"):
        with pytest.raises(EngineError, match="the rear of a graph runs lowered only"):
            ENGINES[engine]().graph_to_run(path, EngineOptions(part="rear", lower=False))
    with pytest.raises(EngineError, match="the front of a graph runs lowered only"):
        open_part(path, "front", lower=False)
    import sys

    for name in [name for name in sys.modules if name.startswith(("edgereel.engines.graphs.cut", "onnx"))]:
        if name.split(".")[0] == "onnx" or name.endswith("cut"):
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r'needs onnx, which is not installed: pip install "edgereel\[cpu\]"'):
        open_part(path, "rear")
