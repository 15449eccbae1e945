"""What a report says, as plain text that Markdown and HTML both write down: sentences and tables."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...core.errors import one_line
from ..records.record import DETAILS, STAGES, GpuFacts, MachineLimits, Record, Row, RowComparison, Timing
from ..stats.statistics import runs_needed
from ..words import NOT_MEASURED, duration, listed, memory, percent, plural, rate, significant, span, time_unit, whole
from .scores import quality_text

_ONCE = (
    "These limits were measured once, before the clips; they vary with what else the machine does, and with its clocks."
)
TITLES = {"run": "Bench", "soak": "Soak", "mlperf": "MLPerf"}
STAGE_NAMES = {
    "total": "total",
    "start": "process start",
    "open": "open",
    "build": "build engine",
    "text": "text",
    "denoise": "denoise",
    "decode": "decode",
    "encode": "encode",
    "denoise_step": "one denoiser step",
    "first_frame": "decode to first frame",
    "frame": "each frame after it",
}


@dataclass(frozen=True)
class Table:
    """A table of text. head: titles of columns; every row begins with its name.

    numbers: columns from the second are figures; words_last: but not the last.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    numbers: bool = True
    words_last: bool = False


def timing_of(row: Row, kind: str) -> Timing | None:
    """Return a row's warm or cold times; None where there are none, or no total."""
    timing = row.warm if kind == "warm" else row.cold
    return timing if timing is not None and "total" in timing.stages else None


def pace(timing: Timing) -> str:
    """Return how the time to make a clip compares with the time it plays."""
    factor = timing.real_time_factor
    if factor <= 0:
        return "at no measured pace"
    return (
        f"{significant(1 / factor, 2)} times faster than it plays"
        if factor < 1
        else f"{significant(factor)} times as long as it plays"
    )


def clip_size(row: Row) -> str:
    """Return what a row's clips are: 64×64, 17 frames."""
    return f"{whole(row.settings.width)}×{whole(row.settings.height)}, {plural(row.settings.frames, 'frame')}"


def machine_line(record: Record) -> str:
    """Return the machine and the versions in one line."""
    machine = record.machine
    parts = [
        machine.processor,
        plural(machine.cores, "core"),
        memory(machine.memory) if machine.memory is not None else "memory unknown",
        *(gpu_text(gpu) for gpu in machine.gpus),
        machine.model,
        machine.system,
        *(f"{name} {version}" for name, version in record.versions.items()),
    ]
    return ", ".join(part for part in parts if part)


def gpu_text(gpu: GpuFacts) -> str:
    """Return a GPU in words."""
    size = f" {memory(gpu.memory)}" if gpu.memory is not None else ""
    return f"{gpu.name}{size} (compute capability {gpu.compute_capability}, driver {gpu.driver})"


def told(value: Any, write: Callable[[Any], str]) -> str:
    """Return a figure as `write` has it, and that it was not measured where it is None."""
    return NOT_MEASURED if value is None else write(value)


def rows_table(record: Record) -> Table:
    """Return the main table: what each row is, how long it takes, and how good its clips are."""
    head = ["row", "contender", "precision", "steps", "size", "warm median", "interval of the median", "p90", "p99"]
    head += ["cold total", "frames/s", "× clip length", "peak memory", "quality"]
    return Table("Clips from prompt to file", head, [_cells(row, record) for row in record.rows], words_last=True)


def _cells(row: Row, record: Record) -> list[str]:
    warm, cold = timing_of(row, "warm"), timing_of(row, "cold")
    times = [NOT_MEASURED] * 4
    if warm is not None:
        total = warm.stages["total"]
        sure = "none: one run"
        if total.runs > 1:
            sure = f"{span(total.median_low, total.median_high)} ({percent(total.median_confidence)})"
        times = [duration(total.median), sure, tail(warm, 90), tail(warm, 99)]
    return [
        row.name,
        row.contender,
        listed(list(dict.fromkeys(row.engine.precision))) or "not told",
        whole(row.settings.steps),
        clip_size(row),
        *times,
        told(cold, lambda cold: duration(cold.stages["total"].median)),
        told(warm, lambda warm: significant(warm.frames_per_second)),
        told(warm, lambda warm: significant(warm.real_time_factor)),
        peak_text(row),
        quality_text(row, record),
    ]


