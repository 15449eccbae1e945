"""Commands that measure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import Cancelled, UsageError
from ...core.interrupts import interrupts_wait
from ..application import app
from ..options import (
    DecoderOption,
    EngineOption,
    FormatSizeOption,
    JsonOption,
    MemoryOption,
    ThreadsOption,
    parse_format,
    parse_size,
)
from ..terminal import print_json, show_note, stage_progress
from .options import (
    AgainstOption,
    BundlesArgument,
    CheckpointOption,
    ColdOption,
    ColdRunsOption,
    EnginesOption,
    LengthsOption,
    MinRunsOption,
    MinSecondsOption,
    OutputOption,
    PromptsOption,
    QualityOption,
    SizesOption,
    StepsOption,
    TransformerOption,
)

if TYPE_CHECKING:
    from ...bench.records.record import Record, Timing

_PARTIAL = "what was measured until then is in the record, which is marked partial"

bench = typer.Typer(help="Measure how long clips take, and what that takes from the machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command()
def run(
    bundles: BundlesArgument = None,
    output: OutputOption = Path("bench-report"),
    engine: EnginesOption = "auto",
    prompts: PromptsOption = None,
    steps: StepsOption = None,
    sizes: SizesOption = None,
    frames: LengthsOption = None,
    min_runs: MinRunsOption = None,
    min_seconds: MinSecondsOption = 0,
    cold: ColdOption = True,
    cold_runs: ColdRunsOption = 5,
    quality: QualityOption = False,
    against: AgainstOption = None,
    checkpoint: CheckpointOption = None,
    transformer: TransformerOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every stage of making clips, cold and warm, and write the record into a folder."""
    with interrupts_wait():
        from ...bench.contenders.peers import find_peers
        from ...bench.records.diff import read
        from ...bench.records.earlier import with_earlier
        from ...bench.run import run_bench
        from ...runtime.batch import read_prompts

    chosen = None if prompts is None else read_prompts(prompts)
    counts = None if steps is None else _counts("--steps", steps)
    pixels = [None] if sizes is None else [parse_size(size) for size in sizes.split(",")]
    lengths = [None] if frames is None else _counts("--frames", frames)
    records = [name for name in against or [] if name.endswith(".json") or Path(name).is_dir()]
    earlier = [(Path(name), read(Path(name))) for name in records]
    names = [name for name in against or [] if name not in records]
    first = bundles[0] if bundles else None
    with (
        _measuring(output),
        find_peers(names, first, checkpoint, transformer) as peers,
        stage_progress() as progress,
    ):
        record = run_bench(
            bundles or (None,),
            [name.strip() for name in engine.split(",")],
            chosen,
            counts,
            pixels,
            lengths,
            min_runs=min_runs,
            min_seconds=min_seconds,
            cold=cold_runs if cold else 0,
            threads=threads,
            quality=quality,
            peers=peers,
            command=["edgereel", *sys.argv[1:]],
            on_progress=progress,
        )
    measured = record.rows
    record = with_earlier(record, earlier) if earlier else record
    _show(record, output, as_json)
    if record.partial:
        show_note(_PARTIAL)
        raise typer.Exit(Cancelled.exit_code)
    if not any(row.warm or row.cold for row in measured):
        failures = [failure for row in measured for failure in row.failures]
        show_note(f"no row was measured: {failures[0] if failures else 'no clip was made'}")
        raise typer.Exit(1)


@bench.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A record, or a report's folder.")],
    second: Annotated[Path, typer.Argument(help="What to compare with it.")],
    fail_over: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO", help="Exit with 1 where a total takes more than so many times as long, such as 1.08."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two records stage by stage, and name what else they differ in."""
    with interrupts_wait():
        from ...bench.records import diff as comparing

    found = comparing.diff(comparing.read(first), comparing.read(second))
    too_slow = [] if fail_over is None else found.slower(fail_over)
    failed = [{"row": row.second, "kind": stage.kind, "ratio": stage.ratio} for row, stage in too_slow]
    if as_json:
        print_json({**found.to_json(), "fail_over": fail_over, "failed": failed})
    else:
        print("\n".join(comparing.describe(found)))
    for row, stage in too_slow:
        show_note(f"{row.second}: {stage.kind} clips take {stage.ratio:.3g} times as long, more than {fail_over:g}")
    if too_slow:
        raise typer.Exit(1)


