"""The page on the real server with the built-in model: from a word to a film, again with a change, away, and looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("playwright.sync_api")
from helpers.causal_bundle import write_causal_bundle
from helpers.page_browser import SIZES, Visit, axe_finds, chromium
from helpers.served import Served, frames_of

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
PIN = "2580"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, served_home: dict[str, str]) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("page") / "data"
    server = Served(folder, "--threads", "1", "--workers", "1", environment=served_home)
    yield server
    assert server.end() == 0, "".join(server.lines)


def wait_for(page: Any, expression: str) -> None:
    page.wait_for_function(f"() => {expression}")


def shows_film(page: Any) -> None:
    page.wait_for_selector("#screen[data-state=film]")
    wait_for(page, "document.getElementById('film').currentTime > 0.1")


@pytest.mark.parametrize(("size", "scheme"), [("phone", "light"), ("desk", "dark"), ("booth", "dark")])
def test_from_a_word_to_a_film_and_again(browser: Any, served: Served, tmp_path: Path, size: str, scheme: str) -> None:
    visit = Visit(browser, served.port, size, scheme)
    page = visit.open()
    made = page.evaluate("document.querySelectorAll('#gallery li').length")
    press = page.click if size == "desk" else page.tap
    press("[data-word=orange]")
    press("[data-word=star]")
    assert page.input_value("#prompt") == "an orange star bounces over the ocean"
    press("#go")
    wait_for(page, "document.getElementById('news').textContent === 'The video is done.'")
    shows_film(page)
    assert any("/preview?n=" in url for url in visit.asked), "preview pictures were shown while it was made"
    wait_for(page, f"document.querySelectorAll('#gallery li').length === {made + 1}")
    wait_for(page, "document.querySelector('#gallery img').naturalWidth > 0")
    facts = page.text_content("#facts")
    press("[data-action=again]")
    press("[data-word=blue]")
    press("#go")
    wait_for(page, "document.getElementById('said').textContent === 'a blue star bounces over the ocean'")
    shows_film(page)
    assert page.text_content("#facts") == facts, "the seed stays"
    with page.expect_download() as download:
        press("[data-action=download]")
    download.value.save_as(tmp_path / "star.mp4")
    picture = frames_of(tmp_path / "star.mp4")[0].astype(int)
    blue = (picture[..., 2] - picture[..., 0]).max()
    assert blue > 100, "what was downloaded is the clip that was changed to blue"
    press("#to-verify")
    page.set_input_files("#suspect", tmp_path / "star.mp4")
    page.wait_for_selector(".answer")
    assert "generative model" in page.text_content(".answer")
    assert axe_finds(page) == []
    visit.close()
    visit.check()


def test_a_queue_is_seen_and_cancelled(browser: Any, served: Served) -> None:
    visit = Visit(browser, served.port, "desk", "light")
    page = visit.open()
    page.click("#lengths label:nth-of-type(3)")
    for word in ("red", "green", "white"):
        page.click(f"[data-word={word}]")
        page.click("#go")
        page.wait_for_selector("#go:enabled")
    page.click("#queue li:last-child .stop")
    wait_for(page, "document.getElementById('card').textContent === 'Cancelled.'")
    page.click("#queue li:first-child .frame")
    page.click("[data-action=cancel]")
    wait_for(page, "document.querySelectorAll('#queue li').length === 0")
    shown = page.eval_on_selector_all("#gallery .frame", "all => all.map((frame) => frame.title)")
    assert not any("white" in prompt for prompt in shown)
    visit.close()
    visit.check()


def test_a_prompt_that_the_model_does_not_know(browser: Any, served: Served) -> None:
    visit = Visit(browser, served.port, "phone", "dark")
    page = visit.open()
    page.fill("#prompt", "a purple elephant bounces over the ocean")
    page.tap("#go")
    wait_for(page, "document.getElementById('wrong').textContent.includes('elephant')")
    assert page.evaluate("document.activeElement.id") == "prompt"
    visit.close()
    visit.check("status of 400")


def test_a_booth(browser: Any, tmp_path: Path, served_home: dict[str, str]) -> None:
    (tmp_path / "pin").write_text(f"{PIN}\n")
    (tmp_path / "pin").chmod(0o600)
    options = ("--kiosk", "--pin-file", str(tmp_path / "pin"), "--title", "Reel One", "--idle-seconds", "5")
    server = Served(tmp_path / "data", *options, "--threads", "1", environment=served_home)
    try:
        visit = Visit(browser, server.port, "booth", "dark")
        page = visit.open()
        assert page.text_content("#brand") == page.title() == "Reel One"
        page.tap("#go")
        shows_film(page)
        page.wait_for_selector("html[data-attract]", state="attached")
        page.touchscreen.tap(SIZES["booth"][0] // 2, 900)
        page.tap("#to-settings")
        page.fill("#pin-text", "0000")
        page.tap("#pin .go")
        wait_for(page, "document.getElementById('pin-wrong').textContent === 'That is not the PIN.'")
        page.fill("#pin-text", PIN)
        page.tap("#pin .go")
        page.wait_for_selector("#settings[open]")
        visit.close()
        visit.check("status of 403")
    finally:
        server.end()


def test_a_live_film(browser: Any, tmp_path: Path, served_home: dict[str, str]) -> None:
    """The small causal bundle's pictures are noise: what counts is that they come, go on, and follow the prompt."""
    bundle = write_causal_bundle(tmp_path / "causal.reel")
    server = Served(tmp_path / "data", "--bundle", str(bundle), "--workers", "1", environment=served_home)
    pixels = "[...document.getElementById('picture').getContext('2d').getImageData(0, 0, 8, 8).data].join()"
    try:
        visit = Visit(browser, server.port, "desk", "dark")
        page = visit.open()
        assert page.query_selector("[data-word]") is None, "this bundle tells no vocabulary"
        page.fill("#prompt", "a red ball")
        page.click("[data-mode=live]")
        page.click("#go")
        wait_for(page, "document.getElementById('card').textContent === ''")
        page.evaluate(f"window.first = {pixels}")
        wait_for(page, f"{pixels} !== window.first")
        page.fill("#prompt", "the green square slides")
        wait_for(page, "document.getElementById('said').textContent === 'the green square slides'")
        page.fill("#prompt", "a purple elephant")
        wait_for(page, "document.getElementById('wrong').textContent.includes('elephant')")
        page.click("#go")
        wait_for(page, "document.getElementById('news').textContent === 'The live film has ended.'")
        visit.close()
        visit.check()
    finally:
        server.end()
