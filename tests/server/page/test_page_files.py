"""The page's files: small, without anything of others, the same words in every language, words that can be read."""

from __future__ import annotations

import json
import re

import pytest
from conftest import ROOT

PAGE = ROOT / "server" / "page"
SCRIPTS = sorted(PAGE.glob("*/*.js"))
STYLE = (PAGE / "page.css").read_text(encoding="utf-8")
DOCUMENTS = [PAGE / "index.html", PAGE / "play" / "index.html"]
DOCUMENT = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
STRINGS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in PAGE.glob("strings/*.json")}
SCRIPT_BYTES = 60_000
GLOW_THEMES = {"light": 0, "dark": 1}


def test_every_language_says_the_same():
    assert set(STRINGS) >= {"en", "de"}
    for code, words in STRINGS.items():
        assert set(words) == set(STRINGS["en"]), code
        for key, text in words.items():
            assert text.strip(), (code, key)
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", STRINGS["en"][key])), (code, key)


def test_words_that_are_asked_for_are_there_and_no_others():
    asked = set(re.findall(r'data-t(?:-\w+)?="([^"]+)"', DOCUMENT))
    beginnings = set()
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        asked |= set(re.findall(r'"((?:[a-z]+\.)*[a-z]+)"', text))
        beginnings |= set(re.findall(r"[`]((?:[a-z]+\.)+)\$\{", text))
    plural = {key.rsplit(".", 1)[0] for key in STRINGS["en"] if key.endswith((".one", ".other"))}
    used = {key for key in STRINGS["en"] if key in asked or key.rsplit(".", 1)[0] in asked & plural}
    used |= {key for key in STRINGS["en"] if key.startswith(tuple(beginnings))}
    assert set(STRINGS["en"]) - used == set()
    named = set(re.findall(r'data-t(?:-\w+)?="([^"]+)"', DOCUMENT))
    for path in SCRIPTS:
        named |= set(re.findall(r'\bt\("([^"]+)"', path.read_text(encoding="utf-8")))
    assert named - set(STRINGS["en"]) - plural == set()


def loaded(path):
    """Return the scripts that a document loads, those that they import too."""
    found, waiting = set(), [PAGE / name for name in re.findall(r'src="/page/([^"]+\.js)"', path.read_text("utf-8"))]
    while waiting:
        if (script := waiting.pop().resolve()) not in found:
            found.add(script)
            waiting += [script.parent / name for name in re.findall(r'from "([^"]+)"', script.read_text("utf-8"))]
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_the_script_is_small(path):
    assert 0 < sum(script.stat().st_size for script in loaded(path)) < SCRIPT_BYTES


def test_nothing_stands_in_the_document_that_its_policy_forbids():
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:|<base|<iframe", DOCUMENT) == []
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", DOCUMENT))
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert (
            re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function|document\.write", text) == []
        ), path


@pytest.mark.parametrize("path", [*DOCUMENTS, *PAGE.glob("**/*.css"), *SCRIPTS], ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere(path):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?://|@import|url\(", text) == []


def test_every_file_that_is_named_is_there():
    named = re.findall(r'(?:src|href)="/page/([^"]+)"', DOCUMENT)
    assert [name for name in named if not (PAGE / name).is_file()] == []
    assert set.union(*map(loaded, DOCUMENTS)) == {path.resolve() for path in SCRIPTS}


def colours(block):
    """Return the colours of light and dark by name, each as (red, green, blue)."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", block)
    return {name: tuple(map(rgb, pair)) for name, *pair in found}


def rgb(text):
    digits = text[1:] if len(text) == 7 else "".join(2 * digit for digit in text[1:])
    return tuple(int(digits[start : start + 2], 16) for start in (0, 2, 4))


def contrast(one, two):
    """Return the ratio of WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_reckoning_of_contrast():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((0x76, 0x76, 0x76), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", GLOW_THEMES)
@pytest.mark.parametrize("film", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)])
def test_words_can_be_read_on_whatever_light_the_film_throws(theme, film):
    """axe cannot see through a blurred canvas: all of it in one colour is the worst that it can be."""
    index = GLOW_THEMES[theme]
    own = colours(STYLE.split("}")[0])
    glow, shade = (float(re.findall(rf"--{name}: ([\d.]+)", STYLE)[index]) for name in ("glow", "shade"))
    wall = tuple(
        (1 - glow) * paper + glow * shade * light for paper, light in zip(own["wall"][index], film, strict=True)
    )
    for name in ("ink", "soft"):
        assert contrast(own[name][index], wall) >= 4.5, name
    assert contrast(own["edge"][index], own["wall"][index]) >= 3
    for name in ("lamp", "alarm", "ink", "soft"):
        assert contrast(own[name][index], own["sheet"][index]) >= 4.5, name
    assert contrast(own["on-lamp"][index], own["lamp"][index]) >= 4.5
    assert contrast(own["ink"][index], own["glim"][index]) >= 4.5
    assert contrast(own["edge"][index], own["sheet"][index]) >= 3
