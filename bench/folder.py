"""The folder that a report is written into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from ..runtime.writing import check_file_target, output_errors, replace_file, temporary_beside
from .record import Record

RECORD = "record.json"


def prepare_folder(folder: Path) -> Path:
    """Make the folder where it is not there, and return it after making sure that a record can be written into it.

    Meant to be called before anything is measured. Raises OutputError.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: cannot be the report's folder: it is a file")
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
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


def write_text(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all, and return its path. Raises OutputError."""
    target = check_file_target(path)
    temporary = temporary_beside(target)
    try:
        with output_errors(path):
            temporary.write_text(text, encoding="utf-8")
            replace_file(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return path
