"""A clone as Git makes it on Windows, with line endings converted, holds a demo that opens."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs git and a checkout"
)


@pytest.mark.parametrize("settings", [["core.autocrlf=true"], ["core.eol=crlf", "core.autocrlf=false"]], ids=str)
def test_the_demo_of_a_windows_clone_is_whole(settings: list[str], tmp_path: Path) -> None:
    import edgereel

    # What is staged is cloned with the attributes of this work tree, so that a change is tested before it is committed.
    options = [word for setting in settings for word in ("-c", setting)]
    clone = tmp_path / "clone"
    subprocess.run(["git", *options, "clone", "-q", "--no-checkout", str(ROOT), str(clone)], check=True)
    attributes = clone / ".git" / "info" / "attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text((ROOT / ".gitattributes").read_text())
    for setting in settings:
        subprocess.run(["git", "-C", str(clone), "config", *setting.split("=")], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "-q", "HEAD"], check=True)
    assert b"\r\n" in (clone / "README.md").read_bytes(), "this clone converts no line endings"
    for bundle in clone.rglob("*.reel"):
        for path in bundle.iterdir():
            original = ROOT / bundle.relative_to(clone) / path.name
            assert path.read_bytes() == original.read_bytes(), path
        with edgereel.load(bundle) as reel:
            assert len(list(reel.generate("a red ball bounces over the ocean", steps=1, frames=1))) == 1


def test_every_bundle_of_the_repository_keeps_its_bytes() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    inside = [path for path in listed.splitlines() if ".reel/" in path]
    assert inside
    command = ["git", "-C", str(ROOT), "check-attr", "text", "--", *inside]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line for line in told.splitlines() if not line.endswith(": unset")] == []
