"""`make release`: what stops one, and, in full, that the wheel is built, holds what it should, and runs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from edgereel.core.version import __version__
from edgereel.tools import release
from edgereel.tools.release import ReleaseError, changelog_section, check_wheel, obstacles, wheel_files

INFORMATION = f"edgereel-{__version__}.dist-info/METADATA"


def wheel_of(folder, *names):
    path = folder / "edgereel.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return path


def test_the_wheel_holds_modules_and_the_demo_and_no_tests():
    paths = ["__init__.py", "core/errors.py", "demo/demo.reel/reel.json", "demo/student/x.safetensors", "py.typed"]
    paths += ["tests/conftest.py", "tools/release.py", "examples/clip.py", ".types/stub.py", "README.md"]
    paths += ["server/page/strings/en.json", "provenance/policy/booth.toml"]
    expected = {
        "edgereel/__init__.py",
        "edgereel/server/page/strings/en.json",
        "edgereel/provenance/policy/booth.toml",
        "edgereel/core/errors.py",
        "edgereel/py.typed",
        "edgereel/demo/demo.reel/reel.json",
    }
    assert wheel_files([Path(path) for path in paths]) == expected


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["edgereel/a.py", INFORMATION], "lacks edgereel/b.py"),
        (["edgereel/a.py", "edgereel/b.py", "edgereel/c.py", INFORMATION], "holds edgereel/c.py"),
        (["edgereel/a.py", "edgereel/b.py", "tests/conftest.py", INFORMATION], "holds tests/conftest.py"),
        (["edgereel/a.py", "edgereel/b.py"], f"is not of the release {__version__}"),
        (["edgereel/a.py", "edgereel/b.py", "edgereel-0.0.1.dist-info/METADATA"], "holds edgereel-0.0.1"),
    ],
)
def test_a_wheel_that_is_not_right(tmp_path, names, part):
    with pytest.raises(ReleaseError, match=part):
        check_wheel(wheel_of(tmp_path, *names), {"edgereel/a.py", "edgereel/b.py"})


def test_a_wheel_that_is_right(tmp_path):
    check_wheel(wheel_of(tmp_path, "edgereel/a.py", INFORMATION), {"edgereel/a.py"})


def test_the_changelog_is_of_this_release():
    date, section = changelog_section((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), __version__)
    assert date
    assert section.startswith("- ")


def test_a_section_ends_where_the_next_begins():
    text = "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n- new\n\n## 0.1.0 (2026-11-01)\n\n- old\n"
    assert changelog_section(text, "0.2.0") == ("2026-12-01", "- new")
    for release_, changed in (("0.3.0", text), ("0.1.0", text), ("0.2.0", text.replace("- new", "")), ("0.2.0", "")):
        with pytest.raises(ReleaseError):
            changelog_section(changed, release_)


def test_a_tag_waits_for_a_date():
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    assert any("write its date" in line for line in obstacles("unreleased"))
    assert not any("write its date" in line for line in obstacles("2026-12-01"))


@pytest.mark.full
def test_a_dry_release(tmp_path, monkeypatch, capsys):
    pytest.importorskip("build")
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    monkeypatch.setattr(release, "OUTPUT", tmp_path / "dist")
    release.release(dry=True)
    assert "holds what it should, and runs" in capsys.readouterr().out
    assert sorted(path.suffix for path in (tmp_path / "dist").iterdir()) == [".gz", ".whl"]
