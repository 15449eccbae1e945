"""Figures as a reader wants them: three digits, a unit, thousands apart; what is null is "not measured"."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.units import format_bytes

NOT_MEASURED = "not measured"
_LARGEST = 1e12
_TIMES = ((9.995e-4, 1e6, "µs"), (0.9995, 1e3, "ms"), (float("inf"), 1.0, "s"))
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")


def as_float(value: float) -> float:
    """Return a number as a float; the whole numbers of a record may be larger than any."""
    return float(max(-(10**300), min(10**300, value)) if isinstance(value, int) else value)


def significant(value: float, digits: int = 3) -> str:
    """Return a finite number with so many digits that mean something, thousands apart: 0.127, 1,763, 3.2e+15."""
    value = as_float(value)
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < _LARGEST:
        return f"{value:.{digits}g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def duration(seconds: float) -> str:
    """Return a time with its unit: 41.0 µs, 127 ms, 1.76 s, 1,234 s."""
    if seconds == 0:
        return "0 s"
    scale, unit = time_unit([seconds])
    return f"{significant(seconds * scale)} {unit}"


def span(low: float, high: float) -> str:
    """Return an interval of times in the unit of its upper end: 96.0 to 118 ms."""
    scale, unit = time_unit([high])
    return f"{significant(low * scale)} to {significant(high * scale)} {unit}"


def time_unit(seconds: Sequence[float]) -> tuple[float, str]:
    """Return the unit in which the largest of these times is read best: what to multiply seconds by, and its name."""
    largest = max(seconds, default=0.0)
    return next((scale, unit) for below, scale, unit in _TIMES if largest < below)


def percent(fraction: float) -> str:
    """Return a part of one in percent, two digits at least."""
    value = 100 * as_float(fraction)
    return f"{value:.0f}%" if value == 0 or 9.95 <= abs(value) < _LARGEST else f"{value:.2g}%"


def memory(count: int | None) -> str:
    """Return bytes for people, 183341056 as 175 MiB; "not measured" for None."""
    if count is None:
        return NOT_MEASURED
    return format_bytes(count) if count < 2**60 else f"{significant(count)} B"


def rate(value: float, unit: str) -> str:
    """Return a quantity with a decimal prefix: 160 GFLOP/s, 31.4 GB/s."""
    value, place = as_float(value), 0
    while abs(value) >= 999.5 and place < len(_DECIMAL) - 1:
        value, place = value / 1000, place + 1
    return f"{significant(value)} {_DECIMAL[place]}{unit}"


def plural(count: int, one: str) -> str:
    """Return a count with its noun: 1 run, 1,204 runs."""
    return f"{whole(count)} {one}" if count == 1 else f"{whole(count)} {one}s"


def whole(count: int) -> str:
    """Return a whole number, thousands apart."""
    return f"{count:,}" if abs(count) < _LARGEST else significant(count)


def listed(parts: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def tick(value: float) -> str:
    """Return the figure of an axis' mark, without zeros that mean nothing: 0.5, 25, 1,500."""
    return f"{value:,.6g}" if abs(value) < _LARGEST else f"{value:.3g}"
