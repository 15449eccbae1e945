"""Making a campaign: rows in the order that saves most, whoever makes them; each is signed, named and noted once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import EdgereelError, OutputError, UsageError
from ...core.files import check_file_target, replace_file, sha256_of
from ...core.progress import Progress, report_progress
from ...media.label import Label
from ...provenance.claim import Origin
from ...provenance.marks import Marks
from ...runtime.batch import ReelOptions
from ...runtime.reel import Reel
from ...runtime.video.output import Output
from .contact_sheet import write_sheet
from .executor import RowResult
from .manifest import Manifest
from .row_job import RowJob
from .rows import CampaignFile, Row, campaign_rows, read_campaign
from .where import Where


@dataclass(frozen=True)
class CampaignOptions:
    """bundle: in the place of the campaign's. marks, label: of every video. screen: see Policy.check. private: see Video.save.

    where: who makes the rows. on_note: told what a user should know of those.
    """

    bundle: Path | None = None
    marks: Marks | None = None
    label: Label | None = None
    screen: Callable[[str], str] | None = None
    private: bool = False
    where: Where = field(default_factory=Where)
    on_note: Callable[[str], object] | None = None


def describe_campaign(
    path: Path, folder: Path, options: CampaignOptions, reel_options: ReelOptions, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Return which rows a campaign has, and which of them are made. Nothing is made."""
    file = read_campaign(path)
    with reel_options.open(_bundle(file, options), on_progress) as reel:
        rows = _checked_rows(file, reel, options, on_progress)
        manifest = Manifest(folder) if folder.is_dir() else None
        listed = [
            {
                "name": row.name,
                "prompt": row.request.prompt,
                "seed": row.request.seed,
                "state": _state(manifest, row, folder / f"{row.name}{file.campaign.suffix}"),
            }
            for row in rows
        ]
    return {"title": file.campaign.title, "folder": str(folder), "rows": listed}


