"""Nothing in a record is ever more than text."""

from __future__ import annotations

import re

from helpers.bench_page import Page, checked
from helpers.bench_records import make_record, make_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgereel.bench.records.record import (
    Quality,
    Record,
    Row,
    StageResources,
)
from edgereel.bench.report import markdown_report
from edgereel.bench.report.html import element
from edgereel.bench.report.markdown import _escaped
from edgereel.core.errors import one_line

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onload="alert(1)" x="',
    "'><svg/onload=alert(1)>",
    "$\\frac{$ \\undefined{",
    "a|b `c` *d* [e](https://example.org/f)",
    "line\nbreak\ttab",
    "\x00\x1b[31m\u202eabc",
    "&lt;b&gt; &amp; &#60;",
    "]]> <!-- -->",
    "名前 🎬 é",
    "",
    " ",
    "x" * 500,
]


hostile = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60))


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(hostile, min_size=11, max_size=11))
def test_text_of_a_record_stays_text(texts):
    record = make_record(hostile_row(texts[:10]), command=texts, notes=texts)
    check_hostile(record, texts[10])


def test_known_tricks_stay_text():
    """Each trick in every place of a row of its own, and all of them in the places that a record has once."""
    rows = [hostile_row([text] * 10) for text in HOSTILE]
    check_hostile(make_record(*rows, command=HOSTILE, notes=HOSTILE, comparisons=[]), " ".join(HOSTILE))


def hostile_row(texts: list[str]) -> Row:
    """Return a row with a text of its own in each place."""
    words = iter(texts)
    row = make_row(
        next(words),
        warm_runs=8,
        cold_runs=0,
        quality=Quality(source="bundle", figures={next(words): 1.5, "of_source": {"a": [1]}}),
    )
    row.contender, row.engine.version, row.engine.precision = next(words), next(words), [next(words)]
    row.bundle.name, row.failures, row.settings.recipe = next(words), [next(words)], next(words)
    row.memory_stages.append((0.4, next(words)))
    row.stages[next(words)] = StageResources(flops=1, bytes=1)
    return row


def check_hostile(record: Record, text: str) -> None:
    """Check a record's page and its Markdown, with a text in the places of the machine as well."""
    record.machine.processor, record.versions["x"] = text, text
    record.limits.flops_per_second[text] = 1e9
    page = checked(record)
    for note in record.notes:
        if note.strip():
            assert one_line(note) in page.text
    text = markdown_report(record)
    assert all(character == "\n" or character.isprintable() for character in text)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    body = re.sub(r"(?s)^(`{3,})\n.*?\n\1$", "", text, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)(?:[<>`*]|\](?=[(\[:]))", body.replace("\\\\", ""))
    assert all(len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) in {15, 9, 10, 11, 12, 13} for line in lines)


@given(st.text(), st.text())
def test_elements_escape_text_and_attributes(text, attribute):
    page = Page(element("p", text, title=attribute))
    assert page.tags == [("p", {"title": one_line(attribute)})]
    assert "".join(page.texts) == one_line(text)


@given(st.text())
def test_markdown_shows_text_as_it_is(text):
    plain = re.sub(r"\\([\\`*\[\]<>|~_&])", r"\1", _escaped(text))
    assert plain == one_line(text)


def test_a_command_in_markdown_can_be_pasted():
    assert _escaped('it needs torch: pip install "edgereel[export]"').endswith('pip install "edgereel[export]"')
    assert _escaped("[x] [a](b) [c]: d [e][f]") == r"\[x] [a\](b) [c\]: d [e\][f]"
