"""Streams: what is sampled ahead, another prompt in the middle, and every way in which they end."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc

import numpy as np
import pytest
from helpers.causal_bundle import write_causal_bundle
from helpers.small_bundle import write_small_bundle

import edgereel
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import Cancelled, EngineError, OutOfMemory, PlanError, PromptError, UsageError
from edgereel.engines import EngineOptions
from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu
from edgereel.engines.wrapped import WrappedEngine, WrappedSession
from edgereel.runtime.memory.fit import plan_bundle
from edgereel.runtime.memory.plan import describe_plan
from edgereel.runtime.memory.sizes import Uses, context_size
from edgereel.runtime.reel import Reel

pytestmark = pytest.mark.lean

BALL, SQUARE = "a red ball", "the green square slides"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_causal_bundle(tmp_path_factory.mktemp("causal") / "small.reel")


@pytest.fixture
def reel(bundle):
    with edgereel.load(bundle, engine="cpu", threads=1) as opened:
        yield opened


class MeddlingEngine(WrappedEngine):
    """Calls `before(graph)` before each run of a graph; what it raises is raised of the run."""

    def __init__(self, before):
        super().__init__(OnnxRuntimeCpu())
        self.before = before

    def open(self, graph_path, options):
        session = super().open(graph_path, options)
        engine = self

        class Meddling(WrappedSession):
            def run(self, inputs):
                engine.before(graph_path.stem)
                return super().run(inputs)

        return Meddling(session)


def streams_are_over(before):
    """Wait until no thread of a stream is left beside those of before."""
    deadline = time.monotonic() + 30
    while any(thread.name == "edgereel stream" for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_pictures_come_one_by_one_until_the_time_is_over(reel):
    with reel.stream(BALL, seed=2, seconds=5) as stream:
        pictures = list(stream)
        assert len(pictures) == 20
        assert next(stream, None) is None
    assert {(picture.shape, picture.dtype.name) for picture in pictures} == {((6, 8, 3), "uint8")}
    with reel.stream(BALL, seed=2) as stream:
        assert all(np.array_equal(next(stream), picture) for picture in pictures)
    with reel.stream(BALL, seed=3) as stream:
        assert not all(np.array_equal(next(stream), picture) for picture in pictures)


def test_a_prompt_that_is_set_is_that_of_the_next_chunk(reel):
    with reel.stream(BALL, seed=2) as stream:
        assert stream.prompt == BALL
        assert stream.shown_prompt == ""
        next(stream)
        assert stream.shown_prompt == BALL
        threading.Thread(target=setattr, args=(stream, "prompt", SQUARE)).start()
        shown = [(next(stream), stream.shown_prompt)[1] for _ in range(30)]
        assert stream.prompt == SQUARE
    assert shown[0] == BALL
    assert shown[-1] == SQUARE
    assert shown == sorted(shown, key=[BALL, SQUARE].index)
    assert 0 < stream.switch_seconds < 60


def test_a_prompt_that_the_model_cannot_take_changes_nothing(reel):
    with reel.stream(BALL, seed=2) as stream:
        next(stream)
        with pytest.raises(PromptError, match="quokka"):
            stream.prompt = "a quokka"
        assert stream.prompt == BALL
        next(stream)
    with pytest.raises(PromptError, match="quokka"):
        reel.stream(BALL, then=[(1, "a quokka")])


def test_prompts_that_follow_one_another_are_the_same_film_every_time(reel):
    films = []
    for _ in range(2):
        with reel.stream(BALL, seed=2, seconds=8, then=[(2, SQUARE), (5, "a green ball")]) as stream:
            films.append([(picture.tobytes(), stream.shown_prompt) for picture in stream])
    assert films[0] == films[1]
    prompts = [prompt for _, prompt in films[0]]
    # 4 pictures a second, chunks of 3, 7, 11, … pictures: the first that begins at 8 or later, and at 20.
    assert [prompts.index(prompt) for prompt in (BALL, SQUARE, "a green ball")] == [0, 11, 23]


def test_the_next_chunk_is_sampled_while_the_last_one_decodes(bundle):
    """Each waits in its graph until the other one is in its own: that both are at once is seen, not timed."""
    meeting = threading.Barrier(2, timeout=120)
    runs = []

    def before(graph):
        runs.append(graph)
        # The first of the second chunk's three steps (a chunk is four calls), and the first chunk's second latent frame.
        if (graph, runs.count(graph)) in (("denoiser", 5), ("decoder_next", 1)):
            meeting.wait()

    with Reel(open_bundle(bundle), MeddlingEngine(before), EngineOptions(threads=1)) as reel:
        with reel.stream(BALL, seed=2) as stream:
            pictures = [next(stream) for _ in range(11)]
        assert not meeting.broken
        assert all(np.array_equal(*pair) for pair in zip(pictures, reel.generate(BALL, seed=2, frames=11), strict=True))


def test_no_more_than_one_chunk_is_sampled_ahead_of_a_slow_consumer(bundle):
    runs = []
    with (
        Reel(open_bundle(bundle), MeddlingEngine(runs.append), EngineOptions(threads=1)) as reel,
        reel.stream(BALL) as stream,
    ):
        next(stream)
        deadline = time.monotonic() + 60
        while runs.count("denoiser") < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(2):
            time.sleep(0.1)
            assert runs.count("denoiser") == 8  # two chunks of three steps, and a call each that remembers
            next(stream)


def test_memory_does_not_grow(reel):
    with reel.stream(BALL, seed=2, steps=1) as stream:
        for _ in range(100):
            next(stream)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.take_snapshot()
        for _ in range(400):
            next(stream)
        gc.collect()
        after = tracemalloc.take_snapshot()
        tracemalloc.stop()
    grown = sum(difference.size_diff for difference in after.compare_to(before, "filename"))
    assert grown < 50_000  # 400 pictures alone would be 57,600 bytes, their latents and context 40,000 more


def test_streams_end_with_their_block_their_consumer_and_their_reel(bundle):
    threads = set(threading.enumerate())
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        with reel.stream(BALL) as stream:
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
        streams_are_over(threads)
        with pytest.raises(RuntimeError, match="mine"), reel.stream(BALL) as stream:
            raise RuntimeError(f"mine, at {next(stream).shape}")
        streams_are_over(threads)
        stream = reel.stream(BALL)
        next(stream)
        del stream
        gc.collect()
        streams_are_over(threads)
        stream = reel.stream(BALL)
        next(stream)
    streams_are_over(threads)
    assert list(stream) == []


def test_another_clip_may_be_made_meanwhile(reel):
    expected = list(reel.generate(SQUARE, seed=4, frames=9))
    with reel.stream(BALL, seed=2) as stream:
        pictures = [next(stream) for _ in range(5)]
        assert all(
            np.array_equal(*pair) for pair in zip(reel.generate(SQUARE, seed=4, frames=9), expected, strict=True)
        )
        pictures += [next(stream) for _ in range(12)]
    assert all(np.array_equal(*pair) for pair in zip(pictures, reel.generate(BALL, seed=2, frames=17), strict=True))


@pytest.mark.parametrize("graph", ["denoiser", "decoder_next"])
def test_what_fails_in_either_thread_is_raised_to_the_consumer(bundle, graph):
    threads = set(threading.enumerate())
    runs = []

    def before(name):
        runs.append(name)
        if name == graph and runs.count(name) > 5:
            raise EngineError("the device is gone")

    with Reel(open_bundle(bundle), MeddlingEngine(before), EngineOptions(threads=1)) as reel:
        with pytest.raises(EngineError, match="the device is gone"), reel.stream(BALL) as stream:
            list(stream)
        streams_are_over(threads)


def test_a_decoder_that_runs_out_of_memory_goes_on_with_less_open(bundle):
    runs = []

    def before(name):
        runs.append(name)
        if runs.count("decoder_next") == 4 and name == "decoder_next" and not failed:
            failed.append(True)
            raise OutOfMemory("no room")

    failed = []
    with Reel(open_bundle(bundle), MeddlingEngine(before), EngineOptions(threads=1)) as reel:
        with reel.stream(BALL, seed=2) as stream:
            pictures = [next(stream) for _ in range(17)]
        assert failed
        assert reel.graphs.steps_down == ["out of memory in the decoder: nothing is kept open that is not working"]
        assert all(np.array_equal(*pair) for pair in zip(pictures, reel.generate(BALL, seed=2, frames=17), strict=True))


def test_a_reel_that_is_stopped_ends_its_stream(reel):
    with reel.stream(BALL) as stream:
        next(stream)
        reel.stop()
        with pytest.raises(Cancelled):
            list(stream)
    with reel.stream(BALL) as stream:
        next(stream)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 9}, "frames is not for streams"),
        ({"latents": np.zeros((1, 3, 2, 3, 4), np.float32)}, "latents is not for streams"),
        ({"seconds": 0}, "no time in seconds"),
        ({"seconds": float("nan")}, "no time in seconds"),
        ({"seconds": True}, "no time in seconds"),
        ({"seconds": 1e9}, "no time in seconds"),
        ({"then": [(3, SQUARE), (2, BALL)]}, "must rise"),
        ({"seconds": 2, "then": [(3, SQUARE)]}, "the film is over at 2 s"),
    ],
)
def test_what_no_stream_can_be(reel, arguments, message):
    with pytest.raises(UsageError, match=message):
        reel.stream(BALL, **arguments)


def test_a_bundle_of_clips_makes_no_streams(tmp_path):
    folder = write_small_bundle(tmp_path / "small.reel")
    with edgereel.load(folder, engine="cpu") as reel, pytest.raises(UsageError, match="makes clips, not streams"):
        reel.stream(BALL)


def test_the_plan_counts_the_context_and_refuses_what_cannot_fit(tmp_path):
    folder = write_causal_bundle(tmp_path / "wide.reel", stream={"window": 4000, "sink": 1})
    manifest = open_bundle(folder).manifest
    plan = plan_bundle(folder, engine="cpu", size=(128, 128))
    # Keys and values of 4000 frames of 64 x 64 patches, 3 half numbers each, for the prompt and the negative one.
    one = 2 * 4000 * 64 * 64 * 3 * 2
    assert context_size(manifest, plan.sizes.latents) == one
    assert plan.sizes.context == 2 * one
    assert plan.peak > 2 * one
    assert "what a stream remembers" in "\n".join(describe_plan(plan))
    assert plan.to_json()["context"] == 2 * one
    for guidance in ("shared", "own"):
        folder = write_causal_bundle(
            tmp_path / f"{guidance}.reel",
            stream={"window": 4000, "negative_context": guidance},
            change=lambda data: data["recipes"].pop(),
        )
        assert plan_bundle(folder, engine="cpu", size=(128, 128)).sizes.context == one
    with pytest.raises(PlanError, match="does not fit into 300 MiB"):
        plan_bundle(folder, engine="cpu", size=(128, 128), memory="300MiB")
    small = plan_bundle(folder, engine="cpu", size=(128, 128), frames=127)
    assert small.phases["denoiser"] == plan_bundle(folder, engine="cpu", size=(128, 128), frames=5).phases["denoiser"]


def test_pictures_are_planned_for_where_they_go_in(bundle):
    plain, with_pictures = (
        plan_bundle(bundle, engine="cpu", uses=Uses(pictures=pictures)) for pictures in (False, True)
    )
    assert set(with_pictures.components) - set(plain.components) == {"encoder"}


@pytest.mark.parametrize("frames", [1, 3, 9])
def test_previews_are_no_longer_than_the_clip(reel, frames):
    """A chunk is sampled whole where a clip is its beginning."""
    shown = []
    video = reel.generate(BALL, frames=frames, steps=2, on_preview=lambda preview: shown.append(list(preview)))
    assert len(list(video)) == frames
    assert shown
    assert max(len(pictures) for pictures in shown) <= frames