def run_campaign(
    path: Path,
    folder: Path,
    options: CampaignOptions,
    reel_options: ReelOptions,
    on_progress: Progress | None = None,
    on_row: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Make every row that is not made yet, those that failed too, and return how many there are of each state.

    All rows are checked before the first is made. A row that fails is noted, and the others go on. In the folder are the
    videos, manifest.json, manifest.jsonl and sheet.png. Raises SourceError, UsageError, OutputError, BundleError, Cancelled.
    """
    file = read_campaign(path)
    suffix = file.campaign.suffix
    reel_options = options.where.share(reel_options)
    with reel_options.open(_bundle(file, options), on_progress) as reel:
        rows = _checked_rows(file, reel, options, on_progress)
        _make_folder(folder)
        manifest = Manifest(folder)
        outputs = dict(
            zip(
                (row.name for row in rows),
                Output.check_all([folder / f"{row.name}{suffix}" for row in rows]),
                strict=True,
            )
        )
        for row in rows:
            outputs[row.name].at(row.fps).marked(options.marks, options.label, *row.size.shown)
        ours = {os.path.realpath(folder / name) for name in ("sheet.png", "manifest.json", "manifest.jsonl")}
        for source in (path, path.parent / (file.campaign.rows or path.name)):
            if os.path.realpath(source) in ours:
                raise OutputError(f"cannot write {source}: the campaign is read from it: name another folder")
        check_file_target(folder / "sheet.png")
        waiting = [row for row in rows if _state(manifest, row, folder / f"{row.name}{suffix}") != "made"]
        jobs = [
            RowJob.of(row, suffix, options.marks, options.label, options.private) for row in sorted(waiting, key=_order)
        ]
        made = len(rows) - len(jobs)
        report_progress(on_progress, "rows", made, len(rows))
        bundle = _bundle(file, options)
        with options.where.executor(len(jobs), reel, bundle, reel_options, folder, options.on_note) as executor:
            by_name = {row.name: row for row in waiting}
            with contextlib.closing(executor.results(jobs, on_progress)) as results:
                for done, result in enumerate(results, start=made + 1):
                    entry = _finished(by_name[result.job.name], result, outputs[result.job.name], options)
                    manifest.add(entry)
                    if on_row is not None:
                        on_row(entry)
                    report_progress(on_progress, "rows", done, len(rows))
        facts = {
            "title": file.campaign.title,
            "bundle": reel.bundle.manifest.name,
            "bundle_digest": reel.bundle.manifest.digest,
            "numerics": reel.numerics(),
        }
        names = [row.name for row in rows]
        written = manifest.write(facts, names)
    states = [manifest.lines.get(name, {}).get("state", "waiting") for name in names]
    write_sheet(folder / "sheet.png", [(row.name, folder / f"{row.name}{suffix}") for row in rows])
    return {
        "title": file.campaign.title,
        "folder": str(folder),
        "manifest": str(written),
        "sheet": str(folder / "sheet.png"),
        "rows": len(rows),
        "made_now": sum(manifest.lines[row.name]["state"] == "made" for row in waiting),
        "made": states.count("made"),
        "failed": states.count("failed"),
    }


def _order(row: Row) -> tuple[Any, ...]:
    """Rows of one size, recipe and prompt follow one another: plans and embeddings are used again."""
    request = row.request
    return (
        (request.width, request.height, request.frames),
        request.recipe,
        request.decoder or "",
        request.prompt,
        request.seed,
        row.number,
    )


def _checked_rows(file: CampaignFile, reel: Reel, options: CampaignOptions, on_progress: Progress | None) -> list[Row]:
    rows = campaign_rows(file, reel, on_progress)
    if options.screen is not None:
        for row in rows:
            try:
                left = options.screen(row.request.prompt)
            except UsageError as error:
                raise file.source.error(("prompt",), f"row {row.number + 1} ({row.name}): {error}") from error
            if left != row.request.prompt:
                raise file.source.error(
                    ("prompt",), f"row {row.number + 1} ({row.name}): the policy takes words out of it"
                )
    planned = set()
    for row in rows if options.where.is_here else []:  # what other machines hold, they plan
        size = (row.request.width, row.request.height, row.request.frames)
        if size not in planned:
            reel.plan(*size)
            planned.add(size)
    return rows


def _finished(row: Row, result: RowResult, output: Output, options: CampaignOptions) -> dict[str, Any]:
    """Sign a row's file, give it its name, and return what became of the row."""
    settings = row.request.settings()
    if options.private:
        settings = {key: value for key, value in settings.items() if not key.endswith("prompt")}
    entry: dict[str, Any] = {
        "name": row.name,
        "file": output.path.name,
        "values": {axis: short for axis, (short, _) in row.values.items()},
        "pair": row.pair,
        "key": row.key,
        "settings": settings,
    }
    error = result.error
    if result.made is not None:
        try:
            entry |= _sealed(result.made, result.part, output, options)
        except (EdgereelError, OSError) as problem:
            error = str(problem)
    if error is not None:
        error = error.replace(str(result.part), str(output.given))
        entry |= {"state": "failed", "error": error}
    if result.tries > 1:
        entry["tries"] = result.tries
    return {**entry, "at": int(time.time())}


def _sealed(made: dict[str, Any], part: Path, output: Output, options: CampaignOptions) -> dict[str, Any]:
    """Sign a file where that was asked for, and give it its name; return what its entry says of it. Raises OutputError, OSError."""
    marks = None
    if options.marks is not None:
        origin = Origin(made["settings"])
        marks = options.marks.seal_finished(part, output.format, origin, made["watermark"])
    with part.open("rb") as file:
        entry = {"state": "made", "sha256": sha256_of(file), "bytes": part.stat().st_size}
    replace_file(part, output.path)
    entry |= {key: made[key] for key in ("seconds", "numerics") if key in made}
    return entry if marks is None else {**entry, "marks": marks}


def _state(manifest: Manifest | None, row: Row, path: Path) -> str:
    """Return `made` where a row's file is there as it was written, of the same settings; `failed`, or `waiting`."""
    entry = {} if manifest is None else manifest.lines.get(row.name, {})
    if entry.get("state") == "failed":
        return "failed"
    try:
        there = path.stat().st_size == entry.get("bytes")
    except OSError:
        there = False
    return "made" if there and entry.get("state") == "made" and entry.get("key") == row.key else "waiting"


def _bundle(file: CampaignFile, options: CampaignOptions) -> Path | None:
    return options.bundle or (None if file.campaign.model is None else Path(file.campaign.model))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error
