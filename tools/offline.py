"""`python -m edgereel.tools.offline OUT`: everything that a machine without a network needs to run edgereel, in one folder.

`wheels/` of edgereel and all that it needs, `bundles/`, `edgereel.service`, `install.sh`, and `SHA256SUMS` of all of it.
Packages come from wherever pip is told to look; --platform names what they are for. The built-in model is in edgereel's own
wheel.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..bundle.reader import verify_bundle
from ..core.errors import EdgereelError, OutputError, UsageError, one_line
from ..core.files import folder_prefix
from ..core.units import format_bytes
from ..core.version import __version__
from ..server.unit import unit_text

ROOT = Path(__file__).parents[1]
PREFIX = "/opt/edgereel"
SUMS = "SHA256SUMS"
PLATFORMS = {
    "linux-x86_64": (
        "x86_64",
        ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"],
    ),
    "linux-aarch64": (
        "aarch64",
        ["manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"],
    ),
}
"""By name: what `uname -m` says there, and the tags of wheels that it takes, as glibc 2.28 and later do."""


def pack(out: Path, platform: str, python: str, extras: str, bundles: Sequence[Path]) -> Path:
    """Write the folder, whole or not at all, and return it. python: such as 3.11. Raises EdgereelError."""
    if platform not in PLATFORMS:
        raise UsageError(f"--platform {platform}: choose from {', '.join(PLATFORMS)}")
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: is not empty: choose a new folder")
    machine, tags = PLATFORMS[platform]
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f"{folder_prefix('.edgereel-')}offline0")
    try:
        (made / "wheels").mkdir(parents=True)
        own = own_wheel(made / "wheels")
        needed_wheels(made / "wheels", own, extras, tags, python)
        for bundle in bundles:
            verify_bundle(bundle)
            shutil.copytree(bundle, made / "bundles" / bundle.name)
        (made / "edgereel.service").write_text(unit_text(Path(PREFIX) / "bin" / "edgereel"), encoding="utf-8")
        script = (Path(__file__).parent / "offline_install.sh").read_text(encoding="utf-8")
        facts = {
            "@VERSION@": __version__,
            "@MACHINE@": machine,
            "@PYTHON@": python,
            "@EXTRAS@": extras,
            "@PREFIX@": PREFIX,
        }
        for place, fact in facts.items():
            script = script.replace(place, fact)
        (made / "install.sh").write_text(script, encoding="utf-8")
        (made / "install.sh").chmod(0o755)
        write_sums(made)
        if out.exists():
            out.rmdir()
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return out


def own_wheel(folder: Path) -> Path:
    """Build edgereel's own wheel, with what is installed, and return it. Raises OutputError."""
    source = folder.parent / "source"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    try:
        _pip(
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--wheel-dir",
            str(folder),
            str(source),
        )
    finally:
        shutil.rmtree(source)
    (wheel,) = folder.glob("edgereel-*.whl")
    return wheel


def needed_wheels(folder: Path, own: Path, extras: str, tags: Sequence[str], python: str) -> None:
    """Bring the wheels that ours needs on a platform. Raises OutputError."""
    wanted = [part for tag in tags for part in ("--platform", tag)]
    wanted += ["--python-version", python, "--implementation", "cp", "--only-binary", ":all:"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    _pip("download", "--quiet", *wanted, *constraints, "--dest", str(folder), f"{own}[{extras}]")


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file, as sha256sum reads them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in files
    ]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise OutputError(f"pip {arguments[0]}: {one_line(' '.join(said))[:500]}")


def main() -> int:
    """Pack what the arguments say."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser = argparse.ArgumentParser(
        prog="python -m edgereel.tools.offline", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--platform", default=f"linux-{os.uname().machine}", help=f"one of {', '.join(PLATFORMS)}; default this one"
    )
    parser.add_argument("--python", default=here, help=f"the Python there (default: {here})")
    parser.add_argument("--extras", default="cpu,serve", help="default: cpu,serve")
    parser.add_argument(
        "--bundle", type=Path, action="append", default=[], help="a .reel folder; several times for several"
    )
    given = parser.parse_args()
    try:
        folder = pack(given.out.absolute(), given.platform, given.python, given.extras, given.bundle)
    except EdgereelError as error:
        print(f"offline: {error}", file=sys.stderr)
        return error.exit_code
    wheels = list((folder / "wheels").iterdir())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {len(wheels)} wheels, {format_bytes(size)}; there: sh install.sh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
