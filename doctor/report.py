"""What this machine has, what is missing to make videos, and the commands that bring it.

Each check takes what it judges as an argument and returns findings; `examine` gives them what is true here. Nothing
that could be missing or broken is imported: see probe.py.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core import paths
from ..core.errors import EdgereelError, brief, one_line
from ..core.machine import Gpu, Machine, find_gpus, read_machine
from ..core.units import format_bytes
from ..core.version import __version__
from .packages import ONNXRUNTIMES, Requirement, complaint, installed_packages, needed_by, requirements_of
from .probe import Probe, probe

OK = "ok"
WARN = "warn"  # videos can be made, but something should be put right
MISSING = "missing"  # no video can be made
OPTIONAL = "optional"  # not there, and not needed to make videos
INFORMATION = "information"

# Which onnxruntime to bring is a choice of its own, and bringing the second breaks the first; `dev` is for working on
# edgereel itself.
_NOT_OPTIONAL_PARTS = ("cpu", "gpu", "rtx", "dev")
# reel.py knows it too, but cannot be imported where numpy is missing.
_DEMO = Path(__file__).resolve().parent.parent / "demo" / "demo.reel"
_INSTALL_AV = "pip install --force-reinstall --only-binary av av"


@dataclass(frozen=True)
class Finding:
    """One line of the report. facts: the same for programs. reason and commands: what to do about it, where there is."""

    section: str
    name: str
    status: str
    detail: str
    facts: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All findings, in the order in which they are shown."""

    findings: list[Finding]

    @property
    def ready(self) -> bool:
        """Whether a video can be made."""
        return all(finding.status != MISSING for finding in self.findings)

    @property
    def to_do(self) -> list[tuple[str, tuple[str, ...]]]:
        """What should be put right, each reason with the commands that do it, none twice."""
        steps = ((finding.reason, finding.commands) for finding in self.findings if finding.reason)
        return list(dict.fromkeys(steps))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        shown = ("section", "name", "status", "detail", "facts")
        return {
            "ready": self.ready,
            "findings": [{key: getattr(finding, key) for key in shown} for finding in self.findings],
            "to_do": [{"reason": reason, "commands": list(commands)} for reason, commands in self.to_do],
        }


def examine() -> Report:
    """Return what is true of this machine and installation; takes a second or two."""
    installed = installed_packages()
    requirements = requirements_of("edgereel")
    gpus, gpu_problem = find_gpus()
    probed = probe()
    return Report(
        [
            *check_machine(read_machine()),
            *check_gpus(gpus, gpu_problem),
            *check_python(),
            *check_packages(requirements, installed, probed),
            *check_onnxruntime(installed, probed, bool(gpus)),
            *check_engines(probed),
            *check_choice(probed),
            *check_quantized(probed.choice, gpus),
            *check_extras(requirements, installed),
            *check_cache(paths.find_cache_folder()),
            *check_bundle(_DEMO),
        ]
    )


def check_machine(machine: Machine) -> list[Finding]:
    """Return findings on the processor and memory."""
    sets = "instruction sets not known" if machine.instruction_sets is None else ", ".join(machine.instruction_sets)
    plural = "s" * (machine.cores != 1)
    cores = f"{machine.cores} usable core{plural}{machine.cores_why and f' {machine.cores_why}'}"
    memory = "not known" if machine.memory is None else f"{format_bytes(machine.memory)}"
    free = "" if machine.free_memory is None else f", {format_bytes(machine.free_memory)} free"
    limit = machine.memory_limit
    allowed = (
        ""
        if limit is None
        else f"; the control group {one_line(limit.group)} allows {format_bytes(limit.limit)}, "
        f"{format_bytes(limit.left)} of it left"
    )
    return [
        Finding(
            "machine",
            "system",
            INFORMATION,
            f"{machine.system}{f', {machine.model}' * bool(machine.model)}",
            asdict(machine),
        ),
        Finding("machine", "processor", INFORMATION, f"{machine.processor}, {cores}, {sets}"),
        Finding("machine", "memory", INFORMATION, memory + free + allowed),
    ]


def check_gpus(gpus: Iterable[Gpu], problem: str) -> list[Finding]:
    """Return findings on the NVIDIA GPUs."""
    found = [
        Finding(
            "machine",
            "NVIDIA GPU",
            OK,
            f"{gpu.name}, {'memory not known' if gpu.memory is None else format_bytes(gpu.memory)}, "
            f"compute capability {gpu.compute_capability}, driver {gpu.driver}",
            asdict(gpu),
        )
        for gpu in gpus
    ]
    if problem:
        reason = f"{problem}: update the driver, or restart the machine"
        return [Finding("machine", "NVIDIA GPU", WARN, problem, reason=reason)]
    return found or [Finding("machine", "NVIDIA GPU", INFORMATION, "none found")]


