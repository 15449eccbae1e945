"""The report of a measurement: what its record says, as Markdown and as a page with plots."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import OutputError, require_packages
from ...core.files import write_text
from ..records.record import Record
from .markdown import markdown_report, markdown_table

__all__ = ["html_report", "markdown_report", "markdown_table", "write_report"]


def write_report(record: Record, folder: Path) -> list[Path]:
    """Write report.md and report.html into a folder that is there, each whole or not at all, and return their paths.

    Raises OutputError where that cannot be done, MissingExtraError where matplotlib is not installed.
    """
    if not folder.is_dir():
        raise OutputError(f"cannot write a report into {folder}: it is not a folder")
    reports = {"report.md": markdown_report(record), "report.html": html_report(record)}
    return [write_text(folder / name, text) for name, text in reports.items()]


def html_report(record: Record) -> str:
    """Return the report as one HTML page. Raises MissingExtraError where matplotlib is not installed."""
    require_packages(("matplotlib",), "bench", "drawing a report")
    from .page import html_page

    return html_page(record)
