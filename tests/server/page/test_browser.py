"""The page in a real Chromium, on a server that behaves as a test wants."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("playwright.sync_api")
from helpers.page_browser import PATIENCE, SCHEMES, SIZES, Visit, axe_finds, chromium
from helpers.page_server import FakeServer, jpeg
from PIL import Image

from edgereel.demo.clips import prompt_words

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

EXAMPLES = prompt_words()["examples"]
VERIFIED = {
    "file": "ball.mp4", "type": "video/mp4", "generated": True, "altered": False,
    "metadata": {"digital_source_type": "trainedAlgorithmicMedia", "tool": "edgereel", "edgereel_note": None},
    "signature": {"state": "valid", "signer": "Booth 7"},
    "watermark": {"found": True, "id": "a1b2c3d4e5", "not_looked_for": None},
}  # fmt: skip
Opens = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    server.fill(EXAMPLES)
    yield server
    server.close()


@pytest.fixture
def visit(browser: Any, fake: FakeServer) -> Iterator[Callable[..., Visit]]:
    """Open the page; at the end, check that it asked nobody else and that nothing went wrong on it."""
    visits: list[tuple[Visit, tuple[str, ...]]] = []

    def begin(size: str = "desk", scheme: str = "dark", allowed: tuple[str, ...] = (), **options: Any) -> Visit:
        visits.append((Visit(browser, fake.port, size, scheme, **options), allowed))
        return visits[-1][0]

    yield begin
    for each, allowed in visits:
        each.close()
        each.check(*allowed)


def wait_for(page: Any, condition: str, argument: Any = None) -> None:
    """Wait for an expression, or a function; an expression is made one, since the page's policy forbids eval."""
    is_function = condition.startswith(("() =>", "text =>", "first =>"))
    page.wait_for_function(condition if is_function else f"() => {condition}", arg=argument)


