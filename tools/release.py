"""`python -m edgereel.tools.release [--dry]`: build, check the wheel's contents and the changelog, then tag; offline.

--dry does everything but the tag, and lists what still stands in its way.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..core.version import __version__

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "dist"
NOT_SHIPPED = {"tests", "tools", "examples", "docs"}
"""Folders with programs that the wheel leaves out."""
DATA = {
    ("demo", "demo.reel"),
    ("media", "fonts"),
    ("media", "presets.toml"),
    ("provenance", "policy"),
    ("server", "page"),
    ("server", "unit"),
    ("story", "script"),
}
"""Files, and folders with all their files, that the wheel holds beside modules, as pyproject.toml says."""
HEADING = re.compile(r"^## (?P<release>\S+) \((?P<date>[^)]*)\)$", re.MULTILINE)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class ReleaseError(Exception):
    """What is wrong with the release, in one line."""


def tracked_files() -> list[Path]:
    """Return the files that git knows, relative to the root, as they stand in the working tree."""
    names = _run("git", "ls-files", "-z", where=ROOT).split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


def wheel_files(tracked: list[Path]) -> set[str]:
    """Return what the wheel must hold beside its metadata: every module, the marker of types, the files of data."""
    return {
        f"edgereel/{path.as_posix()}"
        for path in tracked
        if path.name == "py.typed"
        or path.parts[:2] in DATA
        or (path.suffix == ".py" and path.parts[0] not in NOT_SHIPPED and not path.parts[0].startswith("."))
    }


def check_wheel(wheel: Path, expected: set[str]) -> None:
    """Raise ReleaseError where a wheel lacks a file, or holds one that it should not."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in held if name.split("/")[0] == f"edgereel-{__version__}.dist-info"}
    if missing := sorted(expected - held):
        raise ReleaseError(f"{wheel.name} lacks {', '.join(missing)}: list its package in pyproject.toml")
    if stray := sorted(held - metadata - expected):
        raise ReleaseError(f"{wheel.name} holds {', '.join(stray)}, which is not to be shipped")
    if not metadata:
        raise ReleaseError(f"{wheel.name} is not of the release {__version__}: set it in pyproject.toml too")


def changelog_section(text: str, release: str) -> tuple[str, str]:
    """Return date and text of a release, which must be the first of the changelog. Raises ReleaseError."""
    found = list(HEADING.finditer(text))
    if not found or found[0]["release"] != release:
        raise ReleaseError(f"CHANGELOG.md: the first heading must be '## {release} (YYYY-MM-DD)'")
    end = found[1].start() if len(found) > 1 else len(text)
    section = text[found[0].end() : end].strip()
    if not section:
        raise ReleaseError(f"CHANGELOG.md: nothing is said about {release}")
    return found[0]["date"], section


def obstacles(date: str) -> list[str]:
    """Return what a tag has to wait for, in one line each."""
    found = []
    if not DATE.fullmatch(date):
        found.append(f"CHANGELOG.md: {__version__} is '{date}': write its date, YYYY-MM-DD")
    if _run("git", "status", "--porcelain", where=ROOT):
        found.append("the working tree has changes: commit them")
    if _run("git", "tag", "--list", f"v{__version__}", where=ROOT):
        found.append(
            f"the tag v{__version__} is there already: raise the release in core/version.py and pyproject.toml"
        )
    return found


def build(tracked: list[Path], output: Path) -> Path:
    """Build the source archive, and the wheel from it, of a copy of the tracked files; return the wheel.

    A copy, since setuptools puts what lies in an old build/ folder into the wheel.
    """
    with tempfile.TemporaryDirectory(prefix="edgereel-release-") as name:
        folder = Path(name)
        for path in tracked:
            target = folder / "edgereel" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, target)
        _run(
            sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), where=folder / "edgereel"
        )
        output.mkdir(exist_ok=True)
        made = [Path(shutil.copy(path, output)) for path in sorted((folder / "dist").iterdir())]
    return next(path for path in made if path.suffix == ".whl")


def try_wheel(wheel: Path) -> None:
    """Run the program that is in a wheel: it must know its release and find the built-in bundle. Raises ReleaseError."""
    with tempfile.TemporaryDirectory(prefix="edgereel-release-") as name:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(name)
        where = Path(name)
        program = "import edgereel; print(edgereel.__file__)"
        if not _run(sys.executable, "-c", program, where=where, path=where).startswith(str(where)):
            raise ReleaseError(f"{wheel.name}: another edgereel was found before the one in it")
        if _run(sys.executable, "-m", "edgereel", "--version", where=where, path=where) != f"edgereel {__version__}":
            raise ReleaseError(f"{wheel.name}: does not say that it is {__version__}")
        _run(sys.executable, "-m", "edgereel", "verify", where=where, path=where)


def release(dry: bool) -> None:
    """Do what the module says. Raises ReleaseError."""
    date, section = changelog_section((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), __version__)
    waiting = obstacles(date)
    if waiting and not dry:
        raise ReleaseError("; ".join(waiting))
    tracked = tracked_files()
    wheel = build(tracked, OUTPUT)
    check_wheel(wheel, wheel_files(tracked))
    try_wheel(wheel)
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB, holds what it should, and runs")
    if dry:
        print(f"the tag v{__version__} was not made" + "".join(f"\n- {line}" for line in waiting))
        return
    _run("git", "tag", "-a", f"v{__version__}", "-m", f"edgereel {__version__}\n\n{section}", where=ROOT)
    print(f"tagged v{__version__}: git push origin v{__version__}")


def _run(*command: str, where: Path, path: Path | None = None) -> str:
    """Return what a program printed. path: where Python looks first. Raises ReleaseError where it fails."""
    environment = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    ended = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    if ended.returncode:
        last = (ended.stderr or ended.stdout).strip().splitlines()[-1:] or ["it says nothing"]
        raise ReleaseError(f"{' '.join(command[:5])} failed: {last[0]}")
    return ended.stdout.strip()


def main() -> None:
    """Read the arguments and release."""
    parser = argparse.ArgumentParser(description="Build, check and tag a release.")
    parser.add_argument("--dry", action="store_true", help="do everything but the tag")
    try:
        release(parser.parse_args().dry)
    except ReleaseError as error:
        sys.exit(f"release: {error}")


if __name__ == "__main__":
    main()
