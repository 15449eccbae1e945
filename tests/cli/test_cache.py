"""`cache`: what is listed and removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.lean


def test_the_cache_is_emptied_of_everything_that_is_edgereels(run):
    folder = Path(os.environ["EDGEREEL_CACHE"])
    (folder / "hashes.json").write_text("{}")
    (folder / "lowered").mkdir()
    (folder / "lowered" / "graph").write_bytes(bytes(10))
    (folder / "photos").mkdir()
    (folder / "photos" / "mine").write_bytes(bytes(20))
    code, out, _ = run("cache", "ls", "--json")
    listed = {part["name"]: (part["bytes"], part["files"]) for part in json.loads(out)["parts"]}
    assert (code, listed) == (0, {"lowered": (10, 1), "photos": (20, 1), "hashes.json": (2, 1)})
    code, out, _ = run("cache", "rm", "--all", "--json")
    assert (code, json.loads(out)) == (0, {"freed": 12})
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["mine"]
    assert json.loads(run("cache", "rm", "--all", "--json")[1]) == {"freed": 0}
