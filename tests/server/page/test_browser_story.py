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


def picture_of(page: Any) -> np.ndarray:
    """Return the picture that the page shows."""
    pixels = """() => {
        const picture = document.getElementById('picture');
        const data = picture.getContext('2d').getImageData(0, 0, picture.width, picture.height).data;
        return [picture.height, picture.width, [...data]];
    }"""
    height, width, data = page.evaluate(pixels)
    return np.array(data).reshape(height, width, 4)[..., :3]


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
    last = picture_of(page)
    with page.expect_download() as download:
        press("[data-action=save]")
    download.value.save_as(tmp_path / "film.mp4")
    frames = frames_of(tmp_path / "film.mp4")
    assert len(frames) > 30
    assert np.abs(frames[-1].astype(int) - last).mean() < 6, "the page's last picture is the film's"
    waited = page.evaluate("performance.getEntriesByName('choice').map((each) => each.duration)")
    print(size, "choice to first picture, ms:", [round(each, 1) for each in waited])
    assert len(waited) == 2
    press("[data-action=again]")
    wait_for(page, "document.getElementById('card').textContent === 'A star was bored.'")
    visit.close()
    visit.check()


def test_a_lesson_is_heard_and_chosen_from_by_keyboard(browser: Any, served_home: dict[str, str]) -> None:
    played = Played(ROOT / "examples" / "stories" / "lesson.yaml", environment=served_home)
    try:
        visit = Visit(browser, played.port, "desk", "light", locale="de")
        page = visit.open()
        sounds = f"{visit.address}/v1/play/sounds/1"
        assert page.text_content("[data-action=begin]") == "Anfangen"
        page.keyboard.press("Tab")
        while page.evaluate("document.activeElement.dataset.action") != "begin":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#choices button")
        assert {f"{sounds}/0", f"{sounds}/1"} <= set(visit.asked), "music, and the words that have a recording"
        assert page.evaluate("document.activeElement.textContent") == "rise"
        page.click("#sound")
        assert page.get_attribute("#sound", "aria-pressed") == "false"
        page.click("#languages [lang=en]")
        assert choices_of(page) == ["rise", "fall"]
        page.keyboard.press("2")
        page.wait_for_selector("[data-action=save]")
        assert page.text_content("#said") == "The end · Your way: 2"
        visit.close()
        visit.check()
    finally:
        assert played.end() == 0


def test_nobody_chooses_and_then_the_machine_goes_away(browser: Any, served_home: dict[str, str]) -> None:
    played = Played(TALE, "--idle", "5", environment=served_home)
    try:
        visit = Visit(browser, played.port, "booth", "dark")
        page = visit.open()
        page.tap("[data-action=begin]")
        page.wait_for_selector("#choices button")
        page.wait_for_selector("[data-action=begin]")
        assert page.text_content("#card") == "Where the star went"
        page.tap("[data-action=begin]")
        page.wait_for_selector("#choices button")
        played.process.kill()
        page.wait_for_selector("[data-action=retry]")
        assert page.text_content("#wrong") == "The story has stopped: the machine does not answer."
        assert axe_finds(page) == []
        visit.close()
        visit.check("ERR_CONNECTION", "WebSocket")
    finally:
        played.end()
