"""What a graph may be made of: no operator holds other graphs, and none is of a domain that is not known."""

from __future__ import annotations

import pytest
from conftest import DEMO_REEL
from hypothesis import given
from hypothesis import strategies as some

onnx = pytest.importorskip("onnx")

from edgereel.core.errors import EngineError  # noqa: E402
from edgereel.engines import EngineOptions, get_engine  # noqa: E402
from edgereel.engines.costs import graph_costs  # noqa: E402
from edgereel.engines.graphs import operators  # noqa: E402
from edgereel.engines.graphs.operators import check_operators, declared_names  # noqa: E402
from edgereel.engines.graphs.parts import canonical_part  # noqa: E402

pytestmark = pytest.mark.lean

make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
GRAPHS = sorted(DEMO_REEL.glob("*.onnx"))


def model_of(*nodes, functions=()):
    graph = onnx.helper.make_graph(list(nodes), "main", [value("x", FLOAT, [2])], [value("y", FLOAT, [2])])
    graph.initializer.extend(
        [onnx.helper.make_tensor("trips", INT64, [], [2**62]), onnx.helper.make_tensor("go", BOOL, [], [True])]
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("f", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def body():
    """Return the graph of a Loop that does nothing."""
    ends = [value("c2", BOOL, []), value("x2", FLOAT, None)]
    nodes = [make("Identity", ["c"], ["c2"]), make("Identity", ["x1"], ["x2"])]
    return onnx.helper.make_graph(
        nodes, "body", [value("n", INT64, []), value("c", BOOL, []), value("x1", FLOAT, None)], ends
    )


def branch():
    return onnx.helper.make_graph([make("Neg", ["x"], ["z"])], "branch", [], [value("z", FLOAT, [2])])


def twice(name, of):
    """Return a function that calls another one two times, so that a few of them are billions of nodes."""
    nodes = [make(of, ["a"], ["c"], domain="f"), make(of, ["c"], ["b"], domain="f")]
    return onnx.helper.make_function("f", name, ["a"], ["b"], nodes, [onnx.helper.make_opsetid("f", 1)])


HOSTILE = {
    "Loop": (model_of(make("Loop", ["trips", "go", "x"], ["y"], body=body())), "a graph within a node|Loop"),
    "If": (model_of(make("If", ["go"], ["y"], then_branch=branch(), else_branch=branch())), "a graph within a node|If"),
    "Scan": (model_of(make("Scan", ["x"], ["y"], body=branch(), num_scan_inputs=1)), "a graph within a node|Scan"),
    "in another": (model_of(make("Neg", ["x"], ["y"], hidden=branch())), "a graph within a node"),
    "function": (model_of(make("F1", ["x"], ["y"], domain="f"), functions=[twice("F1", "F0")]), "a function|f.F1"),
    "domain": (model_of(make("Neg", ["x"], ["y"], domain="of.mine")), r"of\.mine\.Neg"),
    "contributed": (model_of(make("Unheard", ["x"], ["y"], domain="com.microsoft")), r"com\.microsoft\.Unheard"),
    "sequence": (model_of(make("SequenceConstruct", ["x"], ["y"])), "SequenceConstruct"),
    "escape": (model_of(make("\x1b[31mred", ["x"], ["y"])), r"\\x1b\[31mred"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_graph_of_ours_has_is_refused_wherever_one_is_read(tmp_path, name):
    model, named = HOSTILE[name]
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    expected = rf"cannot open a\.onnx: it has ({named}), which is none of the operators"
    for use in (
        lambda: check_operators(path.read_bytes(), path.name),
        lambda: get_engine("cpu").open(path, EngineOptions(threads=1)),
        lambda: get_engine("cpu").open(path, EngineOptions(threads=1, lower=False)),
        lambda: graph_costs(path, {"x": (2,)}),
        lambda: canonical_part(path, "rear"),
    ):
        with pytest.raises(EngineError, match=expected) as raised:
            use()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_the_demo_s_graphs_are_allowed(path):
    content = path.read_bytes()
    check_operators(content, path.name)
    graph = onnx.ModelProto.FromString(content).graph
    ends = [*graph.input, *graph.output]
    assert declared_names(content) == {end.name for end in ends}


def test_every_operator_that_is_allowed_is_known_and_holds_no_graph():
    """A name that is mistyped would allow nothing."""
    for name in operators._STANDARD:
        schema = onnx.defs.get_schema(name, domain="")
        kinds = {attribute.type.name for attribute in schema.attributes.values()}
        assert not kinds & {"GRAPH", "GRAPHS"}, name


@given(some.binary(max_size=200))
def test_any_bytes_are_a_model_or_an_error_of_one_line(content):
    try:
        check_operators(content, "a.onnx")
    except EngineError as error:
        said = str(error)
    else:
        said = "a.onnx is a model"
    assert "a.onnx" in said
    assert "\n" not in said


@given(some.data())
def test_nodes_are_those_that_the_onnx_package_sees(data):
    content = GRAPHS[0].read_bytes()
    cut = data.draw(some.integers(0, len(content)))
    try:
        model = onnx.ModelProto.FromString(content[:cut])
    except Exception:
        with pytest.raises(EngineError, match=r"not an ONNX model"):
            check_operators(content[:cut], "a.onnx")
    else:
        assert list(operators._operators(content[:cut])) == [(node.domain, node.op_type) for node in model.graph.node]
