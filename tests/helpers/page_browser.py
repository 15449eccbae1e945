"""A real Chromium for tests of the page: three sizes, two colour schemes, a camera that is none, a watch on what it asks for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SIZES = {"phone": (390, 844), "desk": (1280, 800), "booth": (1080, 1920)}
SCHEMES = ("light", "dark")
PATIENCE = 60_000  # ms: a busy machine is slow, and only what hangs takes so long
FLAGS = [
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--disable-dev-shm-usage",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """Give Debian's Chromium, headless; skip where it or playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page that was opened, and what went wrong on it."""

    def __init__(self, browser: Any, port: int, size: str, scheme: str, **options: Any) -> None:
        width, height = SIZES[size]
        touch = size != "desk"
        self._context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            has_touch=touch,
            is_mobile=size == "phone",
            **options,
        )
        self.address = f"http://127.0.0.1:{port}"
        self.page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)

    def open(self, path: str = "/") -> Any:
        self.page.goto(self.address + path)
        self.page.wait_for_selector("html[data-ready]", state="attached")
        return self.page

    def close(self) -> None:
        self._context.close()

    def check(self, *allowed: str) -> None:
        """Fail where the page asked another machine, broke its policy, or raised; allowed: parts of errors that are meant."""
        kept = ("blob:", "data:", self.address, self.address.replace("http", "ws"))
        assert [url for url in self.asked if not url.startswith(kept)] == []
        assert [text for text in self.wrong if not any(part in text for part in allowed)] == []


def axe_finds(page: Any) -> list[str]:
    """Return what axe-core finds against WCAG 2.2 AA and its best practices, a line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = axe.Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}}).response
    return [
        f"{rule['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
