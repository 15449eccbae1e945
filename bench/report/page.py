"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from ..records.record import Record
from . import content
from .content import STAGE_NAMES, Table
from .figure import WIDTHS, Plot, style, svg
from .headline import headline
from .html import Safe, element, together
from .resource_plots import memory_over_time, quality_against_time, roofline
from .results import result_sentences
from .stylesheet import STYLESHEET
from .time_plots import distribution, stage_stack


def html_page(record: Record) -> str:
    """Return the page. Text of the record is escaped; no script, no font and nothing else comes from anywhere."""
    title = f"edgereel {content.title(record)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Safe(STYLESHEET)),
    )
    body = element("body", element("main", *_sections(record)))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _sections(record: Record) -> list[Safe]:
    warnings = [element("p", text, class_="warning") for text in content.warnings_of(record)]
    parts = [
        element("h1", content.title(record)),
        element("p", headline(record), class_="headline"),
        element("p", content.machine_line(record), class_="muted"),
        *warnings,
        _table(_compact(content.rows_table(record))),
    ]
    if record.kind != "run":
        parts.append(_list("Result", [*result_sentences(record), *record.notes]))
    parts.append(_list("Comparisons", content.comparison_sentences(record)))
    with style():
        for place, make in enumerate((stage_stack, distribution, quality_against_time, memory_over_time, roofline)):
            parts.append(_figure(make(record), place))
    parts.append(element("h2", "In figures"))
    tables = [content.stage_table(record, "warm"), content.stage_table(record, "cold"), content.resource_table(record)]
    parts += [_table(table) for table in [*tables, content.takes_table(record)] if table is not None]
    parts += [element("h2", "Machine and settings"), element("p", content.machine_line(record))]
    parts += [element("p", text) for text in content.limits_sentences(record)]
    parts.append(_table(content.ran_table(record)))
    if record.kind == "run":
        parts.append(_list("Notes", record.notes))
    command = content.command_line(record)
    parts.append(element("h2", "To repeat it"))
    parts.append(
        element("pre", element("code", command), tabindex="0") if command else element("p", "The command was not told.")
    )
    parts.append(element("p", content.when(record), class_="muted"))
    return parts


def _compact(table: Table) -> Table:
    """Return the main table with what a row is below its name, and the interval below the median."""
    head = [table.head[0], table.head[5], *table.head[7:]]
    rows = []
    for cells in table.rows:
        steps = "1 step" if cells[3] == "1" else f"{cells[3]} steps"
        below = " · ".join([cells[1], cells[2], steps, cells[4]])
        rows.append(
            [f"{cells[0]}\n{below}", f"{cells[5]}\n{cells[6]}" if cells[6] != cells[5] else cells[5], *cells[7:]]
        )
    return Table(table.caption, head, rows, words_last=table.words_last)


def _table(table: Table) -> Safe:
    """Return a table in a box of its own that scrolls where it is too wide; a line break in a cell begins small print."""
    if not table.rows:
        return Safe("")
    head = element("tr", *(element("th", title, scope="col") for title in table.head))
    lines = [
        element("tr", _cell("th", row[0], scope="row"), *(_cell("td", cell) for cell in row[1:])) for row in table.rows
    ]
    kind = ("numbers words-last" if table.words_last else "numbers") if table.numbers else "words"
    body = element(
        "table", element("caption", table.caption), element("thead", head), element("tbody", *lines), class_=kind
    )
    return element("div", body, class_="scroll", role="region", aria_label=table.caption, tabindex="0")


def _cell(tag: str, text: str, **attributes: str) -> Safe:
    main, _, below = text.partition("\n")
    return element(tag, main, element("small", below) if below else None, **attributes)


def _list(title: str, sentences: list[str]) -> Safe:
    if not sentences:
        return Safe("")
    return together(element("h2", title), element("ul", *(element("li", sentence) for sentence in sentences)))


def _figure(plot: Plot, place: int) -> Safe:
    heading = element("h2", plot.title)
    if plot.draw is None:
        return together(heading, element("p", f"Not drawn: {plot.missing}", class_="muted"))
    drawings = [
        element("div", svg(plot.draw(width), f"p{place}w{width}"), class_=kind)
        for kind, width in zip(("wide", "narrow"), WIDTHS, strict=True)
    ]
    key = [
        element("span", element("i", class_=f"swatch {stage}"), STAGE_NAMES[stage], class_="entry")
        for stage in plot.key
    ]
    caption = element("figcaption", *(element("p", note) for note in plot.notes))
    names = element("ol", *(element("li", name) for name in plot.rows), class_="names") if plot.rows else None
    return together(
        heading,
        element("p", *key, class_="key") if key else None,
        element(
            "figure", element("div", *drawings, role="img", aria_label=f"{plot.title}. {plot.alt}"), names, caption
        ),
    )