def shows_film(page: Any) -> None:
    """Wait until a film moves on the screen."""
    page.wait_for_selector("#screen[data-state=film]")
    wait_for(page, "document.getElementById('film').currentTime > 0.1")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_everyone_can_use_what_is_shown(visit: Any, fake: FakeServer, size: str, scheme: str) -> None:
    fake.state.report = VERIFIED
    page = visit(size, scheme).open()
    shows_film(page)
    assert axe_finds(page) == [], "clips"
    page.click("[data-action=again]")
    assert axe_finds(page) == [], "again"
    page.click("#again button")
    fake.state.hold = True
    for _ in range(2):
        page.click("#go")
        page.wait_for_selector("#go:enabled")
    wait_for(page, "document.querySelectorAll('#queue li').length === 2")
    assert axe_finds(page) == [], "queue"
    for opener, dialog in (("#to-settings", "#settings"), ("#camera", "#lens")):
        page.click(opener)
        page.wait_for_selector(f"{dialog}[open]")
        assert axe_finds(page) == [], dialog
        page.keyboard.press("Escape")
    fake.state.hold = False
    page.click("#gallery li:last-child .frame")
    page.click("[data-action=share]")
    page.wait_for_selector("#share[open]")
    assert axe_finds(page) == [], "share"
    page.keyboard.press("Escape")
    page.click("[data-mode=live]")
    page.click("#go")
    wait_for(page, "document.getElementById('card').textContent === ''")
    assert axe_finds(page) == [], "live"
    page.click("#go")
    page.click("#to-verify")
    page.set_input_files("#suspect", {"name": "ball.mp4", "mimeType": "video/mp4", "buffer": b"film"})
    page.wait_for_selector(".answer")
    assert axe_finds(page) == [], "verify"


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_screen(visit: Any, size: str, language: str) -> None:
    page = visit(size, locale=language).open()
    assert page.evaluate("document.documentElement.lang") == language
    shows_film(page)
    width, height = SIZES[size]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        """() => [...document.querySelectorAll('#make button, #make .face, .top a, .top button')].filter((element) => {
            const { left, right, width } = element.getBoundingClientRect();
            const outside = left < 0 || right > innerWidth || element.scrollWidth > element.clientWidth + 1;
            return width && !element.closest('#reel') && outside;
        }).map((element) => element.outerHTML)"""
    )
    assert cut == []
    if size != "phone":  # the whole page is one screen
        assert page.evaluate("document.documentElement.scrollHeight") <= height
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, .face, select, a.button')].filter((element) => {
            const { width, height } = element.getBoundingClientRect();
            return width && (width < 24 || height < 24);
        }).map((element) => element.outerHTML)"""
    )
    assert small == [], "WCAG 2.2, 2.5.8: targets of 24 pixels"


def test_a_video_by_keyboard(visit: Any, fake: FakeServer) -> None:
    page = visit().open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Control+A")
    page.keyboard.type("a green star falls in the snow")
    assert page.eval_on_selector_all("[aria-pressed=true][data-word]", "all => all.map((chip) => chip.dataset.word)") == [
        "green", "star", "falls", "in the snow",
    ]  # fmt: skip
    page.keyboard.press("Enter")
    page.wait_for_selector("#screen:is([data-state=waiting], [data-state=sampling])")
    wait_for(page, "document.getElementById('news').textContent === 'The video is done.'")
    shows_film(page)
    assert page.text_content("#said") == "a green star falls in the snow"
    asked = fake.state.asked[-1]
    assert asked["prompt"] == "a green star falls in the snow"
    page.focus("[data-action=again]")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.press("Control+A")
    page.keyboard.type("a pink star falls in the snow")
    page.keyboard.press("Enter")
    wait_for(page, "document.getElementById('said').textContent.includes('pink')")
    shows_film(page)
    again = fake.state.asked[-1]
    assert (again["seed"], again["prompt"]) == (asked["seed"], "a pink star falls in the snow")
    assert fake.state.videos[again["remix"]]["prompt"] == "a green star falls in the snow"


def test_every_control_can_be_reached_and_seen_with_the_tab_key(visit: Any) -> None:
    page = visit().open()
    shows_film(page)
    wanted = page.evaluate(
        """() => [...document.querySelectorAll('a, button, input, textarea')].filter((element) =>
            element.checkVisibility() && element.tabIndex >= 0 && !(element.type === 'radio' && !element.checked)).length"""
    )
    seen = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        outlined = page.evaluate(
            """() => {
                const element = document.activeElement;
                if (element === document.body) return null;
                const next = element.nextElementSibling;
                const face = next?.matches('.face') ? next : element.labels?.[0];
                const shown = element.matches('.unseen') ? face : element;
                const { outlineStyle, boxShadow } = getComputedStyle(shown);
                element.dataset.tab ??= String(document.querySelectorAll('[data-tab]').length);
                return [element.dataset.tab, outlineStyle !== 'none' || boxShadow !== 'none'];
            }"""
        )
        if outlined:
            assert outlined[1], page.evaluate("document.activeElement.outerHTML")
            seen.add(outlined[0])
    assert len(seen) >= wanted


@pytest.mark.parametrize("size", ["phone", "booth"])
def test_a_video_by_touch(visit: Any, fake: FakeServer, size: str) -> None:
    page = visit(size, "light").open()
    page.tap("[data-word=orange]")
    page.tap("[data-word=ring]")
    assert page.input_value("#prompt") == "an orange ring bounces over the ocean"
    page.tap("#formats label:nth-of-type(2)")
    page.tap("#lengths label:nth-of-type(2)")
    page.tap("#go")
    wait_for(page, "document.getElementById('news').textContent === 'The video is done.'")
    shows_film(page)
    asked = fake.state.asked[-1]
    assert (asked["prompt"], asked["size"], asked["num_frames"]) == (
        "an orange ring bounces over the ocean",
        "160x96",
        33,
    )
    with page.expect_download() as download:
        page.tap("[data-action=download]")
    video = next(reversed(fake.state.videos.values()))
    assert download.value.suggested_filename == f"{video['id']}.mp4"
    page.tap("#gallery li:nth-child(3) .frame")
    assert page.text_content("#said") == EXAMPLES[-2]
    shows_film(page)
    page.tap("[data-action=delete]")
    wait_for(page, f"!document.querySelector('#gallery').textContent.includes({EXAMPLES[-2]!r})")
    wait_for(page, "document.querySelectorAll('#gallery li').length === 8")
    assert EXAMPLES[-2] not in {video["prompt"] for video in fake.state.videos.values()}
    page.tap("[data-action=share], #gallery li:first-child .frame")
    page.tap("[data-action=share]")
    page.wait_for_selector("#share[open]")
    wait_for(page, "document.getElementById('qr').naturalWidth > 0")
    assert page.text_content("#share-url") == "http://192.168.0.7:8765/s/aB3dE5"


def test_preview_pictures_and_cancel(visit: Any, fake: FakeServer) -> None:
    fake.state.hold = True
    page = visit().open()
    page.click("#go")
    page.wait_for_selector("#screen[data-state=sampling]")
    wait_for(page, "document.getElementById('preview').naturalWidth === 128")
    wait_for(page, "document.getElementById('facts').textContent === 'Step 2 of 4'")
    assert page.get_attribute("#steps", "aria-valuenow") == "45"
    page.fill("#prompt", "a blue cross rises in the forest")
    page.click("#go")
    wait_for(page, "document.getElementById('facts').textContent === 'Next in line'")
    page.click("#queue li:nth-child(2) .stop")
    wait_for(page, "document.getElementById('card').textContent === 'Cancelled.'")
    page.click("#queue li:first-child .frame")
    page.click("[data-action=cancel]")
    wait_for(page, "document.querySelectorAll('#queue li').length === 0")
    states = [video["error"] and video["error"]["code"] for video in list(fake.state.videos.values())[-2:]]
    assert states == ["cancelled", "cancelled"]
    fake.state.hold = False
    page.click("[data-action=again]")
    assert page.input_value("#prompt") == EXAMPLES[0]


def colour_shown(page: Any) -> list[int]:
    """Return the most vivid colour of the live film's canvas."""
    found: list[int] = page.evaluate(
        """() => {
            const canvas = document.getElementById('picture');
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            let best = [0, 0, 0], most = -1;
            for (let i = 0; i < data.length; i += 4) {
                const [r, g, b] = data.slice(i, i + 3);
                const vivid = Math.max(r, g, b) - Math.min(r, g, b);
                if (vivid > most) [most, best] = [vivid, [r, g, b]];
            }
            return best;
        }"""
    )
    return found


