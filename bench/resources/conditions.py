"""The state the machine is in while it is measured: clocks, temperatures, and whether it slowed itself down."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import one_line
from ...core.system_files import read_number, read_text
from ..records.record import Conditions
from .nvml import Nvml
from .watcher import Watcher

INTERVAL = 0.5
READINGS = 100
"""How many readings of a clock are kept, evenly thinned."""


def cpu_clock(root: Path = Path("/")) -> float | None:
    """Return the mean clock of the processor's cores in MHz."""
    hertz = [read_number(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    clocks = [value / 1000 for value in hertz if value]
    if not clocks:
        for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "cpu MHz":
                try:
                    clocks.append(float(value))
                except ValueError:
                    continue
    return sum(clocks) / len(clocks) if clocks else None


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Return degrees Celsius by sensor: thermal zones, and hwmon's, of which each chip's highest."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        _note(found, read_text(zone / "type") or zone.name, read_number(zone / "temp"))
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        for path in chip.glob("temp*_input"):
            _note(found, read_text(chip / "name") or chip.name, read_number(path))
    return found


def _note(found: dict[str, float], name: str, thousandths: int | None) -> None:
    """Keep the highest reading of a sensor; those that are off tell of temperatures that cannot be."""
    if thousandths is not None and -40_000 < thousandths < 200_000:
        name = one_line(name)
        found[name] = max(found.get(name, -100.0), thousandths / 1000)


def throttle_count(root: Path = Path("/")) -> int | None:
    """Return how often the processor's cores and packages have been slowed for heat since the system started."""
    counts = [
        read_number(path)
        for kind in ("core", "package")
        for path in (root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/thermal_throttle/{kind}_throttle_count")
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


class ConditionsWatch(Watcher):
    """Looks at the machine every half second while the block runs."""

    def __init__(self, root: Path = Path("/"), nvml: Nvml | None = None, interval: float = INTERVAL) -> None:
        """root: where Linux keeps proc/ and sys/. nvml: the GPU, where one is worked on."""
        super().__init__(interval)
        self._root = root
        self._nvml = nvml
        self._clocks: dict[str, list[float]] = {}
        self._temperatures: dict[str, float] = {}
        self._reasons: dict[str, None] = {}
        self._told = False
        self._before = throttle_count(root)

    def look(self) -> None:
        """Take one reading of everything now."""
        clock = cpu_clock(self._root)
        clocks = {} if clock is None else {"cpu": clock}
        seen = temperatures(self._root)
        if self._nvml is not None:
            clocks |= self._nvml.clocks()
            if (degrees := self._nvml.temperature()) is not None:
                seen["gpu"] = degrees
            if (reasons := self._nvml.throttling()) is not None:
                self._told = True
                self._reasons.update(dict.fromkeys(f"gpu: {reason}" for reason in reasons))
        for name, value in clocks.items():
            self._clocks.setdefault(name, []).append(round(value, 1))
        for name, value in seen.items():
            self._temperatures[name] = max(value, self._temperatures.get(name, value))

    def result(self) -> Conditions:
        """Return what was seen; throttled is None where nothing tells of it."""
        after = throttle_count(self._root)
        reasons = list(self._reasons)
        if self._before is not None and after is not None and after > self._before:
            reasons.insert(0, f"cpu: temperature, {after - self._before} times")
        told = self._told or (self._before is not None and after is not None)
        return Conditions(
            clock_mhz={name: values[:: -(-len(values) // READINGS)] for name, values in self._clocks.items()},
            temperature_celsius=dict(self._temperatures),
            throttled=bool(reasons) if told else None,
            reasons=reasons,
        )