def tail(timing: Timing, percentile: int) -> str:
    """Return the total's 90th or 99th percentile, or how many more runs would give one."""
    total = timing.stages["total"]
    value = total.p90 if percentile == 90 else total.p99
    missing = runs_needed(percentile) - total.runs
    if value is None and missing > 0:
        return f"needs {plural(missing, 'more run')}"
    return NOT_MEASURED if value is None else duration(value)


def peak_bytes(row: Row, device: bool = False) -> int | None:
    """Return the most memory that any stage had, of the process or on the device; None where none was measured."""
    peaks = [stage.peak_device_bytes if device else stage.peak_host_bytes for stage in row.stages.values()]
    return max((peak for peak in peaks if peak is not None), default=None)


def peak_text(row: Row) -> str:
    """Return the peaks of memory, the device's where there is one."""
    device = peak_bytes(row, device=True)
    return memory(peak_bytes(row)) + ("" if device is None else f", device {memory(device)}")


def stage_table(record: Record, kind: str) -> Table | None:
    """Return the medians of all stages of warm or cold clips, in one unit; None where there are none."""
    rows = [(row, timing) for row in record.rows if (timing := timing_of(row, kind)) is not None]
    if not rows:
        return None
    names = [name for name in ("total", *STAGES, *DETAILS) if any(name in timing.stages for _, timing in rows)]
    scale, unit = time_unit([timing.stages["total"].median / 10 for _, timing in rows])
    lines = [
        [row.name, whole(timing.runs)]
        + [significant(timing.stages[name].median * scale) if name in timing.stages else "–" for name in names]
        for row, timing in rows
    ]
    return Table(
        f"Stages of {kind} clips, medians in {unit}", ["row", "runs", *(STAGE_NAMES[name] for name in names)], lines
    )


def resource_table(record: Record) -> Table | None:
    """Return what each stage took beside the machine's limits; None where nothing of that is known."""
    head = [
        "stage",
        "peak host memory",
        "peak device memory",
        "work",
        "traffic",
        "of peak compute",
        "of peak memory speed",
    ]
    lines = [
        [
            f"{row.name}: {STAGE_NAMES.get(name, name)}",
            memory(stage.peak_host_bytes),
            memory(stage.peak_device_bytes),
            told(stage.flops, lambda count: rate(count, "FLOP")),
            told(stage.bytes, lambda count: rate(count, "B")),
            told(stage.fraction_of_compute, percent),
            told(stage.fraction_of_memory, percent),
            stage.bound or "not known",
        ]
        for row in record.rows
        if row.warm is not None or row.cold is not None
        for name, stage in row.stages.items()
    ]
    return Table("What each stage takes, per warm clip", [*head, "bound by"], lines, words_last=True) if lines else None


def takes_table(record: Record) -> Table:
    """Return what each row took beside time: power, disk, installation, and what the machine did meanwhile."""
    head = [
        "row",
        "energy per clip",
        "power, average",
        "power, peak",
        "from",
        "read from disks",
        "installed",
        "conditions",
    ]
    lines = [
        [
            row.name,
            told(row.power.joules_per_clip, lambda joules: f"{significant(joules)} J"),
            told(row.power.average_watts, lambda watts: f"{significant(watts)} W"),
            told(row.power.peak_watts, lambda watts: f"{significant(watts)} W"),
            row.power.source,
            memory(row.bytes_read),
            memory(row.installed_bytes),
            conditions_text(row),
        ]
        for row in record.rows
    ]
    return Table("Energy, disk and conditions", head, lines, words_last=True)


def conditions_text(row: Row) -> str:
    """Return clocks, temperatures and throttling in words."""
    seen = row.conditions
    parts = []
    for name, readings in seen.clock_mhz.items():
        if readings:
            low, high = significant(min(readings), 4), significant(max(readings), 4)
            parts.append(f"{name} clock {low}{'' if low == high else f' to {high}'} MHz")
    parts += [f"{name} {significant(value)} °C" for name, value in seen.temperature_celsius.items()]
    reasons = f" ({listed(seen.reasons)})" if seen.reasons else ""
    throttled = {True: f"throttled{reasons}", False: "not throttled", None: "throttling not measured"}
    return ", ".join([*parts, throttled[seen.throttled]])


