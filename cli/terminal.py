"""What the command line shows on a terminal: progress bars on stderr, JSON and tables on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..core.errors import one_line
from ..core.units import format_bytes

if TYPE_CHECKING:
    from ..bundle.library.models import Model
    from ..doctor.report import Report
    from ..engines.cache.engines import EntryInfo
    from ..engines.cache.parts import CachePart
    from ..runtime.memory.plan import MemoryPlan

stderr = Console(stderr=True)

_MARKS = {
    "ok": ("ok", "green"),
    "warn": ("warn", "yellow"),
    "missing": ("missing", "red"),
    "optional": ("-", ""),
    "information": ("", ""),
}
_STAGES = {
    "check": "checking files",
    "fit": "what fits in memory",
    "prompts": "checking prompts",
    "text": "reading the prompt",
    "encode pictures": "encoding pictures",
    "embed": "embedding prompts",
    "denoise": "denoising",
    "tiles": "decoding tiles",
    "decode": "decoding",
    "scenes": "scenes",
    "plan scenes": "checking scenes",
    "film": "writing the film",
    "rows": "videos",
    "build": "building engines",
    "compile": "compiling graphs",
    "live": "watching",
    "lower": "lowering graphs",
    "export": "exporting",
    "calibrate": "sampling clips",
    "plan": "choosing scales",
    "measure": "trying each layer",
    "quantize": "writing graphs",
    "copy": "copying, in MB",
    "pack": "packing, in MB",
    "first": "first bundle",
    "second": "second bundle",
}


class StageProgress:
    """Shows one bar per stage on stderr; call it as an `on_progress` callback."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` units of a stage are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(_STAGES.get(stage, stage), total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def restart(self, done: int, total: int) -> None:
        """Use the bars again, for the next of several clips, below one that counts these."""
        if total > 1:
            self("clips", done, total)
            for stage, task in self._tasks.items():
                if stage != "clips":
                    self._progress.reset(task)


@contextmanager
def stage_progress(quiet: bool = False) -> Iterator[StageProgress]:
    """Give a progress callback for the time of the block; it shows nothing where stderr is not a terminal."""
    columns = (TextColumn("{task.description:>18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, disable=quiet or not stderr.is_terminal) as progress:
        yield StageProgress(progress)


def print_json(data: dict[str, Any]) -> None:
    """Print an object on stdout, for programs to read."""
    print(json.dumps(data, indent=2))  # escaped, since not every terminal and pipe takes all of Unicode


def print_video(result: dict[str, Any]) -> None:
    """Print one line on a finished video: where it is, the seconds of each stage, the most memory that was taken."""
    times = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result["seconds"].items())
    peaks = {"": result["memory"]["peak_host_bytes"], " on the GPU": result["memory"]["peak_device_bytes"]}
    known = [f"{peak / 2**20:.0f} MiB{where}" for where, peak in peaks.items() if peak is not None]
    memory = f"; {' and '.join(known)} at most" if known else ""
    print(f"{one_line(result['output'])}  ({times}{memory})")
    if "latents" in result:
        print(f"{one_line(result['latents'])}  (its latents, for edgereel decode)")


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print what became of one video, as an object or as a line."""
    if as_json:
        print_json(result)
    else:
        print_video(result)


def show_plan(quiet: bool, always: bool) -> Callable[[MemoryPlan], None]:
    """Return what prints a memory plan on stderr: where it was asked for, or where not everything stays open."""

    def show(plan: MemoryPlan) -> None:
        from ..runtime.memory.plan import describe_plan

        usual = all(part.placement == "resident" for part in plan.components.values()) and plan.tile is None
        if not quiet and (always or not usual):
            for line in describe_plan(plan):
                stderr.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    return show


def print_cache(parts: Sequence[CachePart], engines: Sequence[EntryInfo], as_json: bool) -> None:
    """Print the parts of the cache folder and the built engines."""
    if as_json:
        folders = [
            {"name": part.name, "path": str(part.path), "bytes": part.bytes, "files": part.files} for part in parts
        ]
        print_json({"parts": folders, "engines": [asdict(entry) for entry in engines]})
        return
    for part in parts:
        ours = "" if part.ours else "  (not edgereel's)"
        print(
            f"{one_line(part.name):<12} {format_bytes(part.bytes):>10} in {part.files} files  {one_line(part.path)}{ours}"
        )
    for entry in engines:
        what = "" if entry.key is None else f"{entry.key.backend} {entry.key.backend_version}, {entry.key.card}"
        used = "" if entry.last_used is None else time.strftime("%Y-%m-%d", time.localtime(entry.last_used))
        print(f"  {entry.digest[:12]}  {format_bytes(entry.size):>10}  {entry.state:<11} {used}  {one_line(what)}")
    if not parts:
        print("the cache is empty")


def print_models(models: Sequence[Model], folder: Path | None, as_json: bool) -> None:
    """Print which models there are: name, size, what the weights are stored as, what the model calls itself."""
    if as_json:
        listed = [model.to_json() for model in models]
        print_json({"folder": None if folder is None else str(folder), "models": listed})
        return
    width = max(len(model.name) for model in models)
    for model in models:
        if model.manifest is None:
            what = f"cannot be used: {model.problem}"
        else:
            own = "" if model.manifest.name == model.name else f"  {model.manifest.name}"
            what = f"{model.manifest.precision.weights}{own}{'  (built in)' * model.is_built_in}"
        print(one_line(f"{model.name:<{width}}  {format_bytes(model.bytes):>9}  {what}"))


def show_pick(text: str) -> None:
    """Print which engine was picked and why, for who sits at a terminal; the record of a run has it too."""
    if stderr.is_terminal:
        stderr.print(f"engine: {one_line(text)}", style="dim", markup=False, highlight=False, soft_wrap=True)


def show_note(text: str) -> None:
    """Print one line on stderr that the user should know of."""
    stderr.print(f"edgereel: {one_line(text)}", markup=False, highlight=False, soft_wrap=True)


def print_report(report: Report) -> None:
    """Print what doctor found as a table, and below it what there is to do."""
    stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table(box=None, show_header=False, pad_edge=False)
    section = ""
    for finding in report.findings:
        if finding.section != section:
            section = finding.section
            table.add_row(Text(section, style="bold"))
        mark, style = _MARKS[finding.status]
        table.add_row(Text(f"  {finding.name}"), Text(mark, style=style), Text(finding.detail))
    stdout.print(table)
    print("\nready to make videos" if report.ready else "\nno video can be made yet")
    for reason, commands in report.to_do:
        print("\n" + "\n    ".join([f"{one_line(reason)}{':' * bool(commands)}", *commands]))
