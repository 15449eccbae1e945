"""The cache of lowered graphs: found again, rebuilt where damaged, never in the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL

pytest.importorskip("onnx")

from edgereel.core import paths
from edgereel.core.errors import EngineError
from edgereel.engines import EngineOptions, Tensor, get_engine
from edgereel.engines.cache import store
from edgereel.engines.lowering import lower
from edgereel.engines.lowering.lower import lower_graph

pytestmark = pytest.mark.lean

GRAPH = DEMO_REEL / "decoder_first.onnx"
OPEN_IN_A_PROCESS = """
import json, sys
from pathlib import Path
from edgereel.engines import EngineOptions, get_engine
if sys.argv[2:]:
    sys.modules[sys.argv[2]] = None
report = get_engine("cpu").open(Path(sys.argv[1]), EngineOptions(threads=1)).report
print(json.dumps([report.lowered, report.rewrites, bool(sys.modules.get("onnx"))]))
"""


def open_in_a_process(*arguments):
    command = [sys.executable, "-c", OPEN_IN_A_PROCESS, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)


def entries():
    return sorted((paths.cache_folder() / "lowered").iterdir())


def lowered(path=GRAPH, activations="float", version="1"):
    return lower_graph(path, activations, version)


def test_a_warm_cache_needs_no_onnx():
    assert open_in_a_process(GRAPH) == ["built", {"attention": 1, "norms": 18}, True]
    assert open_in_a_process(GRAPH) == ["cache", {"attention": 1, "norms": 18}, False]
    assert open_in_a_process(GRAPH, "onnx") == ["cache", {"attention": 1, "norms": 18}, False]


def test_without_onnx_the_canonical_graph_runs_and_the_report_says_so():
    assert open_in_a_process(GRAPH, "onnx") == ["onnx is not installed", {}, False]


def test_the_key_is_the_content_and_all_that_lowering_depends_on(tmp_path, monkeypatch):
    first = lowered()
    assert first.source == "built"
    moved = Path(shutil.copy(GRAPH, tmp_path / "moved.onnx"))
    assert lowered(moved).source == "cache"
    assert lowered(moved).model == first.model
    assert lowered(activations="dynamic").source == "built"
    assert lowered(version="2").source == "built"
    monkeypatch.setattr(lower, "VERSION", lower.VERSION + 1)
    assert lowered().source == "built"
    moved.write_bytes(GRAPH.read_bytes() + b"\x52\x00")  # one more field of the model, empty
    assert lowered(moved).source == "built"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content.split(b"\n", 1)[0],
        lambda content: content[:-9] + b"\0" + content[-8:],
        lambda content: b"[]\n" + content.split(b"\n", 1)[1],
        lambda content: content.replace(b'"rewrites": {', b'"rewrites": 3, "x": {', 1),
    ],
)
def test_a_damaged_entry_is_built_again(damage):
    model = lowered().model
    (entry,) = entries()
    entry.write_bytes(damage(entry.read_bytes()))
    again = lowered()
    assert (again.source, again.model) == ("built", model)
    assert lowered().source == "cache"


def test_a_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("EDGEREEL_CACHE", str(blocked))
    assert [lowered().source, lowered().source] == ["built", "built"]


def test_two_at_once_leave_one_whole_entry():
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: open_in_a_process(GRAPH), range(4)))
    assert {source for source, *_ in found} <= {"built", "cache"}
    (entry,) = entries()
    assert store.read_entry("lowered", entry.name, lambda facts, body: body) is not None


def test_weights_are_read_where_the_bundle_has_them(tmp_path):
    """Nothing of the data file is in the cache, and a graph of the same bytes uses the data beside it."""
    shutil.copy(GRAPH, tmp_path)
    data = (DEMO_REEL / "decoder.data").read_bytes()
    (tmp_path / "decoder.data").write_bytes(bytes(len(data)))
    pictures = []
    for path in (GRAPH, tmp_path / GRAPH.name):
        with get_engine("cpu").open(path, EngineOptions(threads=1)) as session:
            latent = np.ones((1, session.specs.inputs["latent"].shape[1], 1, 4, 4), np.float32)
            pictures.append(session.run({"latent": Tensor.from_numpy(latent)})["frames"].numpy())
            assert session.report.lowered == ("built" if path is GRAPH else "cache")
    assert not np.array_equal(*pictures)
    assert entries()[0].stat().st_size < 2 * GRAPH.stat().st_size < len(data)


@pytest.mark.parametrize("content", [b"not a graph", None], ids=["damaged", "missing"])
def test_graphs_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot open a\.onnx"):
        get_engine("cpu").open(path, EngineOptions())
