"""`cache`: what is listed and removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgereel.engines.cache.store import key_of, write_entry

pytestmark = pytest.mark.lean


def test_the_cache_is_emptied_of_everything_that_is_edgereels(run):
    folder = Path(os.environ["EDGEREEL_CACHE"])
    (folder / "hashes.json").write_text("{}")
    write_entry("lowered", key_of("a graph"), {}, bytes(10))
    size = sum(path.stat().st_size for path in (folder / "lowered").iterdir())
    (folder / "photos").mkdir()
    (folder / "photos" / "mine").write_bytes(bytes(20))
    code, out, _ = run("cache", "ls", "--json")
    listed = {part["name"]: (part["bytes"], part["files"]) for part in json.loads(out)["parts"]}
    assert (code, listed) == (0, {"lowered": (size, 1), "photos": (20, 1), "hashes.json": (2, 1)})
    code, out, _ = run("cache", "rm", "--all", "--json")
    assert (code, json.loads(out)) == (0, {"freed": size + 2})
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["mine"]
    assert json.loads(run("cache", "rm", "--all", "--json")[1]) == {"freed": 0}
