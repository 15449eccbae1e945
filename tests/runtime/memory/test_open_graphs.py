"""Memory runs out at chosen points: the clip is finished all the same, and what was given up is said."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.pictures import signal_to_noise as psnr

import edgereel
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import OutOfMemory
from edgereel.engines import Engine, EngineOptions, Session
from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu
from edgereel.runtime.reel import Reel

PROMPT = "a red ball bounces over the ocean"
SIZE = {"size": (192, 192), "frames": 17, "steps": 2}


class LimitedEngine(Engine):
    """The cpu engine on a device without memory where a rule says so.

    A rule is asked at every opening, inputs None, and at every run: (graph, options, inputs, graphs open) -> out of memory.
    """

    name = "cpu"

    def __init__(self, rule):
        self.rule = rule
        self.open_now = []
        self.most_open = 0
        self.refusals = 0

    def check(self, graph, options, inputs):
        if self.rule(graph, options, inputs, self.open_now):
            self.refusals += 1
            raise OutOfMemory(f"the device has no room for {graph}")

    def graph_to_run(self, graph_path: Path, options: EngineOptions) -> Path | bytes:
        return OnnxRuntimeCpu().graph_to_run(graph_path, options)

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        self.check(graph_path.stem, options, None)
        session = LimitedSession(self, graph_path.stem, options, OnnxRuntimeCpu().open(graph_path, options))
        self.open_now.append(graph_path.stem)
        self.most_open = max(self.most_open, len(self.open_now))
        return session


class LimitedSession(Session):
    def __init__(self, engine, graph, options, session):
        self.engine, self.graph, self.options, self.session = engine, graph, options, session
        self.specs, self.report = session.specs, session.report

    def run(self, inputs):
        self.engine.check(self.graph, self.options, inputs)
        return self.session.run(inputs)

    def close(self):
        self.engine.open_now.remove(self.graph)
        self.session.close()


class Made(NamedTuple):
    """A clip made under a rule. given_up: in words, see OpenGraphs.steps_down."""

    frames: np.ndarray
    latents: np.ndarray
    engine: LimitedEngine
    given_up: list[str]


def make(rule):
    engine = LimitedEngine(rule)
    with Reel(open_bundle(DEMO_REEL), engine, EngineOptions(threads=1)) as reel:
        video = reel.generate(PROMPT, **SIZE)
        frames = np.stack(list(video))
        return Made(frames, video.latents, engine, reel.graphs.steps_down)


@pytest.fixture(scope="module")
def plain():
    made = make(lambda *_: False)
    assert (made.engine.refusals, made.given_up) == (0, [])
    assert made.engine.most_open == 4
    return made


def test_swapped_in_turn(plain):
    made = make(lambda graph, options, inputs, others: len(others) > 1 and inputs is None)
    assert made.given_up == ["out of memory in the decoder: nothing is kept open that is not working"]
    assert made.engine.most_open == 2
    assert np.array_equal(made.frames, plain.frames)
    assert np.array_equal(made.latents, plain.latents)


def test_embeddings_do_not_keep_the_memory_of_the_text_encoder():
    """An output that ONNX Runtime gave is a view of the session's pool of memory, which lives as long as the view does."""
    views = []

    def rule(name, options, inputs, others):
        if name == "denoiser" and inputs is not None:
            views.append(inputs["prompt_embeds"].numpy().base is not None)
        return False

    with Reel(open_bundle(DEMO_REEL), LimitedEngine(rule), EngineOptions(threads=1)) as reel:
        reel.generate(PROMPT, steps=2)
    assert views == [False, False]


@pytest.mark.parametrize("graph", ["text_encoder", "denoiser"])
@pytest.mark.parametrize("when", ["opening", "running"])
def test_streamed(plain, graph, when):
    def rule(name, options, inputs, others):
        return name == graph and options.weight_budget is None and (inputs is None) == (when == "opening")

    made = make(rule)
    assert made.engine.refusals == 2  # once with the others open, once alone
    assert "of weights at a time" in made.given_up[-1]
    assert np.array_equal(made.latents, plain.latents)
    assert np.array_equal(made.frames, plain.frames)


def test_streamed_in_smaller_and_smaller_parts(plain):
    def rule(name, options, inputs, others):
        return name == "denoiser" and (options.weight_budget is None or options.weight_budget > 2_500_000)

    made = make(rule)
    assert len(made.given_up) > 3
    assert np.array_equal(made.latents, plain.latents)
    assert np.array_equal(made.frames, plain.frames)


def too_large(area):
    def rule(name, options, inputs, others):
        if inputs is None or not name.startswith("decoder") or options.part == "front":
            return False
        height, width = inputs["hidden_00" if options.part == "rear" else "latent"].shape[3:]
        return height * width > area

    return rule


def test_decoded_in_tiles(plain):
    made = make(too_large(143))
    assert "tiles of" in made.given_up[-1]
    assert made.frames.shape == plain.frames.shape
    assert np.array_equal(made.latents, plain.latents)
    assert psnr(made.frames, plain.frames) >= 40


def test_decoding_fails_in_the_middle_of_the_clip(plain):
    """Pictures that were handed out stay as they are; those after them come from tiles."""
    runs = []

    def rule(name, options, inputs, others):
        if inputs is None or name != "decoder_next" or options.part is not None:
            return False
        runs.append(name)
        return len(runs) % 3 == 0

    made = make(rule)
    assert made.frames.shape == plain.frames.shape
    assert np.array_equal(made.frames[:9], plain.frames[:9])
    assert psnr(made.frames, plain.frames) >= 40
    assert made.engine.refusals == 2


def test_a_denoiser_that_fails_at_its_second_step(plain):
    runs = []

    def rule(name, options, inputs, others):
        if name != "denoiser" or inputs is None:
            return False
        runs.append(name)
        return len(runs) == 2

    made = make(rule)
    assert len(made.given_up) == 1
    assert np.array_equal(made.frames, plain.frames)


def test_what_was_learned_holds_for_the_next_clip_of_that_size(plain):
    engine = LimitedEngine(too_large(143))
    with Reel(open_bundle(DEMO_REEL), engine, EngineOptions(threads=1)) as reel:
        list(reel.generate(PROMPT, **SIZE))
        refusals = engine.refusals
        list(reel.generate(PROMPT, **SIZE))
        assert engine.refusals == refusals
        reel.generate(PROMPT, steps=2)
        assert reel.graphs.plan.tile is None


@pytest.mark.parametrize("graph", ["text_encoder", "denoiser", "decoder_first", "decoder_next"])
def test_no_way_left(graph):
    with pytest.raises(OutOfMemory, match=f"no room for {graph}; no way is left that needs less: try a smaller size"):
        make(lambda name, *_: name == graph)


def test_a_small_budget_is_kept_to_from_the_start(plain):
    """The same by plan, with no failure."""
    with edgereel.load(DEMO_REEL, "cpu", threads=1) as reel:
        whole = reel.plan(192, 192, 17)
    alone = whole.swap_all()
    tight = alone.phases["decoder"] - alone.sizes_of("decoder").activations // 3
    assert alone.phases["denoiser"] < tight
    with edgereel.load(DEMO_REEL, "cpu", threads=1, memory=tight) as reel:
        video = reel.generate(PROMPT, **SIZE)
        frames = np.stack(list(video))
        plan = reel.graphs.plan
        assert plan.fits
        assert plan.tile is not None
        assert reel.graphs.steps_down == []
    assert np.array_equal(video.latents, plain.latents)
    assert psnr(frames, plain.frames) >= 40
