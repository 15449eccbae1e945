"""Which packages are installed and which are needed, read from their metadata: nothing is imported."""

from __future__ import annotations

import operator
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?\s*([^;]*)(?:;(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_CONDITION = re.compile(r"""(python_version|sys_platform|platform_machine)\s*(<=|>=|<|>|==|!=)\s*['"]([^'"]+)['"]""")
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne
}  # fmt: skip

# Distributions that put their files into the same folder, onnxruntime/.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-cann",
    "onnxruntime-silicon",
    "onnxruntime-training",
    "onnxruntime-windowsml",
    "ort-nightly",
    "ort-nightly-gpu",
)


@dataclass(frozen=True)
class Requirement:
    """A package that is needed: its name, the least version ("" for any) and the extra that needs it ("" for the base)."""

    name: str
    least: str
    extra: str = ""
    extras_of: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}>={self.least}" if self.least else self.name


def installed_packages() -> dict[str, str]:
    """Return the version of every installed distribution, by its name in small letters and with hyphens."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(plain_name(name), distribution.version)
    return found


def requirements_of(package: str) -> list[Requirement] | None:
    """Return what a package's metadata says it needs, None where it is not installed as a package."""
    try:
        return parse_requirements(metadata.requires(package) or [])
    except metadata.PackageNotFoundError:
        return None


def parse_requirements(lines: Iterable[str]) -> list[Requirement]:
    """Return the requirements that lines of metadata like 'torch>=2.9; extra == "export"' state.

    What is needed only by another release of Python, another system or another processor is left out.
    """
    found = []
    for line in lines:
        match = _REQUIREMENT.fullmatch(line.strip())
        if match is None:
            continue
        name, extras, versions, marker = match.groups()
        if not all(_holds(*condition) for condition in _CONDITION.findall(marker or "")):
            continue
        least = re.search(r">=\s*([^\s,]+)", versions)
        extra = _EXTRA.search(marker or "")
        found.append(
            Requirement(
                plain_name(name),
                least[1] if least else "",
                extra[1] if extra else "",
                tuple(part.strip() for part in (extras or "").split(",") if part.strip()),
            )
        )
    return found


def _holds(name: str, comparison: str, value: str) -> bool:
    """Say whether a condition of a marker is met here; ours are joined by `and` alone."""
    compare = _COMPARISONS[comparison]
    if name == "python_version":
        return compare(tuple(sys.version_info[:2]), _numbers(value))
    return compare(sys.platform if name == "sys_platform" else platform.machine(), value)


def needed_by(extra: str, requirements: Iterable[Requirement], package: str = "edgereel") -> list[Requirement]:
    """Return what an extra needs; one that consists of other extras of the package needs what these need."""
    requirements = list(requirements)
    needed: list[Requirement] = []
    for requirement in requirements:
        if requirement.extra != extra:
            continue
        if requirement.name == package:
            for part in requirement.extras_of:
                needed += needed_by(part, requirements, package)
        else:
            needed.append(requirement)
    return needed


def complaint(requirement: Requirement, installed: Mapping[str, str]) -> str:
    """Return what is wrong with a requirement: "NAME is not installed", that it is too old, or "" for nothing."""
    version = installed.get(requirement.name)
    if version is None and requirement.name == "onnxruntime":  # any of those that offer the module will do
        version = next((installed[name] for name in ONNXRUNTIMES if name in installed), None)
    if version is None:
        return f"{requirement.name} is not installed"
    if requirement.least and _numbers(version) < _numbers(requirement.least):
        return f"{requirement.name} {version} is too old: {requirement.least} or newer is needed"
    return ""


def plain_name(name: str) -> str:
    """Return a distribution's name the way that package indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
