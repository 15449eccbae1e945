"""Graphs name the files their weights are in: every such reference is found, and only declared ones are allowed."""

from __future__ import annotations

import onnx
import pytest
from helpers.small_bundle import GRAPHS, external_tensor, graph, refused, replace_file, write_small_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper

from edgereel.bundle.external_data import ExternalData, external_data_of
from edgereel.core.errors import BundleError

pytestmark = pytest.mark.lean

DENOISER = GRAPHS["denoiser"]


@pytest.fixture
def reel(tmp_path):
    return write_small_bundle(tmp_path / "small.reel")


@pytest.mark.parametrize(
    "location",
    [
        "../outside.data",
        "/etc/passwd",
        "decoder.data",
        "sub/../denoiser.data",
        "./denoiser.data",
        "denoiser.data ",
        "reel.json",
        "",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_external_data_elsewhere(reel, location):
    replace_file(reel, "denoiser.onnx", graph(location, *DENOISER[1:]).SerializeToString())
    assert f"refers to data in {location!r}" in refused(reel)


@pytest.mark.parametrize(("offset", "length"), [(512, 1), (0, 513), (500, 64), (2**62, 2**62), (2**63, 0)])
def test_external_data_beyond_the_file(reel, offset, length):
    replace_file(reel, "denoiser.onnx", graph(*DENOISER, offset, length).SerializeToString())
    assert "denoiser.data, which has 512" in refused(reel)


@pytest.mark.parametrize("number", ["-1", "+1", " 1", "1_0", "١", "0x10", "1e3", "", "9" * 5000])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_external_data_with_numbers_read_differently_elsewhere(reel, number, key):
    model = graph(*DENOISER)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == key).value = number
    replace_file(reel, "denoiser.onnx", model.SerializeToString())
    assert "is not an offset or length" in refused(reel)


def test_external_data_of_unsaid_length(reel):
    replace_file(reel, "denoiser.onnx", graph(*DENOISER, length=None).SerializeToString())
    assert "is not an offset or length" in refused(reel)


def test_external_data_given_twice(reel):
    model = graph(*DENOISER)
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    replace_file(reel, "denoiser.onnx", model.SerializeToString())
    assert "gives its location twice" in refused(reel)


def evil(kind):
    """Return a model that hides a reference to /etc/passwd in a place of this kind."""
    tensor = external_tensor("/etc/passwd")
    constant = helper.make_node("Constant", [], ["x"], value=tensor)
    body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
    model = graph(*DENOISER)
    if kind == "attribute":
        model.graph.node.append(constant)
    elif kind == "attribute of several tensors":
        attribute = model.graph.node[0].attribute.add(name="values", type=onnx.AttributeProto.TENSORS)
        attribute.tensors.append(tensor)
    elif kind == "branch of an If in a branch of an If":
        inner = helper.make_node("If", ["c"], ["x"], then_branch=body, else_branch=body)
        outer = helper.make_graph([inner], "outer", [], body.output)
        model.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=outer, else_branch=outer))
    elif kind == "initializer of a subgraph":
        body.ClearField("node")
        body.initializer.append(tensor)
        model.graph.node.append(helper.make_node("Loop", ["n", "c"], ["x"], body=body))
    elif kind == "function":
        opset = [helper.make_opsetid("", 23)]
        model.functions.append(helper.make_function("own", "F", [], ["x"], [constant], opset))
    elif kind == "default attribute of a function":
        function = helper.make_function("own", "F", [], ["x"], [], [helper.make_opsetid("", 23)])
        function.attribute_proto.append(helper.make_attribute("value", tensor))
        model.functions.append(function)
    elif kind == "sparse initializer":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif kind == "indices of a sparse attribute":
        attribute = model.graph.node[0].attribute.add(name="sparse", type=onnx.AttributeProto.SPARSE_TENSOR)
        attribute.sparse_tensor.indices.CopyFrom(tensor)
    elif kind == "training graph":
        model.training_info.add().algorithm.CopyFrom(body)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "kind",
    [
        "attribute",
        "attribute of several tensors",
        "branch of an If in a branch of an If",
        "initializer of a subgraph",
        "function",
        "default attribute of a function",
        "sparse initializer",
        "indices of a sparse attribute",
        "training graph",
    ],
)
def test_external_data_hidden_anywhere(reel, kind):
    replace_file(reel, "denoiser.onnx", evil(kind))
    assert "refers to data in '/etc/passwd'" in refused(reel)


