"""Entries of the cache that are no good, in whatever way: each is made again, once, with a line, and nothing waits for it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import sys

import numpy as np
import pytest
from conftest import DEMO_REEL

onnx = pytest.importorskip("onnx")

from helpers.fake_builder import key_of  # noqa: E402

from edgereel.core import paths  # noqa: E402
from edgereel.core.errors import EngineError, OutOfMemory  # noqa: E402
from edgereel.engines import EngineOptions, Tensor, get_engine  # noqa: E402
from edgereel.engines.cache import store  # noqa: E402
from edgereel.engines.cache.engines import EngineCache  # noqa: E402
from edgereel.engines.costs import figures, graph_costs  # noqa: E402
from edgereel.engines.lowering.lower import lower_graph  # noqa: E402

pytestmark = pytest.mark.lean

GRAPH = DEMO_REEL / "text_encoder.onnx"
POSIX = pytest.mark.skipif(os.name == "nt", reason="files of POSIX")


def lowered():
    return lower_graph(GRAPH, "float", "1")


def entries(folder="lowered"):
    return sorted((paths.cache_folder() / folder).iterdir())


def rewritten(entry, body, **facts):
    """Write an entry whose hash is that of its body."""
    head = json.loads(entry.read_bytes().split(b"\n", 1)[0])
    store.write_entry(entry.parent.name, entry.name, {"rewrites": head.get("rewrites"), **facts}, body)


def body_of(entry):
    return entry.read_bytes().split(b"\n", 1)[1]


def with_node(content, node):
    model = onnx.ModelProto.FromString(content)
    model.graph.node.append(node)
    return model.SerializeToString()


def loop():
    empty = onnx.helper.make_graph([], "body", [], [])
    return onnx.helper.make_node("Loop", ["trips", "go"], [], body=empty)


def fifo(entry):
    entry.unlink()
    os.mkfifo(entry)


def device(entry):
    entry.unlink()
    entry.symlink_to("/dev/zero")


def link(entry):
    other = entry.with_name("other")
    entry.rename(other)
    entry.symlink_to(other)


def huge(entry):
    with entry.open("r+b") as file:
        file.truncate(store.LARGEST + 1)


@POSIX
@pytest.mark.parametrize("spoil", [fifo, device, link, huge])
def test_what_is_no_plain_file_is_not_read(spoil, caplog):
    model = lowered().model
    (entry,) = entries()
    spoil(entry)
    with caplog.at_level(logging.WARNING):
        again = lowered()
    assert (again.source, again.model) == ("built", model)
    assert len(caplog.records) == 1
    assert f"lowered/{entry.name[:12]} in the cache cannot be used and is made again" in caplog.text
    assert stat.S_ISREG(entry.lstat().st_mode)
    assert lowered().source == "cache"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: with_node(content, loop()),
        lambda content: with_node(content, onnx.helper.make_node("Mine", [], [], domain="of.mine")),
    ],
    ids=["half", "none", "loop", "domain"],
)
def test_a_graph_with_the_right_hash_that_is_none_of_ours(spoil, caplog):
    model = lowered().model
    (entry,) = entries()
    rewritten(entry, spoil(model))
    again = lowered()
    assert (again.source, again.model) == ("built", model)
    assert len(caplog.records) == 1
    assert body_of(entry) == model
    assert lowered().source == "cache"


def test_a_graph_with_the_right_hash_that_does_not_open(caplog):
    """It is of operators of ours, and no model: only opening it tells."""
    options = EngineOptions(threads=1)
    with get_engine("cpu").open(GRAPH, options) as session:
        assert session.report.lowered == "built"
    (entry,) = entries()
    model = body_of(entry)
    rewritten(entry, with_node(model, onnx.helper.make_node("Add", ["nothing"], ["made"])))
    for source in ("built", "cache"):
        with get_engine("cpu").open(GRAPH, options) as session:
            assert session.report.lowered == source
            ids = np.ones((1, 4), np.int64)
            given = {name: Tensor.from_numpy(ids) for name in session.specs.inputs}
            assert np.isfinite(session.run(given)["prompt_embeds"].numpy()).all()
    assert body_of(entry) == model
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["text_encoder.onnx is lowered again"]


def test_a_graph_that_never_opens_is_lowered_again_without_a_word(tmp_path, caplog):
    """The entry is what lowering gives: it is not at fault."""
    path = tmp_path / "a.onnx"
    model = onnx.ModelProto.FromString(GRAPH.read_bytes())
    model.graph.node[0].input[0] = "nothing that is made"
    path.write_bytes(model.SerializeToString())
    for _ in range(2):
        with pytest.raises(EngineError, match=r"cannot open a\.onnx with ONNX Runtime"):
            get_engine("cpu").open(path, EngineOptions(threads=1))
    assert caplog.records == []


def small(tmp_path):
    """Return a graph that is counted at once."""
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "number", [b"1" + b"0" * 400, b"1" + b"0" * 5000, b"1e999", b"NaN", b"-1", str(2**62 + 1).encode()], ids=len
)
def test_costs_that_no_graph_has(tmp_path, number, caplog):
    graph = small(tmp_path)
    first = graph_costs(graph, {"x": (2,)})
    (entry,) = entries("costs")
    rewritten(entry, body_of(entry).replace(b'"weight_bytes": 0', b'"weight_bytes": ' + number))
    assert graph_costs(graph, {"x": (2,)}) == first
    assert len(caplog.records) == 1
    assert figures.from_json(body_of(entry)) == first


@POSIX
def test_costs_from_a_device_take_no_memory(tmp_path, caplog):
    graph = small(tmp_path)
    first = graph_costs(graph, {"x": (2,)})
    (entry,) = entries("costs")
    device(entry)
    assert graph_costs(graph, {"x": (2,)}) == first
    assert "it is not a regular file" in caplog.text or "symbolic links" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_folder_that_all_may_write_into_is_not_read(caplog):
    """What lies there could be anybody's, and it is run."""
    lowered()
    folder = paths.cache_folder() / "lowered"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert lowered().source == "built"
    assert "all users may write in" in caplog.text
    folder.chmod(0o700)
    assert lowered().source == "cache"


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    lowered()
    folder = paths.cache_folder() / "lowered"
    from edgereel.core.files import temporary_beside

    name = temporary_beside(folder / "x").name.split("-")
    left = folder / "-".join([*name[:2], "999999999", name[3]])
    left.write_bytes(b"half")
    lower_graph(GRAPH, "float", "2")
    assert not left.exists()
    assert len(entries()) == 2