def test_the_live_film_follows_what_is_typed(visit: Any, fake: FakeServer) -> None:
    page = visit().open()
    page.click("[data-mode=live]")
    page.click("#go")
    wait_for(page, "document.getElementById('card').textContent === ''")
    red = colour_shown(page)
    assert red[0] > 180 > max(red[1:]) + 60
    page.click("[data-word=blue]")
    wait_for(page, "document.getElementById('said').textContent === 'a blue ball bounces over the ocean'")
    wait_for(
        page,
        "() => { const c = document.getElementById('picture');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "for (let i = 0; i < d.length; i += 4) if (d[i + 2] > 200 && d[i] < 110) return true; return false; }",
    )
    page.fill("#prompt", "a green ball bounces over the ocean")
    wait_for(page, "document.getElementById('said').textContent === 'a green ball bounces over the ocean'")
    page.click("#go")
    wait_for(page, "document.getElementById('news').textContent === 'The live film has ended.'")
    shows_film(page)
    messages = fake.state.live
    deadline = time.monotonic() + PATIENCE / 1000
    while messages[-1]["type"] not in ("stop", "gone") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert messages[0]["type"] == "start"
    assert messages[0]["prompt"] == EXAMPLES[0]
    assert messages[-1]["type"] in ("stop", "gone")
    credit = [message["pictures"] for message in messages if message["type"] == "credit"]
    assert credit
    assert set(credit) == {8}


def test_a_live_film_that_is_refused(visit: Any, fake: FakeServer) -> None:
    page = visit().open()
    page.click("[data-mode=live]")
    page.fill("#prompt", "busy")
    page.click("#go")
    wait_for(page, "document.getElementById('wrong').textContent.startsWith('Somebody')")
    assert page.text_content("#go") == "Start live"
    shows_film(page)


