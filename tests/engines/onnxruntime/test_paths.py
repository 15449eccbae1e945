"""Bundles in folders whose names are not text, as old disks and zip files have them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL

pytest.importorskip("onnx")

from edgereel.core.errors import EngineError
from edgereel.engines import EngineOptions, Tensor, get_engine
from edgereel.engines.onnxruntime import common

pytestmark = [
    pytest.mark.lean,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems' names of files are text"),
]


@pytest.fixture
def latin(tmp_path):
    """Return a graph and its weights in a folder named by a byte that is no UTF-8."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    for name in ("text_encoder.onnx", "text_encoder.data"):
        shutil.copy(DEMO_REEL / name, folder)
    return folder / "text_encoder.onnx"


def embeds(path, **options):
    with get_engine("cpu").open(path, EngineOptions(threads=1, **options)) as session:
        given = {name: Tensor.from_numpy(np.ones((1, 4), np.int64)) for name in session.specs.inputs}
        return session.run(given)["prompt_embeds"].numpy()


@pytest.mark.parametrize("options", [{}, {"lower": False}, {"weight_budget": 200_000}], ids=str)
def test_it_runs_as_anywhere(latin, options):
    there = embeds(DEMO_REEL / latin.name, **options)
    for _ in range(2):  # built, and from the cache
        np.testing.assert_array_equal(embeds(latin, **options), there)


def test_where_no_other_name_is_to_be_had_one_line_says_so(latin, monkeypatch):
    monkeypatch.setattr(common, "_open_folder", lambda *_: (_ for _ in ()).throw(OSError("no /proc")))
    with pytest.raises(EngineError, match=r"cannot read from \S*caf\S*: its name is not UTF-8, rename the folder"):
        embeds(latin)


def test_folders_are_not_held_for_ever(latin):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        embeds(latin)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
