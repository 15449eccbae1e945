"""docs/cli.md: it is what `make docs` would write, and names every option that --help shows."""

from __future__ import annotations

import re
from itertools import takewhile

import pytest
from conftest import ROOT

from edgereel.tools.cli_page import cli_page

OPTION = re.compile(r"`(--?[a-z][a-z0-9-]*)`")


def sections():
    """Yield each command's name and what the page says of it."""
    for part in cli_page().split("\n## ")[1:]:
        name, _, text = part.partition("\n")
        yield pytest.param(name, text, id=name)


def test_the_page_is_what_the_commands_say():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == f"{cli_page()}\n", "make docs writes it again"


@pytest.mark.parametrize(("name", "text"), list(sections()))
def test_every_option_of_help_is_on_the_page(name, text, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    code, out, err = run(*name.split()[1:], "--help")
    assert (code, err) == (0, "")
    rows = [row.split(" | ")[0] for row in text.splitlines() if row.startswith("| `-")]
    told = {option for row in rows for option in OPTION.findall(row)}
    lines = [line.strip("│ *").replace(",", " ").split() for line in out.splitlines()]
    shown = {word for words in lines for word in takewhile(lambda word: word.startswith("-"), words)}
    assert told == shown - {"--help"}
    assert told