def test_a_picture_from_the_camera_and_from_a_file(visit: Any, fake: FakeServer) -> None:
    page = visit("booth").open()
    page.tap("#camera")
    page.wait_for_selector("#shutter:enabled")
    page.tap("#shutter")
    page.wait_for_selector("#chosen:visible")
    page.tap("#go")
    wait_for(page, "document.getElementById('news').textContent === 'The video is done.'")
    taken = Image.open(io.BytesIO(fake.state.asked[-1].pop("picture")))
    assert taken.format == "JPEG"
    assert np.asarray(taken).std() > 10, "the camera's picture shows something"
    page.set_input_files("#file", {"name": "text.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    wait_for(page, "document.getElementById('wrong').textContent.startsWith('That is no picture')")
    own = jpeg(np.full((32, 32, 3), 90, np.uint8))
    page.set_input_files("#file", {"name": "grey.jpg", "mimeType": "image/jpeg", "buffer": own})
    wait_for(page, "document.getElementById('wrong').textContent === ''")
    page.tap("#go")
    wait_for(page, "document.querySelectorAll('#gallery li').length === 10")
    assert fake.state.asked[-1]["picture"] == own
    page.tap("#chosen")
    page.tap("#go")
    wait_for(page, "document.querySelectorAll('#gallery li').length === 11")
    assert "picture" not in fake.state.asked[-1]


@pytest.mark.parametrize(
    ("status", "error", "headers", "words"),
    [
        (429, {"code": "queue_full", "message": "full"}, {"Retry-After": "7"}, "The queue is full. Try again in 7 s."),
        (507, {"code": "disk_full", "message": "full"}, {}, "The disk is full. Ask whoever looks after this machine."),
        (400, {"code": "prompt_refused", "message": "rule 7"}, {}, "This machine does not make videos of that."),
        (400, {"code": "invalid_prompt", "message": "unknown words: dog", "param": "prompt"}, {}, "unknown words: dog"),
    ],
)
def test_what_goes_wrong_is_said(
    visit: Any, fake: FakeServer, status: int, error: Any, headers: Any, words: str
) -> None:
    page = visit(allowed=("the server responded with a status of",)).open()
    fake.state.refusals.append((status, error, headers))
    page.click("#go")
    wait_for(page, "text => document.getElementById('wrong').textContent === text", words)
    page.click("#go")
    wait_for(page, "document.querySelectorAll('#gallery li').length === 9")
    assert page.text_content("#wrong") == ""
    page.fill("#seed", "12x")
    page.click("#go")
    wait_for(page, "document.getElementById('wrong').textContent.startsWith('The seed')")


def test_a_booth_keeps_its_settings_and_forgets_who_was_there(visit: Any, fake: FakeServer) -> None:
    fake.state.settings.update(kiosk=True, pin_set=True, idle_seconds=600)
    page = visit("booth", allowed=("status of 403",)).open()
    assert page.query_selector("[data-action=delete], [data-action=download]") is None
    assert not page.is_visible("#seed")
    page.tap("#to-settings")
    for digit in "1111":
        page.tap(f"#keys button:text-is('{digit}')")
    page.tap("#pin .go")
    wait_for(page, "document.getElementById('pin-wrong').textContent === 'That is not the PIN.'")
    assert axe_finds(page) == []
    for digit in "2580":
        page.tap(f"#keys button:text-is('{digit}')")
    page.tap("#pin .go")
    page.wait_for_selector("#settings[open]")
    page.select_option("#choice-theme", "light")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    page.tap("#settings .go")
    assert page.query_selector("[data-action=delete]") is not None


def test_nobody_touches_it(visit: Any, fake: FakeServer) -> None:
    fake.state.settings.update(kiosk=True, idle_seconds=2)
    page = visit("booth").open()
    page.fill("#prompt", "a secret")
    page.tap("#languages [lang=de]")
    wait_for(page, "document.documentElement.lang === 'de'")
    page.wait_for_selector("html[data-attract]", state="attached")
    wait_for(page, "document.getElementById('card').textContent === 'Touch the screen. Make your own.'")
    assert page.input_value("#prompt") == EXAMPLES[0]
    assert page.evaluate("document.documentElement.lang") == "en"
    assert axe_finds(page) == []
    first = page.text_content("#said")
    wait_for(page, "first => document.getElementById('said').textContent !== first", first)
    page.touchscreen.tap(540, 1700)
    page.wait_for_selector("html:not([data-attract])", state="attached")
    assert fake.state.asked == [], "the touch that wakes it presses nothing"


def test_german(visit: Any) -> None:
    page = visit(locale="en").open()
    page.click("#languages [lang=de]")
    wait_for(page, "document.getElementById('go').textContent === 'Video machen'")
    assert page.title() == "edgereel"
    assert page.text_content("[data-action=again]") == "Noch einmal, etwas anders"
    assert page.text_content("#words legend") == "Farbe"
    page.reload()
    wait_for(page, "document.getElementById('go').textContent === 'Video machen'")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({}, "Made by a generative model, and unchanged since it was signed."),
        ({"altered": True, "signature": {"state": "invalid", "signer": None}}, "It was changed after it was signed."),
        ({"signature": {"state": "none", "signer": None}}, "Made by a generative model: it carries this program's watermark."),
        (
            {"generated": None, "signature": {"state": "none", "signer": None},
             "watermark": {"found": False, "id": None, "not_looked_for": None},
             "metadata": {"digital_source_type": None, "tool": None, "edgereel_note": None}},
            "No mark was found. That proves nothing: marks can be removed, and many generators leave none.",
        ),
    ],
)  # fmt: skip
def test_what_a_file_says_of_itself(visit: Any, fake: FakeServer, change: Any, answer: str) -> None:
    fake.state.report = {**VERIFIED, **change}
    page = visit("phone").open("/#verify")
    page.set_input_files("#suspect", {"name": "ball.mp4", "mimeType": "video/mp4", "buffer": b"film" * 10})
    wait_for(page, "text => document.querySelector('.answer')?.textContent === text", answer)
    assert fake.state.asked[-1] == {"verify": "ball.mp4", "size": 40}
    page.tap("#languages [lang=de]")
    wait_for(page, "text => document.querySelector('.answer').textContent !== text", answer)
    page.tap("#verify a.button")
    page.wait_for_selector("#make:visible")


