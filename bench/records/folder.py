"""The folder that a report is written into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...core.errors import OutputError, one_line
from ...core.files import check_file_target, output_errors, write_text
from .record import Record

RECORD = "record.json"
REPORT = (RECORD, "report.html", "report.md")
_LOG_OF_A_TEST = "*/mlperf_log_detail.txt"  # a test that was cut short leaves it without a record


def prepare_folder(folder: Path) -> Path:
    """Make the folder where it is not there, and return it after making sure that a record can be written into it.

    Meant to be called before anything is measured. Raises OutputError, also where the folder holds files, and no earlier
    report among them: a report is not mixed with what somebody else keeps there.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: cannot be the report's folder: it is a file")
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(each.name for each in folder.iterdir())
        earlier = not set(REPORT).isdisjoint(names) or any(folder.glob(_LOG_OF_A_TEST))
    if names and not earlier:
        raise OutputError(
            f"{folder}: holds other files ({one_line(names[0])}{', …' * (len(names) > 1)}) and no earlier report: "
            "choose an empty or a new folder with -o"
        )
    check_file_target(folder / RECORD)
    return folder


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """Give `prepare_folder`'s folder; where the block raises, what was made for it and is still empty is removed again."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield prepare_folder(folder)
    except BaseException:
        for each in made:
            with suppress(OSError):  # not empty: something was written
                each.rmdir()
        raise


def write_record(record: Record, folder: Path) -> Path:
    """Write the record into the folder, whole or not at all, and return its path. Raises OutputError."""
    return write_text(folder / RECORD, json.dumps(record.to_json(), indent=1) + "\n")
