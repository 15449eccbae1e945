"""The rows of a campaign: every combination that is not excluded, checked before the first is made."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...bundle.geometry import nearest_frames
from ...bundle.library.names import is_device_name
from ...core.errors import UsageError, one_line
from ...core.files import read_plain
from ...core.progress import Progress, report_progress
from ...jobs.settings import JobSettings
from ...jobs.worker.models import open_request
from ...runtime.pictures.named_sizes import PictureSize, film_size
from ...runtime.reel import Reel
from ...runtime.request import Request
from ...runtime.video.frame_rate import FrameRate, frame_rate
from ..film.store import scene_key
from ..script.checks import inside_folder
from ..script.source import Source, error_at, read_source
from ..script.story import filled, validated
from .sheet import MOST_ROWS, SETTINGS, Campaign

_LARGEST_TABLE = 2**24
_COLUMN = re.compile(r"\w[\w-]{0,63}")


@dataclass(frozen=True)
class CampaignFile:
    """A campaign and where it was read."""

    campaign: Campaign
    source: Source


@dataclass(frozen=True)
class Row:
    """One video. values: by axis or column, (short name, what it stands for). pair: what it shares with those it is compared to.

    settings: the job's, as whoever makes it is told; request: what they come to.
    """

    number: int
    name: str
    values: dict[str, tuple[str, Any]]
    pair: str | None
    settings: JobSettings
    request: Request
    size: PictureSize
    fps: FrameRate
    key: str


def read_campaign(path: Path) -> CampaignFile:
    """Return what a file says. Raises SourceError, UsageError, MissingExtraError."""
    source = read_source(path)
    return CampaignFile(validated(source, Campaign), source)


def campaign_rows(file: CampaignFile, reel: Reel, on_progress: Progress | None = None) -> list[Row]:
    """Return all rows, in the file's order, each of which the model can do. Raises SourceError for the first that it cannot."""
    maker = _RowMaker(file, reel)
    combinations = list(_combinations(file))
    rows = []
    for number, values in enumerate(combinations):
        if number % 50 == 0:
            report_progress(on_progress, "check rows", number, len(combinations))
        rows.append(maker.row(number, values))
    report_progress(on_progress, "check rows", len(combinations), len(combinations))
    return rows


