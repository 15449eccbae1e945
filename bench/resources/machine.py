"""The machine and the installed packages, as the record has them."""

from __future__ import annotations

import platform
from dataclasses import asdict

from ...core.machine import find_gpus, read_machine
from ...core.version import __version__
from ...doctor.packages import ONNXRUNTIMES, installed_packages
from ..records.record import GpuFacts, MachineFacts

_TOLD = ("numpy", "tokenizers", "av", "pydantic", "onnx", "psutil", "tensorrt", "torch", "diffusers", "openvino")


def find_machine() -> MachineFacts:
    """Return what this machine is."""
    machine = read_machine()
    gpus, _ = find_gpus()
    return MachineFacts(
        system=machine.system,
        processor=machine.processor,
        cores=machine.cores,
        instruction_sets=None if machine.instruction_sets is None else list(machine.instruction_sets),
        memory=machine.memory,
        model=machine.model,
        gpus=[GpuFacts(**asdict(gpu)) for gpu in gpus],
    )


def find_versions() -> dict[str, str]:
    """Return the versions of Python, edgereel and the packages that times depend on."""
    installed = installed_packages()
    told = {name: installed[name] for name in (*_TOLD, *ONNXRUNTIMES) if name in installed}
    return {"python": platform.python_version(), "edgereel": __version__, **told}
