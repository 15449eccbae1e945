"""How much of the disk a contender's packages take."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path


def installed_bytes(packages: Sequence[str]) -> int | None:
    """Return the size of all files of these packages and everything they require, as installed here.

    Optional dependencies are left out, and so is what is not installed. None without the package `packaging`, which reads
    requirements.
    """
    if find_spec("packaging") is None:
        return None
    from packaging.requirements import Requirement

    waiting, seen, total = list(packages), set[str](), 0
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        paths = [Path(str(file.locate())) for file in found.files or []]
        total += sum(path.stat().st_size for path in paths if path.is_file())
        requirements = [Requirement(text) for text in found.requires or []]
        waiting += [item.name for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""})]
    return total