def check_python() -> list[Finding]:
    """Return findings on the interpreter and on edgereel itself."""
    facts = {"python": platform.python_version(), "edgereel": __version__, "executable": sys.executable}
    detail = f"edgereel {__version__}, Python {platform.python_version()} ({sys.executable})"
    return [Finding("packages", "edgereel", OK, one_line(detail), facts)]


def check_packages(
    requirements: list[Requirement] | None, installed: Mapping[str, str], probed: Probe
) -> list[Finding]:
    """Return findings on the packages that every installation needs."""
    if requirements is None:
        reason = "edgereel is not installed as a package, so what it needs is not known: in its folder, run"
        commands = ('pip install -e ".[cpu]"',)
        unknown = Finding("packages", "requirements", WARN, "not known", reason=reason, commands=commands)
        broken = {name: why for name, why in probed.failed.items() if name != "onnxruntime"}
        return [unknown, *(Finding("packages", name, MISSING, why) for name, why in broken.items())]
    found = []
    for requirement in needed_by("", requirements):
        name = requirement.name
        facts = {"version": installed.get(name)}
        wrong = complaint(requirement, installed)
        command = f'pip install "{requirement}"'
        if not wrong and name in probed.failed:
            wrong = f"{name} {installed[name]} cannot be loaded: {probed.failed[name]}"
            command = f"pip install --force-reinstall {name}"
        if wrong:
            found.append(Finding("packages", name, MISSING, wrong, facts, wrong, (command,)))
        elif name == "av" and not probed.loaded.get("av", {}).get("libx264", True):
            reason = f"av {installed[name]} has no libx264, which MP4 files need"
            found.append(Finding("packages", name, WARN, reason, facts, reason, (_INSTALL_AV,)))
        else:
            found.append(Finding("packages", name, OK, installed[name], facts))
    return found


def check_onnxruntime(installed: Mapping[str, str], probed: Probe, has_gpu: bool) -> list[Finding]:
    """Return findings on the one onnxruntime there should be, and what it offers."""
    there = [name for name in ONNXRUNTIMES if name in installed]
    facts: dict[str, Any] = {"distributions": {name: installed[name] for name in there}}
    versions = ", ".join(f"{name} {installed[name]}" for name in there)
    extra = "gpu" if has_gpu and "onnxruntime-gpu" in there else "cpu"
    repair = (f"pip uninstall -y {' '.join(there)}", f'pip install "edgereel[{extra}]"')
    failed = probed.failed.get("onnxruntime")
    if not there and failed is not None:
        reason = "no onnxruntime is installed, which runs the models"
        return [Finding("packages", "onnxruntime", MISSING, "not installed", facts, reason, repair[1:])]
    found = []
    if len(there) > 1:
        status = WARN if failed is None else MISSING
        reason = (
            f"{' and '.join(there)} are installed together and overwrite one another's files, so that neither is whole: "
            "uninstall all of them, then install one"
        )
        found.append(Finding("packages", "onnxruntime", status, f"{versions}: more than one", facts, reason, repair))
    elif failed is not None:
        reason = f"{versions} cannot be loaded ({failed}): install it again"
        found.append(Finding("packages", "onnxruntime", MISSING, f"{versions}: {failed}", facts, reason, repair))
    else:
        found.append(Finding("packages", "onnxruntime", OK, versions or "not installed by pip", facts))
    if failed is None:
        providers = probed.loaded.get("onnxruntime", {}).get("providers", [])
        names = ", ".join(one_line(name).removesuffix("ExecutionProvider") for name in providers)
        found.append(Finding("engines", "providers", INFORMATION, names or "none", {"providers": providers}))
    return found


def check_engines(probed: Probe) -> list[Finding]:
    """Return findings on the engines of ours. One that runs is enough; the cpu engine is the one that every machine can have."""
    if not any(reason is None for reason in probed.engines.values()) and probed.problem:
        return [Finding("engines", "engines", MISSING, f"cannot be tried: {probed.problem}")]
    enough = any(reason is None for reason in probed.engines.values())
    needed = () if enough else ("cpu",) if "cpu" in probed.engines else tuple(probed.engines)
    return [
        Finding("engines", name, OK, "runs", {"unavailable": None})
        if reason is None
        else Finding(
            "engines", name, MISSING if name in needed else OPTIONAL, one_line(reason), {"unavailable": reason}
        )
        for name, reason in probed.engines.items()
    ] or [Finding("engines", "engines", MISSING, "none")]


def check_choice(probed: Probe) -> list[Finding]:
    """Return which engine is taken where none is asked for, and why not a faster one."""
    if probed.engines.get(probed.choice, "") is not None:
        return []
    return [Finding("engines", "auto", INFORMATION, one_line(probed.why), {"engine": probed.choice})]


