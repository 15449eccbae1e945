"""Making a campaign: one open model, rows in the order that saves most, each noted as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import Cancelled, EdgereelError, EngineError, OutputError, UsageError
from ...core.files import check_file_target, sha256_of
from ...core.progress import Progress, report_progress
from ...media.label import Label
from ...media.lettering import Lettering
from ...provenance.claim import Origin
from ...provenance.marks import Marks
from ...runtime.batch import ReelOptions
from ...runtime.clip import Video, file_metadata
from ...runtime.decoding.frame_check import FrameCheck
from ...runtime.pictures.fit import fit_picture
from ...runtime.reel import Reel
from ...runtime.video.output import Output
from ..film.pictures import write_still
from .manifest import Manifest
from .rows import CampaignFile, Row, campaign_rows, read_campaign

Picture = NDArray[np.uint8]
_TILE = 96
"""Pixels of a picture's longer side on the contact sheet."""
_LETTERS = 18
"""Pixels for a name below it."""
_MOST_TILES = 600


@dataclass(frozen=True)
class CampaignOptions:
    """bundle: in the place of the campaign's. marks, label: of every video. screen: see Policy.check. private: see Video.save."""

    bundle: Path | None = None
    marks: Marks | None = None
    label: Label | None = None
    screen: Callable[[str], str] | None = None
    private: bool = False


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
        check_file_target(folder / "sheet.png")
        waiting = [row for row in rows if _state(manifest, row, folder / f"{row.name}{suffix}") != "made"]
        made = len(rows) - len(waiting)
        for done, row in enumerate(sorted(waiting, key=_order), start=made):
            report_progress(on_progress, "rows", done, len(rows))
            entry = _make_row(row, reel, outputs[row.name], options, on_progress)
            manifest.add(entry)
            if on_row is not None:
                on_row(entry)
        report_progress(on_progress, "rows", len(rows), len(rows))
        facts = {
            "title": file.campaign.title,
            "bundle": reel.bundle.manifest.name,
            "bundle_digest": reel.bundle.manifest.digest,
            "numerics": reel.numerics(),
        }
        names = [row.name for row in rows]
        written = manifest.write(facts, names)
    states = [manifest.lines.get(name, {}).get("state", "waiting") for name in names]
    _write_sheet(folder / "sheet.png", [(row.name, folder / f"{row.name}{suffix}") for row in rows])
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
    for row in rows:
        size = (row.request.width, row.request.height, row.request.frames)
        if size not in planned:
            reel.plan(*size)
            planned.add(size)
    return rows


def _make_row(
    row: Row, reel: Reel, output: Output, options: CampaignOptions, on_progress: Progress | None
) -> dict[str, Any]:
    """Make one video, and return what became of it. Raises Cancelled."""
    started = time.perf_counter()
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
    try:
        video = reel.make(row.asked, on_progress)
        target = output.at(row.fps).marked(options.marks, options.label, *row.size.shown)
        target = replace(target, crf=row.size.crf)
        pictures = _pictures(video, row, on_progress)
        first = next(pictures)  # what ran is known only then, and is told in the file
        told = video.settings(private=options.private)
        metadata = file_metadata(None if options.private else row.request.prompt, told)
        origin = Origin(video.settings(private=True), video.inputs)
        marks = target.write(chain([first], pictures), metadata, len(video), origin).marks
        with output.path.open("rb") as written:
            entry |= {"state": "made", "sha256": sha256_of(written), "bytes": output.path.stat().st_size}
        if marks is not None:
            entry["marks"] = marks
    except Cancelled:
        raise
    except (EdgereelError, OSError) as error:
        entry |= {"state": "failed", "error": str(error)}
    return {**entry, "seconds": round(time.perf_counter() - started, 4), "at": int(time.time())}


def _pictures(video: Video, row: Row, on_progress: Progress | None) -> Iterator[Picture]:
    """Yield a clip's pictures in the size that is shown. Raises EngineError where they show nothing."""
    check = FrameCheck()
    for done, picture in enumerate(video, start=1):
        check.add(picture)
        report_progress(on_progress, "decode", done, len(video))
        yield fit_picture(picture, *row.size.shown)
    check.finish()


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


def _write_sheet(path: Path, videos: Sequence[tuple[str, Path]]) -> None:
    """Write one picture of each video, from its middle, with its name below."""
    tiles = list(_tiles(videos[:_MOST_TILES]))
    if not tiles:
        return
    across = min(len(tiles), max(4, round(len(tiles) ** 0.5)))
    height, width = tiles[0].shape[:2]
    tiles += [np.full((height, width, 3), 16, np.uint8)] * (-len(tiles) % across)
    lines = [np.concatenate(tiles[at : at + across], axis=1) for at in range(0, len(tiles), across)]
    sheet = np.concatenate(lines, axis=0)
    write_still(path, np.ascontiguousarray(sheet))


def _tiles(videos: Sequence[tuple[str, Path]]) -> Iterator[Picture]:
    lettering = Lettering()
    for name, path in videos:
        tile = np.full((_TILE + _LETTERS, _TILE, 3), 16, np.uint8)
        try:
            tile[:_TILE] = fit_picture(_middle(path), _TILE, _TILE, "pad")
        except (OSError, ValueError, EngineError):
            tile[:_TILE] = (70, 20, 20)  # failed, or not made yet
        try:
            cover = lettering.draw(name.replace("-", " ").replace("_", " "), _TILE, _LETTERS, 9)
        except UsageError:
            cover = lettering.draw(name[:9], _TILE, _LETTERS, 9)
        tile[_TILE:] = np.maximum(tile[_TILE:], (cover * 255).astype(np.uint8)[..., None])
        yield tile


def _middle(path: Path) -> Picture:
    import av

    try:
        with av.open(str(path)) as container:
            frames = list(islice(container.decode(video=0), 500))
    except av.FFmpegError as error:
        raise ValueError(str(error)) from error
    if not frames:
        raise ValueError("no picture")
    return np.asarray(frames[len(frames) // 2].to_ndarray(format="rgb24"), np.uint8)
