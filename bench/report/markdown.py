"""The report as Markdown, for a terminal and for a repository."""

from __future__ import annotations

import re

from ...core.errors import one_line
from ..records.record import Record
from . import content
from .content import Table
from .headline import headline
from .results import result_sentences

_SPECIAL = re.compile(r"[\\`*<>|~]|^\[|\](?=[(\[:])|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
"""Brackets are escaped only where they could begin a box to tick, a link or its target: commands stay as they are typed."""


def markdown_table(record: Record) -> str:
    """Return the record's rows, stages, comparisons and what must be known of them: what the command prints."""
    tables = [content.rows_table(record), *_stage_tables(record)]
    parts = [_list(content.warnings_of(record)), *(f"{_escaped(table.caption)}\n\n{_table(table)}" for table in tables)]
    parts += [_list(content.comparison_sentences(record)), _list(record.notes)]
    return "\n\n".join(filter(None, parts))


def markdown_report(record: Record) -> str:
    """Return the whole report: what `markdown_table` says, and the machine, the settings and how to repeat it."""
    resources = content.resource_table(record)
    tables = [content.rows_table(record), *_stage_tables(record), *([resources] if resources else [])]
    tables += [content.takes_table(record), content.ran_table(record)]
    command = content.command_line(record)
    parts = [
        f"# {_escaped(content.title(record))}",
        _list(content.warnings_of(record)),
        _escaped(headline(record)),
        _escaped(content.machine_line(record)),
        _section("Result", _list(result_sentences(record))),
        _titled(tables[0]),
        _section("Comparisons", _list(content.comparison_sentences(record))),
        *(_titled(table) for table in tables[1:]),
        _section("Limits of the machine", _list(content.limits_sentences(record))),
        _section("Notes", _list(record.notes)),
        _section("To repeat it", f"{_code(command)}\n\n{_escaped(content.when(record))}" if command else ""),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _stage_tables(record: Record) -> list[Table]:
    return [table for kind in ("warm", "cold") if (table := content.stage_table(record, kind)) is not None]


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _titled(table: Table) -> str:
    return f"## {_escaped(table.caption)}\n\n{_table(table)}" if table.rows else ""


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    sides = ["---|", *(["---:|" if table.numbers else "---|"] * (len(table.head) - 1))]
    if table.words_last:
        sides[-1] = "---|"
    lines = [_line(table.head), "|" + "".join(sides), *(_line(row) for row in table.rows)]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _list(sentences: list[str]) -> str:
    return "\n".join(f"- {_escaped(sentence)}" for sentence in sentences)


def _escaped(text: str) -> str:
    """Return text on one line that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\g<0>", one_line(text))


def _code(text: str) -> str:
    """Return one line as a block of code that nothing in it can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