class _RowMaker:
    def __init__(self, file: CampaignFile, reel: Reel) -> None:
        self._file, self._reel = file, reel
        self._numerics = reel.numerics()
        self._names: dict[str, int] = {}
        self._checked: set[str] = set()
        self._sizes: dict[str | None, PictureSize] = {}

    def row(self, number: int, values: dict[str, tuple[str, Any]]) -> Row:
        """Return one row. Raises SourceError."""
        campaign, manifest = self._file.campaign, self._reel.bundle.manifest
        told = ", ".join(f"{axis} {short}" for axis, (short, _) in values.items())
        try:
            settings = {name: getattr(campaign, name) for name in SETTINGS}
            settings |= {name: value for name, (_, value) in values.items() if name in SETTINGS}
            prompt = self._prompt(values)
            size = self._size(settings["format"])
            fps = frame_rate(manifest.defaults.fps if campaign.fps is None else round(campaign.fps, 3))
            frames = settings["pictures"]
            if frames is None and settings["seconds"] is not None:
                frames = nearest_frames(manifest.latent, max(1, round(_number(settings["seconds"]) * fps)))
            asked = JobSettings(
                prompt,
                _words(settings["negative"]),
                seed=_whole("seed", settings["seed"]),
                size="{}x{}".format(*size.made),
                num_frames=None if frames is None else _whole("pictures", frames),
                fps=campaign.fps,
                recipe=_words(settings["recipe"]),
                decoder=_words(settings["decoder"]),
            )
            request = open_request(manifest, asked, None).complete(manifest)
            name = self._name(number, values)
        except UsageError as error:
            place = ("prompt",) if self._file.campaign.rows is None or number == 0 else ("rows",)
            raise self._file.source.error(place, f"row {number + 1} ({told}): {error}") from error
        pair = None
        if campaign.pairs is not None:
            pair = ", ".join(f"{axis} {short}" for axis, (short, _) in values.items() if axis != campaign.pairs)
        key = scene_key(manifest.digest, request, self._numerics, None)
        return Row(number, name, values, pair, asked, request, size, fps, key)

    def _prompt(self, values: dict[str, tuple[str, Any]]) -> str:
        campaign = self._file.campaign
        words = {**campaign.words, **{name: str(value) for name, (_, value) in values.items()}}
        prompt = filled(campaign.prompt, words)
        if campaign.look is not None:
            prompt = f"{prompt}, {filled(campaign.look, words)}"
        if prompt not in self._checked:
            self._reel.check_prompt(prompt)
            self._checked.add(prompt)
        return prompt

    def _size(self, format: Any) -> PictureSize:
        if format not in self._sizes:
            self._sizes[format] = film_size(self._reel.bundle.manifest, None if format is None else str(format))
        return self._sizes[format]

    def _name(self, number: int, values: dict[str, tuple[str, Any]]) -> str:
        """Return the name of a row's file, without its suffix. Raises UsageError."""
        template = self._file.campaign.name
        if template is None:
            parts = [str(short) for short, _ in values.values()]
            name = "-".join(re.sub(r"[^\w.]+", "_", part).strip("_.") or "x" for part in parts)[:100]
        else:
            shorts = {axis: re.sub(r"[/\\\s]+", "_", short) for axis, (short, _) in values.items()}
            name = filled(template, {**shorts, "number": f"{number + 1:04}"})
        if not re.fullmatch(r"\w[\w .,+=-]{0,119}", name):
            raise UsageError(f"{one_line(name)[:60]!r} is no name for a file: use letters, digits, _ - . and spaces")
        if is_device_name(name):
            raise UsageError(f"{name[:60]!r} is a device's name on Windows: begin the name with another word")
        first = self._names.setdefault(name.casefold(), number)
        if first != number:
            raise UsageError(f"row {first + 1} is called {name} too: write a name with an axis more, or {{number}}")
        return name


def _combinations(file: CampaignFile) -> Iterator[dict[str, tuple[str, Any]]]:
    """Yield the rows' values. Raises SourceError, before the first, where they are too many or an axis is not there."""
    campaign = file.campaign
    table = [{}] if campaign.rows is None else _table(file, campaign.rows)
    if both := sorted(set(campaign.axes) & set(table[0])):
        raise file.source.error(("axes", both[0]), "is a column of the file of rows too: leave one of them out")
    known = set(campaign.axes) | set(table[0])
    for kind in ("exclude", "include"):
        for index, combination in enumerate(getattr(campaign, kind)):
            if unknown := sorted(set(combination) - known - (set(SETTINGS) if kind == "include" else set())):
                raise file.source.error(
                    (kind, index), f"there is no axis {unknown[0]!r}: choose from {', '.join(sorted(known))}"
                )
    if campaign.pairs is not None and campaign.pairs not in campaign.axes:
        raise file.source.error(("pairs",), f"there is no axis {campaign.pairs!r}")
    only_include = not campaign.axes and campaign.rows is None
    count = 0 if only_include else len(table) * math.prod(len(campaign.axes[axis]) for axis in campaign.axes)
    count += len(campaign.include)
    if count > MOST_ROWS:
        raise file.source.error(("rows" if campaign.rows else "axes",), f"make {count} rows: {MOST_ROWS} at most")
    axes = [[(axis, value) for value in campaign.values(axis)] for axis in campaign.axes]
    left, idle = 0, set(range(len(campaign.exclude)))
    for columns in [] if only_include else table:
        for chosen in itertools.product(*axes):
            values = {**columns, **dict(chosen)}
            excluded = {index for index, each in enumerate(campaign.exclude) if _matches(values, each)}
            idle -= excluded
            if not excluded:
                left += 1
                yield values
    if idle:
        raise file.source.error(("exclude", min(idle)), "is of no row: look for a misspelled value")
    for combination in campaign.include:
        left += 1
        yield {axis: _value(campaign, axis, word) for axis, word in combination.items()}
    if not left:
        raise file.source.error(("exclude",), "leaves no row")