def check_quantized(choice: str, gpus: Iterable[Gpu]) -> list[Finding]:
    """Return which quantized bundles the engine that is taken multiplies as they are stored."""
    if not choice:
        return []
    try:
        from ..engines.quantized import Multiplied, Weights, quantized_fit
    except ImportError:  # the package that is missing is reported for itself
        return []

    found = re.fullmatch(r"(\d+)\.(\d+)", next((gpu.compute_capability.strip() for gpu in gpus), ""))
    card = (int(found[1]), int(found[2])) if found else None
    pairs: tuple[tuple[Weights, Multiplied], ...] = (("int8", "dynamic"), ("int8", "static"), ("fp8", "static"))
    narrow = [
        f"{weights} {activations}"
        for weights, activations in pairs
        if quantized_fit(choice, weights, activations, card).narrow
    ]
    detail = f"{choice} multiplies {' and '.join(narrow) if narrow else 'none'} as stored" + (
        "" if narrow else ", other weights are widened first: they save memory alone"
    )
    return [Finding("engines", "quantized", INFORMATION, detail, {"multiplied": narrow})]


def check_extras(requirements: list[Requirement] | None, installed: Mapping[str, str]) -> list[Finding]:
    """Return findings on the optional parts: which are there, and the command that brings the others."""
    requirements = requirements or []
    found = []
    for extra in dict.fromkeys(requirement.extra for requirement in requirements):
        if not extra or extra in _NOT_OPTIONAL_PARTS:
            continue
        needed = needed_by(extra, requirements)
        wrong = [requirement for requirement in needed if complaint(requirement, installed)]
        if not wrong:
            found.append(Finding("extras", extra, OK, "installed", {"missing": []}))
            continue
        command = f'pip install "edgereel[{extra}]"'
        stand_in = any(r.name == "onnxruntime" for r in needed) and "onnxruntime" not in installed
        if stand_in and any(name in installed for name in ONNXRUNTIMES):
            # The extra would bring a second onnxruntime beside the one that is there.
            command = "pip install " + " ".join(f'"{requirement}"' for requirement in dict.fromkeys(wrong))
        lacking = ", ".join(dict.fromkeys(requirement.name for requirement in wrong))
        facts = {"missing": [str(requirement) for requirement in dict.fromkeys(wrong)], "command": command}
        found.append(Finding("extras", extra, OPTIONAL, f"without {lacking}: {command}", facts))
    return found


def check_cache(folder: Path | None) -> list[Finding]:
    """Return findings on the cache folder: where it is, whether it can be written to, how much it holds. None: no home."""
    command = "set EDGEREEL_CACHE=FOLDER" if os.name == "nt" else "export EDGEREEL_CACHE=FOLDER"
    if folder is None:
        without = {"path": None, "bytes": 0, "writable": False}
        reason = "there is no home folder to keep a cache in, so that nothing is kept between runs: choose one with"
        return [Finding("files", "cache", WARN, "no home folder", without, reason, (command,))]
    size = _bytes_below(folder)
    facts: dict[str, Any] = {"path": str(folder), "bytes": size, "writable": True}
    nearest = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
    try:
        if not nearest.is_dir():
            raise NotADirectoryError(20, "Not a directory")
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        facts["writable"] = False
        problem = f"{folder} cannot be written to ({error.strerror or error})"
        reason = f"the cache folder {problem}, so that bundles are read in full at each start: choose another with"
        return [Finding("files", "cache", WARN, one_line(problem), facts, one_line(reason), (command,))]
    used = f"{format_bytes(size)} used" if folder.exists() else "not made yet"
    return [Finding("files", "cache", OK, one_line(f"{folder}, {used}"), facts)]


def check_bundle(folder: Path) -> list[Finding]:
    """Return findings on the built-in bundle: its manifest and the sizes of its files, not their content."""
    facts: dict[str, Any] = {"path": str(folder)}
    try:
        from ..bundle.reader import peek_bundle

        manifest = peek_bundle(folder).manifest
    except ImportError as error:  # the package is reported for itself
        return [Finding("files", "bundle", WARN, f"cannot be looked at: {one_line(brief(error))}", facts)]
    except (EdgereelError, OSError) as error:
        problem = one_line(brief(error))
        reason = f"the built-in bundle cannot be opened ({problem}): install edgereel again"
        return [Finding("files", "bundle", MISSING, problem, facts, reason)]
    facts.update(name=manifest.name, digest=manifest.digest)
    return [Finding("files", "bundle", OK, one_line(f"{manifest.name} ({folder})"), facts)]


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:  # gone since it was listed
                continue
    return total
