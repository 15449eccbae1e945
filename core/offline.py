"""Libraries that report home are told not to, before any of them is imported.

edgereel runs offline. ONNX Runtime writes a device's id into the user's cache folder, queues an event for each process and
looks for its collector; hub clients and Ray have reports of their own. Each of them reads its switch from the environment
as it is imported, so the switches are set when edgereel itself is, and child processes inherit them. OpenVINO has no switch
that a program could set: it reports each import through a package beside it, without which it does not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and what stands on it: diffusers, transformers, accelerate
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray
    "DO_NOT_TRACK": "1",  # what several libraries agreed on
}
"""Environment variables that keep libraries from reporting home, and their values."""

_OPENVINO_REPORTER = "openvino_telemetry"


def switch_reports_off() -> None:
    """Set the switches in this process's environment, whatever they were: no setting of ours opens a connection."""
    os.environ.update(SWITCHES)


@contextmanager
def openvino_finds_no_reporter() -> Iterator[None]:
    """Have OpenVINO, imported in this block, take the package it reports home through for one that is not installed.

    OpenVINO then takes an empty stand-in of its own. Where the program has imported the package itself, nothing changes.
    """
    if _OPENVINO_REPORTER in sys.modules:
        yield
        return
    sys.modules[_OPENVINO_REPORTER] = None  # type: ignore[assignment]  # what Python has for a module that cannot be imported
    try:
        yield
    finally:
        del sys.modules[_OPENVINO_REPORTER]


@contextmanager
def matplotlib_keeps_to_our_cache() -> Iterator[None]:
    """Have matplotlib, imported in this block, keep its list of fonts in our cache folder, not in one of its own.

    Where the user has chosen a place for it, or there is no cache, nothing changes.
    """
    from .paths import find_cache_folder  # here, so that `import edgereel` stays instant

    folder = find_cache_folder()
    if "MPLCONFIGDIR" in os.environ or folder is None:
        yield
        return
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
    try:
        yield
    finally:
        del os.environ["MPLCONFIGDIR"]
