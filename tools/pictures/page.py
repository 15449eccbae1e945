"""`python -m edgereel.tools.pictures.page docs`: the server's page at a desk and in a booth, and a played story.

Serves a folder of its own on the loopback address, has it make some videos, and looks at it with Chromium. Needs
`edgereel[serve,story,browser]` and Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ..story_measurements import STORIES

_PROMPTS = (
    "a blue star circles around in the desert",
    "a white ball moves to the left in the night sky",
    "a cyan square rises above a volcano",
    "a pink triangle shrinks in the forest",
    "a green triangle moves to the right in the desert",
    "an orange ring falls in the night sky",
    "a yellow star bounces in the snow",
    "a red ball bounces over the ocean",
    "a white cross grows over the ocean",
    "a green ring circles around above a volcano",
    "a pink ball falls in the snow",
    "an orange star rises over the ocean",
)
_QUALITY = 82
_PATIENCE_MS = 120_000


def main() -> None:
    """Draw `page.jpg`, `page_booth.jpg` and `play.jpg` into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with _running(folder, "serve", "--data", folder / "data", "--workers", "1") as port:
            for prompt in _PROMPTS:
                _make(port, prompt)
            booth = _opened(browser, port, (1080, 1920), "light", touch=True)
            booth.click("#gallery li button")
            booth.wait_for_selector("#screen[data-state=film]")
            booth.wait_for_function("() => document.getElementById('film').currentTime > 0.7")
            _save(booth, arguments.folder / "page_booth.jpg", (540, 960))
            desk = _opened(browser, port, (1280, 800), "dark")
            desk.click("#lengths label:last-child")
            for words in (("blue", "cross", "shrinks", "in the snow"), ("red", "ball", "rises", "over the ocean")):
                for word in words:
                    desk.click(f"[data-word='{word}']")
                desk.click("#go")
            for word in ("orange", "star", "circles around"):
                desk.click(f"[data-word='{word}']")
            desk.wait_for_selector("#screen[data-state=sampling]")
            time.sleep(0.4)
            _save(desk, arguments.folder / "page.jpg", (1280, 800))
        with _running(folder, "story", "play", STORIES / "tale.yaml") as port:
            play = _opened(browser, port, (960, 600), "dark")
            play.click("[data-action=begin]")
            play.wait_for_selector("#choices button")
            time.sleep(0.5)
            _save(play, arguments.folder / "play.jpg", (960, 600))
        browser.close()


@contextmanager
def _running(folder: Path, *arguments: object) -> Iterator[int]:
    """Run a command that serves, and give its port."""
    homes = {"EDGEREEL_HOME": str(folder / "home"), "EDGEREEL_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "edgereel", *map(str, arguments), "--port", "0", "--engine", "cpu"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process: Any = subprocess.Popen(command, env={**os.environ, **homes}, **streams)  # type: ignore[call-overload]
    try:
        line = next(line for line in process.stdout if "http://" in line)
        yield int(line.rsplit(":", 1)[1].strip(' "}/\n'))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def _make(port: int, prompt: str) -> None:
    """Have a video made. Raises RuntimeError where it fails."""
    videos = f"http://127.0.0.1:{port}/v1/videos"
    content = json.dumps({"prompt": prompt}).encode()
    asked = urllib.request.Request(videos, content, {"content-type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        job = json.load(answer)
    while job["status"] in ("queued", "in_progress"):
        time.sleep(0.1)
        with urllib.request.urlopen(f"{videos}/{job['id']}") as answer:
            job = json.load(answer)
    if job["status"] != "completed":
        raise RuntimeError(f"{prompt}: {job['status']}")


def _opened(browser: Any, port: int, size: tuple[int, int], scheme: str, *, touch: bool = False) -> Page:
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        has_touch=touch,
        reduced_motion="no-preference",
    )
    page: Page = context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("html[data-ready]", state="attached")
    return page


def _save(page: Page, path: Path, size: tuple[int, int]) -> None:
    large = path.with_suffix(".large.png")
    page.screenshot(path=large)
    with Image.open(large) as picture:
        picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(path, quality=_QUALITY, subsampling=0)
    large.unlink()


if __name__ == "__main__":
    main()
