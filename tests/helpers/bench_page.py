"""A report's page taken apart, and checked to need nothing from outside and to be made of the tags it should be."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from edgereel.bench.records.record import Quality, Record
from edgereel.bench.report import html_report
from edgereel.core.errors import one_line
from helpers.bench_records import make_record, make_row

TAGS = (
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "table", "caption", "thead",
    "tbody", "tr", "th", "td", "small", "ul", "ol", "li", "figure", "figcaption", "span", "i", "pre", "code", "svg", "g",
    "path", "use", "defs", "clippath", "rect", "text", "tspan",
)  # fmt: skip
EMPTY = {"meta"}


class Page(HTMLParser):
    """What a page holds: every tag's attributes, and all text outside of the style sheet; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.sheet = ""
        self.inside: list[str] = []
        self.unscrolled = 0
        self.feed(text)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            assert self.tags[-2][1].get("class") == "scroll"
        if tag not in EMPTY:
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if "style" in self.inside:
            self.sheet += data
        else:
            self.texts.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def checked(record: Record) -> Page:
    """Return a record's page after checking that it needs nothing from outside and is made of the tags it should be."""
    text = html_report(record)
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= set(TAGS)
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action", "data", "xmlns")
            if name in ("href", "xlink:href"):
                assert value.startswith("#")
            if name in ("style", "clip-path", "fill", "stroke"):
                assert all(found.startswith("url(#") for found in re.findall(r"url\([^)]*", value))
    assert "@import" not in page.sheet
    assert "url(" not in page.sheet
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for _, attributes in page.tags for name, value in attributes.items() if name.endswith("href")}
    styles = " ".join(
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("style", "clip-path")
    )
    wanted |= set(re.findall(r"url\(#([^)]*)", styles))
    assert wanted <= set(ids)
    for row in record.rows:
        assert one_line(row.name) in page.text
    return page


def two_rows() -> Record:
    """Return a record of two rows whose quality can be compared."""
    near = Quality(source="none", psnr_to_first_db=100.0)
    fewer = Quality(source="none", psnr_to_first_db=34.5)
    return make_record(
        make_row("demo, 4 steps", warm_runs=64, quality=near),
        make_row("demo, 1 step", warm_runs=64, scale=0.6, steps=1, quality=fewer),
    )