def test_a_model_without_a_vocabulary_has_examples(visit: Any, fake: FakeServer) -> None:
    fake.state.vocabulary = False
    fake.state.videos.clear()
    page = visit("phone", "light").open()
    assert page.query_selector("[data-word]") is None
    page.tap(f".chip:text-is('{EXAMPLES[3]}')")
    assert page.input_value("#prompt") == EXAMPLES[3]
    assert page.is_visible("#nothing")
    assert axe_finds(page) == []
    page.tap("#go")
    shows_film(page)


def test_prompts_are_text_and_never_markup(visit: Any, fake: FakeServer) -> None:
    evil = '<img src=x onerror="document.title=1"><b>red</b>'
    page = visit().open()
    page.fill("#prompt", evil)
    page.click("#go")
    wait_for(page, "document.getElementById('news').textContent === 'The video is done.'")
    assert page.text_content("#said") == evil
    assert page.query_selector("#said *") is None
    assert page.title() == "edgereel"


def test_old_clips_come_when_they_are_wanted(visit: Any, fake: FakeServer) -> None:
    fake.fill(EXAMPLES * 3, size="32x32", num_frames=5)
    page = visit().open()
    assert len(page.query_selector_all("#gallery li")) == 24
    page.click("#more")
    wait_for(page, "document.querySelectorAll('#gallery li').length === 32")
    assert not page.is_visible("#more")


def test_a_server_with_a_token(visit: Any, fake: FakeServer) -> None:
    fake.state.token = "a-long-secret-token"
    each = visit(allowed=("status of 401",))
    each.page.goto(each.address)
    each.page.wait_for_selector("#token[open]")
    each.page.fill("#token-text", "wrong")
    each.page.keyboard.press("Enter")
    wait_for(each.page, "document.getElementById('token-wrong').textContent === 'That is not the token.'")
    each.page.fill("#token-text", "a-long-secret-token")
    each.page.keyboard.press("Enter")
    each.page.wait_for_selector("html[data-ready]", state="attached")
    shows_film(each.page)


def test_who_wants_it_still_has_it_still(visit: Any, fake: FakeServer) -> None:
    page = visit(reduced_motion="reduce").open()
    page.wait_for_selector("#screen[data-state=film]")
    assert page.evaluate("document.getElementById('film').paused")
    page.click("#play")
    shows_film(page)
    assert page.evaluate("document.getAnimations().length") == 0


def test_high_contrast(visit: Any) -> None:
    for scheme in SCHEMES:
        page = visit("desk", scheme, contrast="more").open()
        shows_film(page)
        assert axe_finds(page) == []
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") in (
            "rgb(255, 255, 255)",
            "rgb(0, 0, 0)",
        )