def _matches(values: dict[str, tuple[str, Any]], combination: dict[str, Any]) -> bool:
    return all(
        axis in values and str(word) in (values[axis][0], str(values[axis][1])) for axis, word in combination.items()
    )


def _value(campaign: Campaign, axis: str, word: Any) -> tuple[str, Any]:
    """Return the value of an axis that is called so, or that word itself."""
    if axis in campaign.axes:
        for short, value in campaign.values(axis):
            if str(word) == short:
                return short, value
    return str(word), word


def _table(file: CampaignFile, name: str) -> list[dict[str, tuple[str, Any]]]:
    """Return the rows of a .csv or .json file. Raises SourceError with that file's line where it can be told."""
    path = inside_folder(file.source, ("rows",), name)
    try:
        text = read_plain(path, _LARGEST_TABLE).decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            data = json.loads(text, object_pairs_hook=_once)
        elif path.suffix.lower() == ".csv":
            data = _csv(path, text)
        else:
            raise file.source.error(("rows",), f"{name}: rows are read from .csv and .json files")
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise file.source.error(("rows",), f"{name}: cannot be read: {one_line(error)[:100]}") from error
    if not isinstance(data, list) or not data:
        raise file.source.error(("rows",), f"{name}: holds no list of rows")
    if len(data) > MOST_ROWS:
        raise file.source.error(("rows",), f"{name}: has {len(data)} rows: {MOST_ROWS} at most")
    columns = set(data[0]) if isinstance(data[0], dict) else set()
    for number, row in enumerate(data, start=1):
        if not isinstance(row, dict) or set(row) != columns or not columns:
            raise file.source.error(("rows",), f"{name}: row {number} has other columns than the first, or none")
        for column, value in row.items():
            if _COLUMN.fullmatch(column) is None:
                raise file.source.error(("rows",), f"{name}: {column[:40]!r} is no name of a column")
            if not isinstance(value, str | int | float) or isinstance(value, bool) or not 0 < len(str(value)) <= 500:
                raise file.source.error(("rows",), f"{name}: row {number}, {column}: must be text or a number")
            if (isinstance(value, float) and not math.isfinite(value)) or not _is_text(str(value)):
                raise file.source.error(
                    ("rows",), f"{name}: row {number}, {column}: {ascii(value)[:40]} is no text and no number"
                )
    return [{column: (str(value), value) for column, value in row.items()} for row in data]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError where it has a key twice, of which json would take the last."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)[:40]!r} is there twice in a row")
    return dict(pairs)


def _is_text(text: str) -> bool:
    """Tell whether a text can be written: JSON's escapes can hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv(path: Path, text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    rows: list[dict[str, Any]] = []
    try:
        columns = [column.strip() for column in reader.fieldnames or ()]
        if twice := [column for number, column in enumerate(columns) if column in columns[:number]]:
            raise error_at(path, reader.line_num, f"has the column {twice[0][:40]!r} twice")
        for row in reader:
            if None in row or None in row.values():
                raise error_at(path, reader.line_num, "has another number of columns than the first line")
            rows.append({column.strip(): value.strip() for column, value in row.items()})
            if len(rows) > MOST_ROWS:
                break
    except csv.Error as error:
        raise error_at(path, reader.line_num, f"is no CSV: {error}") from error
    return rows


def _words(value: Any) -> str | None:
    return None if value is None else str(value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} is {str(value)[:30]!r}: it must be a whole number")
    return value


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= 36_000:
        raise UsageError(f"seconds is {str(value)[:30]!r}: it must be a number above 0")
    return number
