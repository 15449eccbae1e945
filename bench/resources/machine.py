"""The machine and the installed packages, as the record has them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from typing import Any

from ...core.machine import find_gpus, read_machine
from ...core.version import __version__
from ..records.record import GpuFacts, MachineFacts

_TOLD = ("numpy", "tokenizers", "av", "pydantic", "onnx", "psutil", "tensorrt", "torch", "diffusers", "openvino")


def begin_measurement() -> Callable[[], dict[str, Any]]:
    """Return what gives, when a measurement has ended, the facts of its record: when, how long, machine and versions."""
    started, clock = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
    return lambda: {
        "started": started,
        "seconds": time.perf_counter() - clock,
        "machine": find_machine(),
        "versions": dict(find_versions()),
    }


def find_machine() -> MachineFacts:
    """Return what this machine is."""
    machine = asdict(read_machine())
    del machine["free_memory"]
    sets = machine.pop("instruction_sets")
    gpus = [GpuFacts(**asdict(gpu)) for gpu in find_gpus()[0]]
    return MachineFacts(**machine, instruction_sets=None if sets is None else list(sets), gpus=gpus)


@cache
def find_versions() -> dict[str, str]:
    """Return the versions of Python, edgereel and the packages that times depend on."""
    told = {"python": platform.python_version(), "edgereel": __version__}
    runtimes = metadata.packages_distributions().get("onnxruntime", [])  # several packages offer the module
    for name in dict.fromkeys([*_TOLD, *sorted(runtimes)]):
        try:
            told[name.lower()] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return told
