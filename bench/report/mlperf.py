"""The record of a test through MLPerf's load generator, as Markdown."""

from __future__ import annotations

from ...core.errors import one_line
from ..records.record import Mlperf, Record

_SHOWN = (
    ("min_duration_ms", "minimum duration, ms"),
    ("min_query_count", "minimum queries"),
    ("min_sample_count", "minimum samples"),
    ("samples_per_query", "samples per query"),
    ("target_latency_percentile", "target percentile"),
    ("max_async_queries", "queries at once"),
    ("performance_sample_count", "samples in the library"),
    ("qsl_rng_seed", "seed of the library"),
    ("sample_index_rng_seed", "seed of the sample order"),
    ("schedule_rng_seed", "seed of the schedule"),
)


def mlperf_markdown(record: Record) -> str:
    """Return verdict, figures and configuration as Markdown. Raises ValueError for a record of another kind."""
    mlperf, row = record.mlperf, record.rows[0]
    if mlperf is None:
        raise ValueError("this is not the record of a test through MLPerf's load generator")
    settings = row.settings
    lines = [f"## MLPerf {mlperf.scenario}: {'VALID' if mlperf.valid else 'INVALID'}", ""]
    lines += [f"- {one_line(reason)}" for reason in mlperf.reasons]
    lines += [f"- short of the task: {one_line(reason)}" for reason in mlperf.short_of_task]
    if mlperf.short_of_task and mlperf.valid:
        lines.append("- so this is valid by its own settings, and no result in MLPerf's sense")
    lines += [*_figures(mlperf), "", f"Open division: {'; '.join(map(one_line, mlperf.division_reasons))}.", ""]
    lines += ["| configuration | |", "|---|---|"]
    lines.append(f"| load generator | {one_line(mlperf.loadgen)} |")
    lines.append(f"| scenario, mode | {mlperf.scenario}, {' then '.join(mlperf.modes)} |")
    lines += [f"| {name} | {mlperf.settings[key]} |" for key, name in _SHOWN if key in mlperf.settings]
    bundle = (
        "" if row.bundle is None else f"{one_line(row.bundle.name)}, {row.bundle.precision}, {row.bundle.digest[:12]}"
    )
    lines.append(f"| bundle | {bundle} |")
    lines.append(
        f"| clips | {settings.width}x{settings.height}, {settings.frames} frames, {settings.steps} steps, "
        f"recipe {one_line(settings.recipe)}, guidance {', '.join(f'{each:g}' for each in settings.guidance)} |"
    )
    lines.append(f"| prompts | {settings.prompts}, sample n with seed n |")
    lines.append(
        f"| what ran | {one_line(row.engine.engine)}, {one_line(row.engine.version)}, {row.engine.threads} threads |"
    )
    lines.append("| a query | from the prompt to a finished MP4 file; nothing is cached between queries |")
    lines.append(f"| machine | {one_line(record.machine.processor)}, {record.machine.cores} cores |")
    lines += ["", f"Accuracy: {_accuracy(mlperf)}", "", f"Logs: {', '.join(mlperf.logs)} beside the record."]
    return "\n".join(lines)


def _figures(mlperf: Mlperf) -> list[str]:
    found = []
    if mlperf.p90_seconds is not None:
        found.append(f"- 90th percentile latency, early-stopping estimate: {mlperf.p90_seconds:.4f} s")
    if mlperf.samples_per_second is not None:
        found.append(f"- {mlperf.samples_per_second:.4g} clips a second")
    return [*found, f"- {mlperf.samples} clips completed"]


def _accuracy(mlperf: Mlperf) -> str:
    if not mlperf.accuracy:
        return one_line(mlperf.accuracy_note) + "."
    figures = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in mlperf.accuracy.items())
    return f"{figures}; {one_line(mlperf.accuracy_note)}."
