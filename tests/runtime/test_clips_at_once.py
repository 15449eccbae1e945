"""Several clips of one reel under way at once: the same pictures as one after the other, also where memory is swapped."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import edgereel
from edgereel.core.errors import EngineError

pytest.importorskip("onnx")

PROMPTS = ("a red ball bounces over the ocean", "a green square moves to the left in the desert")
SETTINGS = {"steps": 1, "frames": 9}


def frames_of(video):
    return np.stack(list(video))


@pytest.fixture(scope="module")
def expected(words_reel):
    with edgereel.load(words_reel) as reel:
        return [frames_of(reel.generate(prompt, **SETTINGS)) for prompt in PROMPTS]


@pytest.fixture(params=[None, "200MiB"], ids=["all in memory", "swapped"])
def reel(request, words_reel):
    with edgereel.load(words_reel, memory=request.param) as opened:
        yield opened


def test_a_clip_is_made_inside_the_loop_over_anothers_pictures(reel, expected):
    shown, inner = [], None
    for index, picture in enumerate(reel.generate(PROMPTS[0], **SETTINGS)):
        shown.append(picture)
        if index == 2:
            inner = frames_of(reel.generate(PROMPTS[1], **SETTINGS))
    assert np.array_equal(np.stack(shown), expected[0])
    assert np.array_equal(inner, expected[1])


def test_two_clips_are_decoded_in_turns(reel, expected):
    videos = [reel.generate(prompt, **SETTINGS) for prompt in PROMPTS]
    pairs = list(zip(*videos, strict=True))
    for index in range(2):
        assert np.array_equal(np.stack([pair[index] for pair in pairs]), expected[index])


def test_two_sizes_are_decoded_in_turns(reel):
    sizes = [(64, 64), (96, 64)]
    alone = [frames_of(reel.generate(PROMPTS[0], size=size, **SETTINGS)) for size in sizes]
    videos = [reel.generate(PROMPTS[0], size=size, **SETTINGS) for size in sizes]
    pairs = list(zip(*videos, strict=True))
    for index in range(2):
        assert np.array_equal(np.stack([pair[index] for pair in pairs]), alone[index])


def test_two_threads_share_a_reel(reel, expected):
    found: dict[int, list[np.ndarray]] = {0: [], 1: []}
    problems = []

    def work(index):
        try:
            for _ in range(3):
                found[index].append(frames_of(reel.generate(PROMPTS[index], **SETTINGS)))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for index, clips in found.items():
        assert all(np.array_equal(clip, expected[index]) for clip in clips)


def test_a_reel_that_is_closed_while_a_clip_is_decoded(reel):
    pictures = iter(reel.generate(PROMPTS[0], **SETTINGS))
    next(pictures)
    reel.close()
    with pytest.raises(EngineError, match="this reel is closed"):
        list(pictures)
