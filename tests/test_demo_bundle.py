"""The shipped bundle is the shipped checkpoint's export, and it does what it is shipped for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgereel
from edgereel.demo.clips import Subject
from edgereel.demo.evaluate import generate_clips
from edgereel.demo.scorer import score
from edgereel.export import export_checkpoint

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "demo" / "checkpoint"
REEL = ROOT / "demo" / "demo.reel"
# What differs where other versions or another processor exported it: not the model.
OF_THE_EXPORT = ("parity", "written_by", "digest")


def _manifest(reel: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((reel / "reel.json").read_text())
    return data


def test_the_bundle_is_the_checkpoints_export(tmp_path: Path) -> None:
    export_checkpoint(CHECKPOINT, tmp_path / "again.reel")
    shipped, again = _manifest(REEL), _manifest(tmp_path / "again.reel")
    for data in (shipped, again):
        for key in OF_THE_EXPORT:
            del data[key]
    names = set(shipped["files"])
    assert names == set(again["files"])
    for name in names - {"MODEL_CARD.md"}:  # the card states parity too
        assert shipped["files"][name]["size"] == again["files"][name]["size"], name
    del shipped["files"], again["files"]
    assert again == shipped
    for graph in sorted(name for name in names if name.endswith(".onnx")):
        _assert_same_graph(onnx.load(REEL / graph), onnx.load(tmp_path / "again.reel" / graph))


def _assert_same_graph(one: onnx.ModelProto, two: onnx.ModelProto) -> None:
    """Compare operators and weights; a constant may differ in its last digit, where another processor computed it."""
    assert [(node.op_type, node.input, node.output) for node in one.graph.node] == [
        (node.op_type, node.input, node.output) for node in two.graph.node
    ]
    for left, right in zip(one.graph.initializer, two.graph.initializer, strict=True):
        assert (left.name, left.data_type) == (right.name, right.data_type)
        arrays = (onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in (left, right))
        np.testing.assert_allclose(*arrays, rtol=1e-6, atol=1e-7, err_msg=left.name)


def test_weights_are_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*.safetensors")) < 24e6


def test_generated_clips_show_their_held_out_captions() -> None:
    with edgereel.load() as reel:
        found = score(generate_clips(reel, 24, steps=12))
    assert found["colour"] >= 0.85
    assert found["scene"] >= 0.85
    assert found["motion"] >= 0.75
    assert found["shape"] >= 0.6


@pytest.mark.full
def test_all_scores_of_the_readme() -> None:
    with edgereel.load() as reel:
        found = score(generate_clips(reel, 230))
    assert min(found["colour"], found["scene"]) >= 0.95
    assert found["motion"] >= 0.90
    assert found["shape"] >= 0.85


def test_seeds_differ_and_repeat() -> None:
    with edgereel.load() as reel:
        one, again, other = (
            np.stack(list(reel.generate("a red ball rises in the snow", seed=seed, steps=4))) for seed in (1, 1, 2)
        )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_subjects_of_the_readme_example_exist() -> None:
    assert "a red ball bounces over the ocean" in Subject("ball", "red", "bounces", "ocean").captions()