@bench.command()
def soak(
    bundle: Annotated[
        Path | None, typer.Argument(help="The .reel folder or a model's name; the built-in demo if left out.")
    ] = None,
    output: OutputOption = Path("soak-report"),
    clips: Annotated[int, typer.Option(min=16, help="How many clips, one after the other.")] = 500,
    skip: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="First clips that trends leave out, 16 must be left; 50, or up to a quarter of fewer than 200 clips, if left out.",
        ),
    ] = None,
    engine: EngineOption = "auto",
    prompts: PromptsOption = None,
    fail_memory: Annotated[
        float, typer.Option(metavar="MB", help="Fail if each clip adds more memory than that.")
    ] = 0.1,
    fail_latency: Annotated[
        float,
        typer.Option(metavar="TIMES", help="Fail if later clips surely take so many times as long as earlier ones."),
    ] = 1.1,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make many clips in one process and tell whether it fails, grows or slows down."""
    with interrupts_wait():
        from ...bench.load.soak import SoakLimits, run_soak
        from ...bench.report.results import soak_markdown
        from ...runtime.batch import read_prompts

    chosen = None if prompts is None else read_prompts(prompts)
    with _measuring(output), stage_progress() as progress:
        record = run_soak(
            bundle,
            engine,
            clips=clips,
            skip=skip,
            prompts=chosen,
            threads=threads,
            memory=memory,
            limits=SoakLimits(fail_memory, fail_latency),
            command=["edgereel", *sys.argv[1:]],
            on_progress=progress,
        )
    shown = {"made", "failed", "skipped", "verdict", "reasons", "memory_trend"}
    facts = {} if record.soak is None else record.soak.model_dump(include=shown)
    passed = record.soak is None or record.soak.verdict != "fail"
    _finish(record, output, facts if as_json else soak_markdown(record), record.partial, passed)


@bench.command()
def live(
    bundle: Annotated[Path | None, typer.Argument(help="The .reel folder; the built-in demo if left out.")] = None,
    seconds: Annotated[float, typer.Option(metavar="N", help="For how long the stream is watched.")] = 60,
    every: Annotated[float, typer.Option(metavar="N", help="Seconds between two changes of the prompt.")] = 20,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Keep the film: .mp4, .gif, .webp.")
    ] = None,
    size: FormatSizeOption = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the recipe's own if left out.")] = None,
    decoder: DecoderOption = None,
    engine: EngineOption = "auto",
    prompts: PromptsOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a stream: pictures a second, seconds until another prompt is seen, and whether memory grows."""
    with interrupts_wait():
        from ...bench.load.live import live_markdown, run_live
        from ...runtime.batch import read_prompts

    chosen = None if prompts is None else read_prompts(prompts)
    with stage_progress() as progress:
        found = run_live(
            bundle,
            engine,
            seconds=seconds,
            every=every,
            prompts=chosen,
            size=None if size is None else parse_format(size),
            steps=steps,
            decoder=decoder,
            output=output,
            threads=threads,
            memory=memory,
            on_progress=progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print(live_markdown(found))


@bench.command()
def mlperf(
    bundle: Annotated[
        Path | None, typer.Argument(help="The .reel folder or a model's name; the built-in demo if left out.")
    ] = None,
    output: OutputOption = Path("mlperf-report"),
    scenario: Annotated[
        str, typer.Option(metavar="NAME", help="singlestream: one query after the other; offline: all at once.")
    ] = "singlestream",
    min_duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Test for so long at least; MLPerf's own if left out.")
    ] = None,
    min_queries: Annotated[
        int | None, typer.Option(min=1, help="Make so many clips at least; MLPerf's own number if left out.")
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Then make every clip once more, keep it, and score the demo's.")
    ] = False,
    engine: EngineOption = "auto",
    prompts: PromptsOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run MLPerf's load generator as its text-to-video task does, and tell whether the test is valid."""
    with interrupts_wait():
        from ...bench.load.mlperf import run_mlperf
        from ...bench.report.results import mlperf_markdown
        from ...runtime.batch import read_prompts

    chosen = None if prompts is None else read_prompts(prompts)
    with _measuring(output), stage_progress() as progress:
        record = run_mlperf(
            bundle,
            scenario,
            output,
            engine=engine,
            prompts=chosen,
            threads=threads,
            memory=memory,
            min_seconds=min_duration,
            min_queries=min_queries,
            accuracy=accuracy,
            command=["edgereel", *sys.argv[1:]],
            on_progress=progress,
        )
    facts = {} if record.mlperf is None else record.mlperf.model_dump(mode="json")
    interrupted = "interrupted" in record.rows[0].failures
    passed = record.mlperf is not None and record.mlperf.valid
    _finish(record, output, facts if as_json else mlperf_markdown(record), interrupted, passed)


@contextmanager
def _measuring(output: Path) -> Iterator[None]:
    """Have the report's folder ready for the block; one that is interrupted measured nothing, and that is said."""
    from ...bench.records.folder import report_folder

    with report_folder(output):
        try:
            yield
        except (KeyboardInterrupt, Cancelled):
            show_note("nothing was measured yet")
            raise


def _show(record: Record, output: Path, as_json: bool) -> None:
    """Write record and page of `bench run`, and print its rows."""
    from ...bench.records.folder import write_record
    from ...bench.report import markdown_table, write_report
    from ...bench.report.peers import has_peers, peer_table

    path, pages = write_record(record, output), write_report(record, output)
    if as_json:
        rows = {row.name: {"warm_seconds": _median(row.warm), "cold_seconds": _median(row.cold)} for row in record.rows}
        print_json({"record": str(path), "partial": record.partial, "rows": rows})
        return
    print(markdown_table(record))
    if has_peers(record):
        print(f"\n{peer_table(record)}")
    show_note(f"the page is {pages[-1]}, the record {path}")


def _median(timing: Timing | None) -> float | None:
    return None if timing is None else timing.stages["total"].median


def _finish(record: Record, output: Path, found: dict[str, Any] | str, interrupted: bool, passed: bool) -> None:
    """Write record and page, print what was found, and end with the exit code of an interrupted or failed measurement.

    found: facts for a program, or text for people.
    """
    from ...bench.records.folder import write_record
    from ...bench.report import write_report

    path, pages = write_record(record, output), write_report(record, output)
    if isinstance(found, str):
        print(found)
    else:
        print_json({"record": str(path), "partial": record.partial, **found})
    show_note(f"the page is {pages[-1]}, the record {path}")
    if interrupted:
        show_note(_PARTIAL)
        raise typer.Exit(Cancelled.exit_code)
    if not passed:
        raise typer.Exit(1)


def _counts(option: str, text: str) -> list[int]:
    """Return the whole numbers of "1,2,4". Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 6 and int(part) for part in parts):
        raise UsageError(f"{option} {text}: write whole numbers from 1 on, with commas between them")
    return [int(part) for part in parts]
