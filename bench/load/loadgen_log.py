"""What MLPerf's load generator wrote: its detailed log is lines of `:::MLLOG {"key": ..., "value": ..., "metadata": ...}`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import one_line

_MARK = ":::MLLOG "
_LARGEST_LOG = 2**30
_LONGEST_VALUE = 2000


@dataclass(frozen=True)
class LoadgenLog:
    """values: the last one of each key. errors, warnings: what it complained of, in order."""

    values: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def part(self, prefix: str) -> dict[str, Any]:
        """Return plain values whose keys begin so, without that beginning."""
        found = {key[len(prefix) :]: value for key, value in self.values.items() if key.startswith(prefix)}
        return {key: value for key, value in found.items() if isinstance(value, str | int | float | bool)}

    def number(self, key: str) -> float | None:
        """Return a value that is a number, None where there is none."""
        value = self.values.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_log(path: Path) -> LoadgenLog:
    """Return what a detailed log says; nothing where there is no such file. Lines that are none of it are passed over."""
    log = LoadgenLog()
    try:
        if path.stat().st_size > _LARGEST_LOG:
            return log
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                _take(line, log)
    except OSError:
        return log
    return log


def _take(line: str, log: LoadgenLog) -> None:
    if not line.startswith(_MARK):
        return
    try:
        entry = json.loads(line[len(_MARK) :])
    except (ValueError, RecursionError):  # the last line of a process that was ended
        return
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
        return
    key, value = entry["key"], entry.get("value")
    log.values[key] = value[:_LONGEST_VALUE] if isinstance(value, str) else value
    metadata = entry.get("metadata")
    if isinstance(metadata, dict):
        said = one_line(f"{key}: {value}"[:_LONGEST_VALUE])
        if metadata.get("is_error") is True:
            log.errors.append(said)
        elif metadata.get("is_warning") is True:
            log.warnings.append(said)


def reasons_invalid(log: LoadgenLog) -> list[str]:
    """Return why a test is not valid, as the log tells it; empty for a valid one."""
    values = log.values
    if values.get("result_validity") == "VALID" and not log.errors:
        return []
    found = []
    if values.get("result_min_duration_met") is False:
        found.append(f"it was shorter than {(log.number('effective_min_duration_ms') or 0) / 1000:g} s")
    if values.get("result_min_queries_met") is False:
        found.append(f"it had fewer queries than {log.number('effective_min_query_count') or 0:.0f}")
    if values.get("early_stopping_met") is False:
        found.append("too few queries to estimate the percentile: " + _plain(values.get("early_stopping_result")))
    if advice := _plain(values.get("result_invalid_reason")):
        found.append(f"the load generator advises: {advice}")
    found += log.errors
    return found or ["the load generator wrote no result"]


def _plain(text: Any) -> str:
    """Return the load generator's bullets as one line."""
    return " ".join(one_line(text).replace(" * ", " ").split()) if isinstance(text, str) else ""