def field(number, content, key_size=1):
    """Return the bytes of a protobuf field; key_size: how many bytes its key takes, with bits above 32 set if 5."""
    key = number << 3 | 2
    head = bytes([key | 0x80, 0x80, 0x80, 0x80, 0x10]) if key_size == 5 else varint(key)
    return head + varint(len(content)) + content


def varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def test_external_data_in_a_field_whose_number_others_cut_to_32_bits(reel):
    """Some parsers drop the bits of a field's key above 32, and would find an initializer where others see nothing."""
    hidden = field(7, field(5, external_tensor("/etc/passwd").SerializeToString(), key_size=5))
    replace_file(reel, "denoiser.onnx", graph(*DENOISER).SerializeToString() + hidden)
    assert "field number is out of range" in refused(reel)


def test_a_message_written_in_two_parts_is_checked_in_both(reel):
    """Protobuf merges a field that stands there twice: here a second graph adds an initializer to the first."""
    hidden = field(7, field(5, external_tensor("/etc/passwd").SerializeToString()))
    content = graph(*DENOISER).SerializeToString() + hidden
    assert len(onnx.ModelProto.FromString(content).graph.initializer) == 2
    replace_file(reel, "denoiser.onnx", content)
    assert "refers to data in '/etc/passwd'" in refused(reel)


def nested(depth):
    body = b""
    for _ in range(depth):
        body = field(1, field(5, field(6, body)))
    return field(7, body)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\xff" * 40,
        b"not protobuf at all",
        nested(100),
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x0b\x0c",
        b"\x02\x00",
    ],
    ids=["empty", "zero", "ones", "text", "deep", "too long", "groups", "field 0"],
)
def test_garbage_in_the_place_of_a_graph(reel, content):
    replace_file(reel, "denoiser.onnx", content)
    assert "denoiser.onnx" in refused(reel)


@settings(max_examples=300)
@given(content=st.binary(min_size=1, max_size=200))
def test_random_bytes_give_references_or_a_bundle_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(content)
    assert all(isinstance(reference, ExternalData) for reference in references_or_none(path))


@settings(max_examples=300)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_graphs_give_references_or_a_bundle_error(tmp_path_factory, place, byte, cut):
    content = bytearray(EVIL)
    place %= len(content)
    content[place] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content[: place + 1] if cut else content)
    assert all(isinstance(reference, ExternalData) for reference in references_or_none(path))


def references_or_none(path):
    """Return the references; where the file is refused, none. Any other error goes through and fails the test."""
    try:
        return external_data_of(path)
    except BundleError:
        return []


EVIL = evil("branch of an If in a branch of an If")


tensors = st.builds(
    external_tensor,
    location=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    offset=st.none() | st.integers(0, 2**40),
    length=st.integers(0, 2**40),
) | st.builds(
    lambda values: helper.make_tensor("inside", TensorProto.FLOAT, [len(values)], values), st.lists(st.just(1))
)


def body_of(initializers, constants, branches):
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor) for tensor in constants]
    nodes += [helper.make_node("If", ["b"], ["y"], then_branch=branch, else_branch=branch) for branch in branches]
    return helper.make_graph(nodes, "graph", [], [], initializers)


few = st.lists(tensors, max_size=3)


graphs = st.recursive(
    st.builds(body_of, few, few, st.just([])),
    lambda inner: st.builds(body_of, few, few, st.lists(inner, max_size=2)),
    max_leaves=4,
)


@settings(max_examples=100)
@given(body=graphs)
def test_references_are_those_the_onnx_package_sees(tmp_path_factory, body):
    model = helper.make_model(body)
    path = tmp_path_factory.getbasetemp() / "valid.onnx"
    path.write_bytes(model.SerializeToString())
    expected = [
        (info.location, info.offset or 0, info.length)
        for tensor in external_data_helper._get_all_tensors(model)
        if external_data_helper.uses_external_data(tensor)
        for info in [external_data_helper.ExternalDataInfo(tensor)]
    ]
    found = [(reference.location, reference.offset, reference.length) for reference in external_data_of(path)]
    assert sorted(found) == sorted((location, offset, length or 0) for location, offset, length in expected)
