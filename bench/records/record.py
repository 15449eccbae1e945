"""The record of a measurement: one JSON file with everything that a reader needs to believe it and to repeat it.

What was not measured is null, never 0. Times are seconds, memory and traffic bytes, power watts, energy joules. The schema is
published as docs/bench.schema.json; a record of a newer version is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...core.errors import UsageError, one_line

SCHEMA_VERSION = 1
STAGES = ("start", "open", "build", "text", "denoise", "decode", "encode")
"""What a clip's time is made of, in order: process start, opening the bundle and graphs, building engines (0 where the cache
had them), embedding the prompt, all denoiser steps, decoding all frames, encoding and muxing. They add up to `total`."""
DETAILS = ("denoise_step", "first_frame", "frame")
"""Times within stages: one denoiser step, decoding up to the first frame, each frame after it.

A decoder makes several frames at once: theirs is one time, divided by their number."""
LARGEST_RECORD = 2**28
MEGABYTE = 1e6  # bytes; what a soak's trend of memory is told in
UNCACHED = "Embeddings of prompts are not cached: every clip runs the text encoder."

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class RecordPart(BaseModel):
    """Base of all parts of a record: strict types, unknown keys kept."""

    model_config = ConfigDict(strict=True, extra="allow")


class GpuFacts(RecordPart):
    """An NVIDIA GPU as the driver tells of it."""

    name: str
    memory: Count | None
    compute_capability: str
    driver: str


class MachineFacts(RecordPart):
    """The machine, well enough described to look for one like it."""

    system: str
    processor: str
    cores: Count
    instruction_sets: list[str] | None
    memory: Count | None
    model: str = ""
    gpus: list[GpuFacts] = []


class MachineLimits(RecordPart):
    """What the machine was found to do at most, measured on the spot with as many threads as the contenders had.

    flops_per_second: of a large matrix product, by type (`float32`, `int8`, …). bytes_per_second: of a large copy of host
    memory, bytes read and written both counted; null for engines that work in another memory.
    """

    flops_per_second: dict[str, Number]
    bytes_per_second: Number | None
    threads: Count
    method: str


class Summary(RecordPart):
    """A distribution of times: see bench/stats/statistics.py. p90 and p99 are null where there are too few runs to tell them.

    median_confidence: of median_low to median_high. standard_deviation: null for a single run.
    """

    runs: Count
    median: Seconds
    median_low: Seconds
    median_high: Seconds
    median_confidence: Number = 0.95
    p90: Seconds | None
    p99: Seconds | None
    mean: Seconds
    standard_deviation: Seconds | None
    minimum: Seconds
    maximum: Seconds


class Timing(RecordPart):
    """Times of many clips. stages: of STAGES and DETAILS and `total`, those that apply. samples: the times themselves, in order.

    frames_per_second: frames of a clip by the median total; real_time_factor: the median total by the clip's length.
    """

    runs: Count
    stages: dict[str, Summary]
    samples: dict[str, list[Seconds]]
    frames_per_second: Number
    real_time_factor: Number

    @model_validator(mode="after")
    def _has_a_total(self) -> Timing:
        if "total" not in self.stages or "total" not in self.samples:
            raise ValueError("the total is missing among the stages")
        return self


class BundleFacts(RecordPart):
    """The bundle that ran. bytes: of all its files."""

    name: str
    digest: str
    precision: str
    bytes: Count


class EngineFacts(RecordPart):
    """What really ran, as the opened sessions told it. build: `cache`, `built` or "" for engines that build nothing."""

    engine: str
    version: str
    provider: list[str]
    precision: list[str]
    threads: Count
    lowered: str = ""
    build: str = ""
    build_seconds: Seconds = 0.0


class ClipSettings(RecordPart):
    """What was made. prompts_sha256: of the prompts, one a line."""

    width: Count
    height: Count
    frames: Count
    fps: Count
    steps: Count
    recipe: str
    sampler: str
    guidance: list[Number]
    prompts: Count
    prompts_sha256: str
    seeds: list[Count]


class Quality(RecordPart):
    """How good the clips are, so that times are not compared without it.

    source: `bundle` (figures that the bundle carries), `measured` (fresh ones), or `none`. figures: by name, as there.
    psnr_to_first_db: of the clips to those of the report's first row at the same prompts and noise; null where not comparable.
    psnr_to_reference_db: of the clips to those of the row's reference, likewise; null for the first row.
    psnr_to_edgereel_db: of a peer's clips to edgereel's of the same bundle and settings, likewise.
    """

    source: Literal["bundle", "measured", "none"]
    figures: dict[str, Any] = {}
    psnr_to_first_db: Number | None = None
    psnr_to_reference_db: Number | None = None
    psnr_to_edgereel_db: Number | None = None


class StageResources(RecordPart):
    """What a stage took. flops and bytes are counted from the graphs; the fractions are of the machine's limits.

    bytes are what every node reads and writes: what stays in the processor's caches can go over the limit of memory. bound:
    which limit it is nearer to.
    """

    peak_host_bytes: Count | None = None
    peak_device_bytes: Count | None = None
    flops: Count | None = None
    bytes: Count | None = None
    fraction_of_compute: Number | None = None
    fraction_of_memory: Number | None = None
    bound: Literal["compute", "memory"] | None = None


class Power(RecordPart):
    """Electrical power while this contender alone made clips, what the machine takes at rest included.

    source: `nvml` (the GPU's board), `rapl` (processor packages and memory), `jetson` (the module), or `not measured`.
    """

    source: str = "not measured"
    average_watts: Number | None = None
    peak_watts: Number | None = None
    joules_per_clip: Number | None = None


class Conditions(RecordPart):
    """What was seen while clips were timed; a record of several rows saw them in turns, and has it of all of them.

    clock_mhz: readings in order, by clock. temperature_celsius: the highest, by sensor. throttled: whether the machine slowed
    itself down, null where it does not tell; reasons: why, in words.
    """

    clock_mhz: dict[str, list[Number]] = {}
    temperature_celsius: dict[str, Number] = {}
    throttled: bool | None = None
    reasons: list[str] = []


class Row(RecordPart):
    """One contender at one setting. name: unique in the record. contender: `edgereel`, or a peer such as `diffusers eager`.

    reference: name of the row that this one was compared with: the first bundle's at the same engine, steps, size and
    length, else the first row; null for the first row itself, and where nothing was compared.
    cold: clips each made by a fresh process. warm: by one that stays. Memory and power are of clips after those that were
    timed, so that sampling takes nothing from the times. memory_timeline: (seconds since the first of these began, bytes of
    the process); memory_stages: (seconds, the stage that begins then). bytes_read: from disks, by the process from its start
    to the last of them; what the system had in its file cache is not read again. installed_bytes: of the packages the
    contender needs. limits: of its engine, where they are not the record's. failures: what went wrong, in order.
    """

    name: str
    contender: str
    bundle: BundleFacts | None
    engine: EngineFacts
    settings: ClipSettings
    warm: Timing | None
    cold: Timing | None
    quality: Quality
    reference: str | None = None
    stages: dict[str, StageResources] = {}
    memory_timeline: list[tuple[Number, Count]] = []
    memory_stages: list[tuple[Number, str]] = []
    bytes_read: Count | None = None
    installed_bytes: Count | None = None
    power: Power = Power()
    conditions: Conditions = Conditions()
    limits: MachineLimits | None = None
    failures: list[str] = []


class RowComparison(RecordPart):
    """The median ratio of two rows' times (second by first) with its 99% interval.

    in_turns: whether they were measured in turns, round by round; else rounds are the runs of the one that has fewer. Where
    the verdict is that these are too few, low and high are the range of what was seen, and no such interval.
    """

    first: str
    second: str
    stage: str
    ratio: Number
    low: Number
    high: Number
    rounds: Count
    verdict: Literal["faster", "slower", "no difference found", "too few rounds to tell"]
    in_turns: bool = True


class Trend(RecordPart):
    """By how much a series grew with each clip: the median of all pairs' slopes, and its interval (see stats/statistics.py)."""

    per_clip: Number
    low: Number
    high: Number
    confidence: Number


class Soak(RecordPart):
    """Many clips of one process, one after the other. Series have one entry for each clip, null for one that failed.

    skipped: how many of the first clips trends leave out. Memory is in bytes after each clip, its trend in MB (10^6 bytes).
    second_half: the median seconds of the later half of the clips by those of the earlier, low and high its interval.
    verdict: `fail` names its reasons; `undecided` where too few clips were made.
    """

    asked: Count
    made: Count
    failed: Count
    skipped: Count
    seconds: list[Seconds | None]
    resident_bytes: list[Count | None]
    open_files: list[Count | None]
    threads: list[Count | None]
    memory_trend: Trend | None
    latency_trend: Trend | None
    open_files_trend: Trend | None
    threads_trend: Trend | None
    second_half: Number | None
    second_half_low: Number | None
    second_half_high: Number | None
    limits: dict[str, Number]
    verdict: Literal["pass", "fail", "undecided"]
    reasons: list[str] = []


class Mlperf(RecordPart):
    """One test through MLPerf's load generator, in its own words where it has any.

    valid, reasons: its verdict on the settings that were used. short_of_task: where those ask for less than the task does; a
    valid test that is short of it is no result in MLPerf's sense. settings: what the load generator used. p90_seconds: its
    early-stopping estimate. samples: clips that were asked for and answered. logs: folders, relative to the record.
    accuracy: figures of the clips of the accuracy test, by a scorer that is not MLPerf's.
    """

    scenario: Literal["SingleStream", "Offline"]
    modes: list[str]
    valid: bool
    reasons: list[str]
    short_of_task: list[str]
    division: Literal["open"] = "open"
    division_reasons: list[str]
    loadgen: str
    settings: dict[str, Any]
    results: dict[str, Any]
    samples: Count
    p90_seconds: Seconds | None
    samples_per_second: Number | None
    logs: list[str]
    accuracy: dict[str, Any] | None = None
    accuracy_note: str = ""


class Record(RecordPart):
    """The whole file. partial: it was interrupted, and holds what was measured until then."""

    model_config = ConfigDict(strict=True, extra="allow", populate_by_name=True)

    schema_version: int = Field(default=SCHEMA_VERSION, alias="schema")
    kind: Literal["run", "soak", "mlperf"] = "run"
    partial: bool = False
    started: str
    seconds: Seconds
    command: list[str]
    machine: MachineFacts
    versions: dict[str, str]
    limits: MachineLimits | None = None
    rows: list[Row]
    comparisons: list[RowComparison] = []
    soak: Soak | None = None
    mlperf: Mlperf | None = None
    notes: list[str] = []

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON data, keys as they stand in the file."""
        return self.model_dump(mode="json", by_alias=True)

    def row(self, name: str) -> Row | None:
        """Return the row of that name, None where there is none."""
        return next((row for row in self.rows if row.name == name), None)


def read_record(path: Path) -> Record:
    """Return the record in a file. Raises UsageError, naming the file and what is wrong in it."""
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise UsageError(f"{path}: is too large for a record of a measurement")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: is not a record of edgereel bench (or a report folder): not JSON: {one_line(error)}"
        ) from error
    version = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UsageError(f"{path}: is not a record of edgereel bench: it has no schema version")
    if version > SCHEMA_VERSION:
        raise UsageError(f"{path}: was written by a newer edgereel (schema {version}): read it with that")
    try:
        return Record.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = one_line(".".join(map(str, first["loc"])) or "the file")
        raise UsageError(f"{path}: is damaged: {place}: {one_line(first['msg'])}") from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{path}: is damaged: {one_line(error)}") from error


def schema_text() -> str:
    """Return the JSON schema of a record, as docs/bench.schema.json has it: `python -m edgereel.bench.records.record` prints it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2)


if __name__ == "__main__":
    print(schema_text())
