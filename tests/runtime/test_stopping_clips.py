"""A clip under way is stopped in the middle of a step: from another thread, or by what its caller answers."""

from __future__ import annotations

import threading

import pytest

import edgereel
from edgereel.core import progress
from edgereel.core.errors import Cancelled

PROMPT = "a red ball bounces over the ocean"
LONG = {"size": (768, 768), "frames": 17, "steps": 4}
SHORT = {"size": (32, 32), "frames": 5, "steps": 1}


@pytest.fixture
def reel():
    with edgereel.load(memory="16GiB") as opened:
        yield opened


def test_from_another_thread(reel):
    begun, errors, told = threading.Event(), [], []

    def on_progress(stage, done, total):
        told.append((stage, done))
        if stage == "denoise":
            begun.set()

    def work():
        try:
            reel.generate(PROMPT, **LONG, on_progress=on_progress)
        except Cancelled as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(120)
    reel.stop()
    thread.join(300)
    assert len(errors) == 1
    assert ("denoise", 4) not in told
    assert len(list(reel.generate(PROMPT, **SHORT))) == 5


def test_by_an_answer_in_the_middle_of_a_step(reel, monkeypatch):
    """The caller is asked again while the first step still runs, and says no then."""
    monkeypatch.setattr(progress, "ASKED_AGAIN_AFTER", 0.3)
    told = []

    def on_progress(stage, done, total):
        told.append((stage, done))
        return told.count(("denoise", 0)) < 2

    with pytest.raises(Cancelled, match="in the middle of a step"):
        reel.generate(PROMPT, **LONG, on_progress=on_progress)
    assert told.count(("denoise", 0)) == 2
    assert ("denoise", 1) not in told


def test_decoding_is_stopped(reel):
    pictures = iter(reel.generate(PROMPT, **SHORT))
    next(pictures)
    reel.stop()
    with pytest.raises(Cancelled):
        list(pictures)
    assert len(list(reel.generate(PROMPT, **SHORT))) == 5


def test_a_reel_with_nothing_under_way(reel):
    reel.stop()
    assert len(list(reel.generate(PROMPT, **SHORT))) == 5
