"""What a soak or a test through MLPerf's load generator came to: in sentences, and as Markdown for a terminal."""

from __future__ import annotations

from ...core.errors import one_line
from ..records.record import MEGABYTE, Mlperf, Record, Soak, Trend
from ..words import duration, percent, plural, significant, whole
from .scores import number_figures

_CONFIGURATION = (
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


def result_sentences(record: Record) -> list[str]:
    """Return the verdict, its reasons and its figures; nothing for a record of another kind."""
    sentences = []
    if record.soak is not None:
        soak = record.soak
        trends = [
            ("adds", soak.memory_trend, "MB of memory"),
            ("takes longer than the one before it by", soak.latency_trend, "s"),
        ]
        sentences = [f"Soak: {soak.verdict}. {_made(soak)}.", *soak.reasons]
        sentences += [f"Each clip {does} {_trend(trend, unit)}." for does, trend, unit in trends if trend is not None]
        sentences += [*_later_half(soak), skipped_sentence(soak)]
    return sentences + ([] if record.mlperf is None else _mlperf(record.mlperf))


def _made(soak: Soak) -> str:
    return f"{whole(soak.made)} of {plural(soak.asked, 'clip')} made, {whole(soak.failed)} failed"


def _later_half(soak: Soak) -> list[str]:
    if soak.second_half is None or soak.second_half_low is None or soak.second_half_high is None:
        return []
    interval = f"{significant(soak.second_half_low)} to {significant(soak.second_half_high)}"
    times = f"{significant(soak.second_half)} times as long as the earlier (99% interval {interval})"
    return [f"The later half of the clips took {times}."]


def skipped_sentence(soak: Soak) -> str:
    """Return how many clips count in no trend, and where there is none, that too few were made."""
    skipped = f"the first {whole(soak.skipped)} do not count" if soak.skipped else "all of them count"
    if soak.memory_trend is None:
        return f"Too few clips for a trend: {whole(soak.made)} made, {skipped}."
    return f"Of the clips, {skipped}."


def _trend(trend: Trend, unit: str) -> str:
    sure = f"{percent(trend.confidence)} interval {significant(trend.low)} to {significant(trend.high)}"
    return f"{significant(trend.per_clip)} {unit} ({sure})"


def soak_markdown(record: Record) -> str:
    """Return the verdict, trends and what ran, as Markdown. Raises ValueError for a record of another kind."""
    soak, row = record.soak, record.rows[0]
    if soak is None:
        raise ValueError("this is not the record of a soak")
    memory, latency = soak.limits["memory_mb_per_clip"], soak.limits["latency_second_half"]
    lines = [f"## Soak: {soak.verdict}", "", *(f"- {reason}" for reason in soak.reasons)]
    lines += [f"- {sentence}" for sentence in (*_later_half(soak), skipped_sentence(soak))]
    lines += ["", f"| {_made(soak)} | each clip adds | 99% interval | limit |", "|---|---:|---:|---:|"]
    for name, trend, digits, limit in (
        ("resident memory, MB", soak.memory_trend, 4, f"{memory:g}"),
        ("seconds", soak.latency_trend, 6, f"{latency:g} times in the later half"),
        ("open files", soak.open_files_trend, 3, "0"),
        ("threads", soak.threads_trend, 3, "0"),
    ):
        told = "too few clips | "
        if trend is not None:
            told = f"{trend.per_clip:+.{digits}f} | {trend.low:+.{digits}f} to {trend.high:+.{digits}f}"
        lines.append(f"| {name} | {told} | {limit} |")
    seen = [count / MEGABYTE for count in soak.resident_bytes if count is not None]
    after = [count / MEGABYTE for count in soak.resident_bytes[soak.skipped :] if count is not None]
    lines.append("")
    if after:
        lines.append(
            f"Memory: {seen[0]:.1f} MB after the first clip, {after[0]:.1f} after those skipped, {after[-1]:.1f} at the end, "
            f"{max(seen):.1f} at most."
        )
    lines.append(f"{row.name}: {row.engine.version}, {row.engine.threads} threads; {record.seconds:.0f} s in all.")
    return "\n".join(lines)


def _mlperf(mlperf: Mlperf) -> list[str]:
    sentences = [f"MLPerf {mlperf.scenario}: {'VALID' if mlperf.valid else 'INVALID'}, {mlperf.division} division."]
    sentences += mlperf.reasons
    sentences += [f"Short of the task: {reason}" for reason in mlperf.short_of_task]
    if mlperf.valid and mlperf.short_of_task:
        sentences.append("It is valid by its own settings, and no result in MLPerf's sense.")
    sentences += [f"{mlperf.division.capitalize()} division: {reason}" for reason in mlperf.division_reasons]
    if mlperf.p90_seconds is not None:
        sentences.append(f"90th percentile, by its early-stopping rule: {duration(mlperf.p90_seconds)}.")
    if mlperf.samples_per_second is not None:
        sentences.append(f"{significant(mlperf.samples_per_second)} clips a second.")
    shown = [f"{name.replace('_', ' ')} {value:g}" for name, value in number_figures(mlperf.accuracy or {}).items()]
    if accuracy := "; ".join(filter(None, [*shown, mlperf.accuracy_note])):
        sentences.append(f"Accuracy: {accuracy}.")
    return [*sentences, f"{plural(mlperf.samples, 'clip')} asked for and answered, by {mlperf.loadgen}."]


def mlperf_markdown(record: Record) -> str:
    """Return verdict, figures and configuration as Markdown. Raises ValueError for a record of another kind."""
    mlperf, row, settings = record.mlperf, record.rows[0], record.rows[0].settings
    if mlperf is None:
        raise ValueError("this is not the record of a test through MLPerf's load generator")
    verdict, *sentences = _mlperf(mlperf)
    guidance = ", ".join(f"{each:g}" for each in settings.guidance)
    clips = f"{settings.width}x{settings.height}, {settings.frames} frames, {settings.steps} steps"
    bundle = row.bundle
    table = [
        ("load generator", mlperf.loadgen),
        ("scenario, mode", f"{mlperf.scenario}, {' then '.join(mlperf.modes)}"),
        *((name, mlperf.settings[key]) for key, name in _CONFIGURATION if key in mlperf.settings),
        ("bundle", "" if bundle is None else f"{bundle.name}, {bundle.precision}, {bundle.digest[:12]}"),
        ("clips", f"{clips}, recipe {settings.recipe}, guidance {guidance}"),
        ("prompts", f"{settings.prompts}, sample n with seed n"),
        ("what ran", f"{row.engine.engine}, {row.engine.version}, {row.engine.threads} threads"),
        ("a query", "from the prompt to a finished MP4 file; nothing is cached between queries"),
        ("machine", f"{record.machine.processor}, {record.machine.cores} cores"),
        ("logs", f"{', '.join(mlperf.logs)} beside the record"),
    ]
    lines = [f"## {verdict}", "", *(f"- {one_line(sentence)}" for sentence in sentences), ""]
    lines += ["| configuration | |", "|---|---|", *(f"| {name} | {one_line(value)} |" for name, value in table)]
    return "\n".join(lines)
