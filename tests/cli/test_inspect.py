"""`inspect` and `verify`: what they print, and bundles that are refused."""

from __future__ import annotations

import json

import pytest
from conftest import DEMO_REEL, edit_manifest
from helpers.command_line import PROMPT, refused

from edgereel.bundle.reader import open_bundle

pytestmark = pytest.mark.lean


def test_inspect(run):
    code, out, err = run("inspect", DEMO_REEL)
    assert (code, err) == (0, "")
    for word in ("licence", "origin", "digest", "recipe", "precision", "differs from torch by", "up to 24 tokens"):
        assert word in out
    code, out, err = run("inspect", DEMO_REEL, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((DEMO_REEL / "reel.json").read_text(encoding="utf-8"))


def test_verify(run):
    code, out, _ = run("verify", DEMO_REEL)
    assert code == 0
    assert "files are as declared" in out
    code, out, _ = run("verify", DEMO_REEL, "--json")
    manifest = open_bundle(DEMO_REEL).manifest
    assert json.loads(out) == {"bundle": str(DEMO_REEL), "digest": manifest.digest, "files": len(manifest.files)}


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["inspect", "missing.reel"], 2, "missing.reel: no such bundle folder"),
        (["verify", "missing.reel"], 2, "missing.reel: no such bundle folder"),
        (["inspect", "two\nlines.reel"], 2, r"two\nlines.reel: no such bundle folder"),
    ],
    ids=lambda value: " ".join(value)[:40].strip() if isinstance(value, list) else "",
)
def test_a_missing_bundle(run, arguments, code, part):
    refused(run(*arguments), code, part)


def test_a_damaged_bundle(run, demo_copy):
    with (demo_copy / "decoder.data").open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    for command in (["generate", PROMPT, "--bundle"], ["inspect"], ["verify"]):
        refused(run(*command, demo_copy), 1, "decoder.data: the content is not what reel.json declares")
    edit_manifest(demo_copy, lambda data: data.update(schema=99, read_by="9.0"))
    for command in (["generate", PROMPT, "--bundle"], ["inspect"], ["verify"]):
        refused(run(*command, demo_copy), 1, "it needs edgereel 9.0: pip install -U edgereel")
