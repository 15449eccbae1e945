"""What a soak or a test through MLPerf's load generator came to, in sentences."""

from __future__ import annotations

from ..records.record import Mlperf, Record, Soak, Trend
from ..wording import duration, percent, plural, significant, whole


def result_sentences(record: Record) -> list[str]:
    """Return the verdict, its reasons and its figures; nothing for a record of another kind."""
    sentences = [] if record.soak is None else _soak(record.soak)
    return sentences + ([] if record.mlperf is None else _mlperf(record.mlperf))


def _soak(soak: Soak) -> list[str]:
    made = f"{whole(soak.made)} of {plural(soak.asked, 'clip')} made, {whole(soak.failed)} failed"
    sentences = [f"Soak: {soak.verdict}. {made}.", *soak.reasons]
    if soak.memory_trend is not None:
        sentences.append(f"Each clip adds {_trend(soak.memory_trend, 'MB of memory')}.")
    if soak.latency_trend is not None:
        sentences.append(f"Each clip takes longer than the one before it by {_trend(soak.latency_trend, 's')}.")
    if soak.second_half is not None and soak.second_half_low is not None and soak.second_half_high is not None:
        sentences.append(
            f"The later half of the clips took {significant(soak.second_half)} times as long as the earlier (99% interval "
            f"{significant(soak.second_half_low)} to {significant(soak.second_half_high)})."
        )
    return [*sentences, skipped_sentence(soak)]


def skipped_sentence(soak: Soak) -> str:
    """Return how many clips count in no trend, and where there is none, that too few were made."""
    skipped = f"the first {whole(soak.skipped)} do not count" if soak.skipped else "all of them count"
    if soak.memory_trend is None:
        return f"Too few clips for a trend: {whole(soak.made)} made, {skipped}."
    return f"Of the clips, {skipped}."


def _trend(trend: Trend, unit: str) -> str:
    sure = f"{percent(trend.confidence)} interval {significant(trend.low)} to {significant(trend.high)}"
    return f"{significant(trend.per_clip)} {unit} ({sure})"


def _mlperf(mlperf: Mlperf) -> list[str]:
    sentences = [f"MLPerf {mlperf.scenario}: {'VALID' if mlperf.valid else 'INVALID'}, {mlperf.division} division."]
    sentences += mlperf.reasons
    sentences += [f"Short of the task: {reason}" for reason in mlperf.short_of_task]
    if mlperf.valid and mlperf.short_of_task:
        sentences.append("It is valid by its own settings, and no result in MLPerf's sense.")
    sentences += [f"Why the {mlperf.division} division: {reason}" for reason in mlperf.division_reasons]
    if mlperf.p90_seconds is not None:
        sentences.append(f"90th percentile, by its early-stopping rule: {duration(mlperf.p90_seconds)}.")
    if mlperf.samples_per_second is not None:
        sentences.append(f"{significant(mlperf.samples_per_second)} clips a second.")
    return [*sentences, f"{plural(mlperf.samples, 'clip')} asked for and answered, by {mlperf.loadgen}."]