def build(content):
    return lambda path: path.write_bytes(content)


def test_a_built_engine_that_cannot_be_used_is_built_again(tmp_path):
    """Its bytes are those that were built, and the library that made them refuses them."""
    cache, lines, used = EngineCache(tmp_path), [], []

    def use(found):
        used.append(found.data[:])
        if used[-1] == b"old":
            raise EngineError("it is of another version")
        return "opened"

    cache.get_or_build(key_of("a"), build(b"old")).close()
    found, opened = cache.get_or_build_usable(key_of("a"), build(b"new"), use, lines.append)
    assert (found.source, opened, used) == ("built", "opened", [b"old", b"new"])
    assert len(lines) == 1
    assert "cannot be used: it is of another version" in lines[0]
    assert cache.get_or_build_usable(key_of("a"), build(b"never"), use, lines.append)[0].source == "cache"
    assert len(lines) == 1


@pytest.mark.parametrize("error", [OutOfMemory("no room"), KeyError("a fault of ours")])
def test_an_engine_is_not_built_again_for_what_it_is_not_at_fault_for(tmp_path, error):
    cache = EngineCache(tmp_path)
    cache.get_or_build(key_of("a"), build(b"old")).close()

    def use(found):
        raise error

    with pytest.raises(type(error)):
        cache.get_or_build_usable(key_of("a"), lambda path: pytest.fail("it was built"), use, print)


def test_an_engine_that_was_just_built_and_is_no_good_is_an_error(tmp_path):
    built = []

    def use(found):
        raise EngineError("no good")

    with pytest.raises(EngineError, match="no good"):
        EngineCache(tmp_path).get_or_build_usable(
            key_of("a"), lambda path: built.append(path.write_bytes(b"x")), use, print
        )
    assert len(built) == 1


def test_entries_are_told_by_name_and_content(tmp_path):
    lowered()
    (entry,) = entries()
    assert store.is_entry(entry)
    mine = tmp_path / entry.name
    mine.write_bytes(b"a file of another program")
    assert not store.is_entry(mine)
    shutil.copy(entry, tmp_path / "notes")
    assert not store.is_entry(tmp_path / "notes")
    mine.unlink()
    mine.symlink_to(entry)
    assert not store.is_entry(mine)
