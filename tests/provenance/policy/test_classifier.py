"""Frames judged by a graph that a policy names: what is refused, how often it is looked, and that nothing is written then."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import pytest

from edgereel.core.errors import UsageError
from edgereel.provenance.policy.classifier import ClipRefused
from edgereel.provenance.policy.screen import Policy
from edgereel.runtime.video.output import Output

onnx = pytest.importorskip("onnx")


def write_graph(path, planes_first=True, change=None, side=8):
    """Write a classifier of two labels, how little and how much red a picture has: [1 - red, red], each the mean."""
    shape = [1, 3, side, side] if planes_first else [1, side, side, 3]
    helper, tensor = onnx.helper, onnx.TensorProto
    axes = helper.make_tensor("axes", tensor.INT64, [2], [2, 3] if planes_first else [1, 2])
    weights = helper.make_tensor("weights", tensor.FLOAT, [3, 2], [-1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    shift = helper.make_tensor("shift", tensor.FLOAT, [2], [1.0, 0.0])
    nodes = [
        helper.make_node("ReduceMean", ["picture", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["product"]),
        helper.make_node(*(change or ("Add", ["product", "shift"])), ["values"]),
    ]
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("picture", tensor.FLOAT, shape)],
        [helper.make_tensor_value_info("values", tensor.FLOAT, [1, 2])],
        [axes, weights, shift],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def policy(tmp_path):
    def write(digest, more="", refuse="red = 0.6"):
        path = tmp_path / "policy.toml"
        path.write_text(
            f'name = "mine"\n[frames]\nclassifier = "red.onnx"\nsha256 = "{digest}"\n'
            f'labels = ["other", "red"]\nrefuse = {{ {refuse} }}\n{more}\n'
        )
        return Policy.read(path)

    return write


def clip(red, count=20, size=(48, 64)):
    """Return frames of which those whose numbers are in `red` are red, the others blue."""
    frames = np.zeros((count, *size, 3), np.uint8)
    frames[..., 2] = 255
    for index in red:
        frames[index] = (255, 0, 0)
    return frames


def write(path, frames, classifier):
    return Output.check(path).at(8).judged(classifier).write(iter(frames), {}).frames


@pytest.mark.parametrize("planes_first", [True, False])
def test_a_refused_frame_leaves_nothing(planes_first, policy, tmp_path, caplog):
    classifier = policy(write_graph(tmp_path / "red.onnx", planes_first), "every = 4").open_classifier()
    path = tmp_path / "clip.mp4"
    assert write(path, clip([]), classifier) == 20
    before = path.read_bytes()
    caplog.set_level(logging.INFO, logger="edgereel.policy")
    with pytest.raises(ClipRefused, match=r"'mine' does not let this clip be written: what frame 8 shows .*red\)"):
        write(path, clip([8]), classifier)
    assert caplog.messages == ["policy mine: refuse, category red, frame 8"]
    assert path.read_bytes() == before
    assert not [each for each in tmp_path.iterdir() if "part" in each.name]


def test_every_nth_frame_and_the_last_are_looked_at(policy, tmp_path):
    classifier = policy(write_graph(tmp_path / "red.onnx"), "every = 6").open_classifier()
    for refused in (0, 6, 12, 18, 19):
        with pytest.raises(ClipRefused, match=f"frame {refused} "):
            write(tmp_path / "clip.gif", clip([refused]), classifier)
    assert write(tmp_path / "clip.gif", clip([1, 5, 7, 17]), classifier) == 20


def test_softmax_and_colours(policy, tmp_path):
    digest = write_graph(tmp_path / "red.onnx")
    frame = clip([0], 1)[0]
    for more, limit in (("softmax = true", 1 / (1 + np.exp(-1))), ("mean = [0.5, 0, 0]\nstd = [2, 1, 1]", 0.25)):
        policy(digest, more, f"red = {limit + 0.01}").open_classifier().check(frame, 0)
        with pytest.raises(ClipRefused, match="red"):
            policy(digest, more, f"red = {limit - 0.01}").open_classifier().check(frame, 0)


@pytest.mark.parametrize("change", [("Div", ["product", "product"]), ("Concat", ["product", "product"])])
def test_what_cannot_be_judged_is_refused(change, policy, tmp_path, caplog):
    """Values that are not numbers, and too many of them."""
    if change[0] == "Concat":
        digest = write_graph(tmp_path / "red.onnx", side=9)
        data = onnx.load(tmp_path / "red.onnx")
        del data.graph.node[2:]
        data.graph.node.append(onnx.helper.make_node("Concat", ["product", "product"], ["values"], axis=1))
        data.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
        (tmp_path / "red.onnx").write_bytes(data.SerializeToString())
        digest = hashlib.sha256((tmp_path / "red.onnx").read_bytes()).hexdigest()
    else:
        digest = write_graph(tmp_path / "red.onnx", change=change)
    classifier = policy(digest).open_classifier()
    caplog.set_level(logging.INFO, logger="edgereel.policy")
    with pytest.raises(ClipRefused, match="frame 0 could not be judged"):
        write(tmp_path / "clip.mp4", clip([]) * 0, classifier)
    assert caplog.messages == ["policy mine: refuse, category unjudged, frame 0"]
    assert not (tmp_path / "clip.mp4").exists()


def test_a_classifier_that_is_not_the_one_is_refused_before_any_work(policy, tmp_path):
    digest = write_graph(tmp_path / "red.onnx")
    with pytest.raises(UsageError, match="is another file than the one that is named"):
        policy("0" * 64).open_classifier()
    (tmp_path / "red.onnx").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        policy(digest).open_classifier()
    (tmp_path / "red.onnx").write_bytes(b"no graph")
    with pytest.raises(UsageError, match="cannot be opened"):
        policy(hashlib.sha256(b"no graph").hexdigest()).open_classifier()
    with pytest.raises(UsageError, match="more than 1024 a side"):
        policy(write_graph(tmp_path / "red.onnx", side=2000)).open_classifier()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classifier = 3", "classifier is the path"),
        ("classifier = 'a'\nsha256 = 'b'", "sha256 is that of"),
        ("classifier = 'a'\nsha256 = '{0}'\nlabels = ['x', 'x']", "labels are the names"),
        ("classifier = 'a'\nsha256 = '{0}'\nlabels = ['x']\nrefuse = {{ y = 1 }}", "refuse says from what value"),
        ("classifier = 'a'\nsha256 = '{0}'\nlabels = ['x']\nrefuse = {{ x = 2 }}", "refuse.x is a number from 0 to 1"),
        (
            "classifier = 'a'\nsha256 = '{0}'\nlabels = ['x']\nrefuse = {{ x = 1 }}\nevery = 0",
            "every is a whole number",
        ),
        ("classifier = 'a'\nsha256 = '{0}'\nlabels = ['x']\nrefuse = {{ x = 1 }}\nstd = [1, 0, 1]", "std is not 0"),
        ("often = 3", "unknown key 'often'"),
    ],
)
def test_mistakes_in_the_table_are_named(text, said, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("[frames]\n" + text.format("0" * 64))
    with pytest.raises(UsageError, match=said):
        Policy.read(path)
