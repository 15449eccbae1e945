"""A story played in a real Chromium: from the first scene through choices to the film that is taken along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from helpers.page_browser import Visit, axe_finds, chromium
from helpers.played import Played
from helpers.served import frames_of

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TALE = ROOT / "examples" / "stories" / "tale.yaml"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def tale(served_home: dict[str, str]) -> Iterator[Played]:
    played = Played(TALE, environment=served_home)
    yield played
    assert played.end() == 0, "".join(played.lines)


def wait_for(page: Any, expression: str) -> None:
    page.wait_for_function(f"() => {expression}")


def choices_of(page: Any) -> list[str]:
    page.wait_for_selector("#choices button")
    return list(page.eval_on_selector_all("#choices button", "all => all.map((each) => each.textContent)"))


PIXELS = "[...document.getElementById('picture').getContext('2d').getImageData(0, 0, 64, 64).data]"


@pytest.mark.parametrize(("size", "scheme"), [("phone", "light"), ("desk", "dark"), ("booth", "dark")])
def test_a_tale_from_its_beginning_to_its_film(
    browser: Any, tale: Played, tmp_path: Path, size: str, scheme: str
) -> None:
    visit = Visit(browser, tale.port, size, scheme)
    page = visit.open()
    press = page.click if size == "desk" else page.tap
    assert page.title() == page.text_content("#card") == "Where the star went"
    assert axe_finds(page) == []
    press("[data-action=begin]")
    wait_for(page, "document.getElementById('card').textContent === 'A star was bored.'")
    assert choices_of(page) == ["the sea", "the wood"]
    assert axe_finds(page) == []
    if size == "desk":
        page.keyboard.press("2")
    else:
        press("#choices button >> nth=1")
    wait_for(page, "document.getElementById('card').textContent === 'It came to a wood.'")
    assert choices_of(page) == ["home", "up", "back"]
    press("#choices button >> nth=1")
    wait_for(page, "document.getElementById('card').textContent === 'It rose, and is there still.'")
    page.wait_for_selector("[data-action=save]")
    assert page.text_content("#said") == "The end · Your way: 2, 2"
    assert axe_finds(page) == []
    last = (
        np.array(page.evaluate(PIXELS)).reshape(64, 64, 4)[..., :3]
        if page.evaluate("document.getElementById('picture').width") == 64
        else None
    )
    with page.expect_download() as download:
        press("[data-action=save]")
    download.value.save_as(tmp_path / "film.mp4")
    frames = frames_of(tmp_path / "film.mp4")
    assert len(frames) > 60
    if last is not None:
        assert np.abs(frames[-1].astype(int) - last).mean() < 6, "the page's last picture is the film's"
    waited = page.evaluate("performance.getEntriesByName('choice').map((each) => each.duration)")
    print(size, "choice to first picture, ms:", [round(each, 1) for each in waited])
    assert len(waited) == 2
    press("[data-action=again]")
    wait_for(page, "document.getElementById('card').textContent === 'A star was bored.'")
    visit.close()
    visit.check()
