"""NVIDIA's management library, by the package nvidia-ml-py where that is installed; what it does not tell is None."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h). Idling, and clocks that someone set, are no throttling.
REASONS = {
    0x04: "the power limit",
    0x08: "hardware slowdown",
    0x20: "temperature (software)",
    0x40: "temperature (hardware)",
    0x80: "the power supply's brake",
}


class Nvml:
    """The first NVIDIA GPU as the management library tells of it. Nothing here raises."""

    def __init__(self, library: Any, handle: Any) -> None:
        """library: the module pynvml, initialised."""
        self._library = library
        self._handle = handle

    @staticmethod
    def open() -> Nvml | None:
        """Return the first GPU; None where there is none, or no package or driver to ask."""
        try:
            library: Any = importlib.import_module("pynvml")
            library.nvmlInit()
            return Nvml(library, library.nvmlDeviceGetHandleByIndex(0))
        except Exception:  # ImportError, and whatever a broken driver makes of it
            return None

    def close(self) -> None:
        """Let go of the library."""
        with contextlib.suppress(Exception):
            self._library.nvmlShutdown()

    def joules(self) -> float | None:
        """Return the energy the board has taken since the driver was loaded."""
        return _or_none(lambda: self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3)

    def watts(self) -> float | None:
        """Return the power the board takes."""
        return _or_none(lambda: self._library.nvmlDeviceGetPowerUsage(self._handle) / 1e3)

    def clocks(self) -> dict[str, float]:
        """Return clocks in MHz by name."""
        kinds = {"gpu": "NVML_CLOCK_SM", "gpu memory": "NVML_CLOCK_MEM"}
        found = {
            name: _or_none(
                lambda kind=kind: float(  # type: ignore[misc]
                    self._library.nvmlDeviceGetClockInfo(self._handle, getattr(self._library, kind))
                )
            )
            for name, kind in kinds.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    def temperature(self) -> float | None:
        """Return the GPU's temperature in degrees Celsius."""
        library = self._library
        return _or_none(lambda: float(library.nvmlDeviceGetTemperature(self._handle, library.NVML_TEMPERATURE_GPU)))

    def throttling(self) -> list[str] | None:
        """Return why the GPU is slower than it could be, in words; empty where it is not."""
        library = self._library
        ask = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
            library, "nvmlDeviceGetCurrentClocksThrottleReasons", None
        )
        bits = None if ask is None else _or_none(lambda: int(ask(self._handle)))
        return None if bits is None else [reason for bit, reason in REASONS.items() if bits & bit]

    def process_memory(self, pid: int) -> int | None:
        """Return the bytes of GPU memory that a process holds; where that is not told, what is in use on the GPU by all."""
        library = self._library
        for process in _or_none(lambda: list(library.nvmlDeviceGetComputeRunningProcesses(self._handle))) or []:
            if process.pid == pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return _or_none(lambda: int(library.nvmlDeviceGetMemoryInfo(self._handle).used))


def _or_none(ask: Callable[[], Value]) -> Value | None:
    try:
        return ask()
    except Exception:  # each GPU and driver lacks some of these
        return None
