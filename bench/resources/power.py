"""Electrical power while a block runs: counters of energy where there are any, else readings of power.

`nvml`: the GPU's board. `rapl`: Intel's and AMD's packages and memory (Linux's powercap; since Linux 5.10 only root may read
it). `jetson`: what the whole module draws (INA3221).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ...core.system_files import read_number, read_text
from ..records.record import Power
from .nvml import Nvml
from .watcher import Watcher

INTERVAL = 0.05
"""Seconds between readings; RAPL's counters move each millisecond, a board's power is averaged over tens of them."""


class EnergyCounter:
    """A counter of microjoules that starts again from 0 after `largest`; joules since it was first read."""

    def __init__(self, path: Path, largest: int | None) -> None:
        """largest: None where the system does not tell."""
        self._path = path
        self._largest = largest
        self._last: int | None = None
        self._total = 0

    def joules(self) -> float | None:
        """Return the energy since the first reading, None where it cannot be read."""
        now = read_number(self._path)
        if now is None:
            return None
        if self._last is not None:
            since = now - self._last
            # A counter that has started again went on to its end first; where the end is not known, that part is lost.
            self._total += since if since >= 0 else now + max(0, (self._largest or 0) - self._last)
        self._last = now
        return self._total / 1e6


def rapl_counters(root: Path = Path("/")) -> list[EnergyCounter]:
    """Return the counters that together are all that RAPL tells of: each package, and memory where it is apart."""
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = read_text(zone / "name") or ""
        if (name.startswith("package") or name == "dram") and read_number(zone / "energy_uj") is not None:
            largest = read_number(zone / "max_energy_range_uj")
            found.append(EnergyCounter(zone / "energy_uj", largest))
    return found


def jetson_rails(root: Path = Path("/")) -> list[tuple[Path, int]]:
    """Return (folder of a sensor, its channel) that together are the module's power.

    Where one rail is the input of all (VDD_IN, POM_5V_IN), it alone; else every rail that has a name.
    """
    rails: dict[str, tuple[Path, int]] = {}
    for folder in sorted((root / "sys/bus/i2c").glob("drivers/ina3221*/*/hwmon/hwmon*")):
        for channel in (1, 2, 3):
            label = read_text(folder / f"in{channel}_label")
            if label and label.upper() != "NC" and _rail_watts(folder, channel) is not None:
                rails[label] = (folder, channel)
    whole = [rails[name] for name in ("VDD_IN", "POM_5V_IN") if name in rails]
    return whole[:1] or list(rails.values())


def _rail_watts(folder: Path, channel: int) -> float | None:
    microwatts = read_number(folder / f"power{channel}_input")
    if microwatts is not None:
        return microwatts / 1e6
    millivolts, milliamperes = read_number(folder / f"in{channel}_input"), read_number(folder / f"curr{channel}_input")
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


@dataclass(frozen=True)
class PowerSource:
    """Where power is read. Either may be None: joules counts up from any start, watts is the power of now."""

    name: str
    joules: Callable[[], float | None] | None = None
    watts: Callable[[], float | None] | None = None


def find_source(gpu: bool, root: Path = Path("/"), nvml: Nvml | None = None) -> PowerSource | None:
    """Return where the power of this work is told: a Jetson's whole module, else a GPU's board or the processor's packages."""
    if rails := jetson_rails(root):
        return PowerSource("jetson", watts=lambda: _sum([_rail_watts(*rail) for rail in rails]))
    if gpu:
        if nvml is None:
            return None
        if nvml.joules() is not None:
            return PowerSource("nvml", nvml.joules, nvml.watts)
        return PowerSource("nvml", watts=nvml.watts) if nvml.watts() is not None else None
    if counters := rapl_counters(root):
        return PowerSource("rapl", joules=lambda: _sum([counter.joules() for counter in counters]))
    return None


class PowerMeter(Watcher):
    """Reads a source from a thread while the block runs."""

    def __init__(
        self,
        source: PowerSource | None,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """source: None where nothing tells. interval: seconds."""
        super().__init__(interval)
        self._source = source
        self._clock = clock
        self._readings: list[tuple[float, float | None, float | None]] = []

    def look(self) -> None:
        """Take one reading now."""
        if self._source is not None:
            joules = None if self._source.joules is None else self._source.joules()
            watts = None if self._source.watts is None else self._source.watts()
            self._readings.append((self._clock(), joules, watts))

    def result(self, clips: int) -> Power:
        """Return the power of the block, in which so many clips were made."""
        name = "" if self._source is None else self._source.name
        joules = [(moment, value) for moment, value, _ in self._readings if value is not None]
        watts = [(moment, value) for moment, _, value in self._readings if value is not None]
        energy, peak = _from_counter(joules)
        if watts:
            peak = max(value for _, value in watts)
            energy = _integral(watts) if energy is None else energy
        known = joules if len(joules) > 1 else watts
        if energy is None or len(known) < 2 or known[-1][0] <= known[0][0]:
            return Power()
        average = energy / (known[-1][0] - known[0][0])
        return Power(
            source=name,
            average_watts=average,
            peak_watts=None if peak is None else max(peak, average),
            joules_per_clip=energy / clips if clips else None,
        )


def _from_counter(readings: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    """Return the energy between the first and the last reading of a counter, and the highest power between two."""
    if len(readings) < 2:
        return None, None
    pairs = pairwise(readings)
    powers = [(b - a) / (after - before) for (before, a), (after, b) in pairs if after - before >= INTERVAL / 2]
    return readings[-1][1] - readings[0][1], max(powers, default=None)


def _integral(readings: Sequence[tuple[float, float]]) -> float:
    pairs = pairwise(readings)
    return sum((a + b) / 2 * (after - before) for (before, a), (after, b) in pairs)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