def ran_table(record: Record) -> Table:
    """Return what really ran: bundle, engine, provider, sampler, prompts."""
    head = [
        "row",
        "bundle",
        "stored as",
        "digest",
        "engine",
        "provider",
        "threads",
        "recipe",
        "guidance",
        "fps",
        "prompts",
    ]
    lines = []
    for row in record.rows:
        bundle, settings, engine = ["none", "–", "–"], row.settings, row.engine
        if row.bundle is not None:
            bundle = [f"{row.bundle.name}, {memory(row.bundle.bytes)}", row.bundle.precision, row.bundle.digest[:12]]
        lines.append(
            [
                row.name,
                *bundle,
                f"{engine.engine}, {engine.version}",
                listed(engine.provider) or "not told",
                whole(engine.threads),
                f"{settings.recipe}, {settings.sampler}",
                ", ".join(significant(value) for value in settings.guidance) or "none",
                whole(settings.fps),
                f"{whole(settings.prompts)} (sha256 {settings.prompts_sha256[:12]})",
            ]
        )
    return Table("What ran", head, lines, numbers=False)


def comparison_sentences(record: Record) -> list[str]:
    """Return what rows that took turns, or those of an earlier record, are to each other."""
    return [_compared(each) for each in record.comparisons]


def _compared(each: RowComparison) -> str:
    kind, stage = "round" if each.in_turns else "run", STAGE_NAMES.get(each.stage, each.stage)
    figures = f"{significant(each.ratio)} times its {stage} time"
    if each.verdict == "too few rounds to tell":
        return f"{each.second} and {each.first}: too few {kind}s to tell ({figures} in {plural(each.rounds, kind)})."
    figures += f", 99% interval {significant(each.low)} to {significant(each.high)}, {plural(each.rounds, kind)}"
    if each.verdict == "no difference found":
        return f"{each.second} and {each.first}: no difference found ({figures})."
    return f"{each.second} is {each.verdict} than {each.first} ({figures})."


def warnings_of(record: Record) -> list[str]:
    """Return what must be known before any figure is read: interruption, failures, throttling, other settings."""
    found = []
    if record.partial:
        found.append("Partial: the measurement was interrupted; this is what was measured until then.")
    found += [f"{row.name}: {text}" for row in record.rows for text in row.failures]
    throttled = [row.name for row in record.rows if row.conditions.throttled]
    if throttled:
        found.append(f"The machine slowed itself down while these were measured: {listed(throttled)}.")
    shapes = {(row.settings.width, row.settings.height, row.settings.frames) for row in record.rows}
    if len(shapes) > 1:
        found.append("Rows make clips of different sizes or lengths: compare those that are alike.")
    return found


def limits_sentences(record: Record) -> list[str]:
    """Return what the machine was found to do at most, and how that was measured."""
    named: list[tuple[str, MachineLimits]] = [] if record.limits is None else [("", record.limits)]
    named += [(f"{row.name}: ", row.limits) for row in record.rows if row.limits is not None]
    if not named:
        return [f"Limits of the machine: {NOT_MEASURED}."]
    return [*(f"{name}{_limits(limits)}" for name, limits in named), _ONCE]


def _limits(limits: MachineLimits) -> str:
    peaks = [f"{rate(value, 'FLOP/s')} in {kind}" for kind, value in limits.flops_per_second.items()]
    copied = NOT_MEASURED if limits.bytes_per_second is None else rate(limits.bytes_per_second, "B/s")
    return (
        f"at most {listed(peaks) or NOT_MEASURED}, memory copies {copied}, in {plural(limits.threads, 'thread')} "
        f"({limits.method})."
    )


def command_line(record: Record) -> str:
    """Return the command that repeats the measurement, quoted for a POSIX shell; "" where it was not told."""
    return one_line(shlex.join(record.command))


def when(record: Record) -> str:
    """Return when the measurement was made and how long it took."""
    return f"Started {record.started}, took {duration(record.seconds)}."


def title(record: Record) -> str:
    """Return what kind of measurement this is, and of what."""
    names = list(dict.fromkeys(row.bundle.name for row in record.rows if row.bundle is not None))
    more = f" and {whole(len(names) - 3)} more" if len(names) > 3 else ""
    return f"{TITLES[record.kind]}: {', '.join(names[:3])}{more}" if names else TITLES[record.kind]
