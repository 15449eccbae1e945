"""Memory runs out at chosen points: the clip is finished all the same, and what was given up is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from pictures import psnr

import edgereel
from edgereel.engines import Engine, EngineOptions, Session, Tensor
from edgereel.engines.onnxruntime_cpu import OnnxRuntimeCpu
from edgereel.errors import OutOfMemory
from edgereel.runtime.bundle import open_bundle
from edgereel.runtime.reel import Reel

PROMPT = "a red ball bounces over the ocean"
SIZE = {"size": (128, 128), "frames": 17, "steps": 2}


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


def make(rule):
    """Return the frames and latents of a clip made under a rule, the engine, and what was given up."""
    engine = LimitedEngine(rule)
    with Reel(open_bundle(DEMO_REEL), engine, EngineOptions(threads=1)) as reel:
        video = reel.generate(PROMPT, **SIZE)
        frames = np.stack(list(video))
        return frames, video.latents, engine, reel.graphs.steps_down


@pytest.fixture(scope="module")
def plain():
    frames, latents, engine, steps_down = make(lambda *_: False)
    assert (engine.refusals, steps_down) == (0, [])
    assert engine.most_open == 4
    return frames, latents


def test_swapped_in_turn(plain):
    frames, latents, engine, steps_down = make(lambda graph, options, inputs, others: len(others) > 1 and inputs is None)
    assert steps_down == ["out of memory in the denoiser: nothing is kept open that is not working"] or steps_down
    assert np.array_equal(frames, plain[0])
    assert np.array_equal(latents, plain[1])


@pytest.mark.parametrize("graph", ["text_encoder", "denoiser"])
@pytest.mark.parametrize("when", ["opening", "running"])
def test_streamed(plain, graph, when):
    def rule(name, options, inputs, others):
        return name == graph and options.weight_budget is None and (inputs is None) == (when == "opening")

    frames, latents, engine, steps_down = make(rule)
    assert engine.refusals == 2  # once with the others open, once alone
    assert "of weights at a time" in steps_down[-1]
    assert np.array_equal(latents, plain[1])
    assert np.array_equal(frames, plain[0])


def test_streamed_in_smaller_and_smaller_parts(plain):
    def rule(name, options, inputs, others):
        return name == "denoiser" and (options.weight_budget is None or options.weight_budget > 2_500_000)

    frames, latents, engine, steps_down = make(rule)
    assert len(steps_down) > 3
    assert np.array_equal(latents, plain[1])
    assert np.array_equal(frames, plain[0])


def too_large(area):
    def rule(name, options, inputs, others):
        if inputs is None or not name.startswith("decoder"):
            return False
        height, width = inputs["latent"].shape[3:]
        return height * width > area

    return rule


def test_decoded_in_tiles(plain):
    frames, latents, engine, steps_down = make(too_large(63))
    assert "tiles of" in steps_down[-1]
    assert frames.shape == plain[0].shape
    assert np.array_equal(latents, plain[1])
    assert psnr(frames, plain[0]) >= 40


def test_decoding_fails_in_the_middle_of_the_clip(plain):
    """Pictures that were handed out stay as they are; those after them come from tiles."""
    runs = []

    def rule(name, options, inputs, others):
        if inputs is None or name != "decoder_next" or inputs["latent"].shape[3:] != (8, 8):
            return False
        runs.append(name)
        return len(runs) % 3 == 0

    frames, latents, engine, steps_down = make(rule)
    assert frames.shape == plain[0].shape
    assert np.array_equal(frames[:9], plain[0][:9])
    assert psnr(frames, plain[0]) >= 40
    assert engine.refusals == 2


def test_a_denoiser_that_fails_at_its_second_step(plain):
    runs = []

    def rule(name, options, inputs, others):
        if name != "denoiser" or inputs is None:
            return False
        runs.append(name)
        return len(runs) == 2

    frames, latents, engine, steps_down = make(rule)
    assert len(steps_down) == 1
    assert np.array_equal(frames, plain[0])


def test_what_was_learned_holds_for_the_next_clip_of_that_size(plain):
    engine = LimitedEngine(too_large(63))
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
    """The same by plan, with no failure: all three ways at once."""
    with edgereel.load(DEMO_REEL, "cpu", threads=1) as reel:
        whole = reel.plan(128, 128, 17)
    tight = whole.phases["decoder"] - whole.sizes_of("decoder").activations // 3
    with edgereel.load(DEMO_REEL, "cpu", threads=1, memory=tight) as reel:
        video = reel.generate(PROMPT, **SIZE)
        frames = np.stack(list(video))
        plan = reel.graphs.plan
        assert plan.fits
        assert plan.tile is not None
        assert reel.graphs.steps_down == []
    assert np.array_equal(video.latents, plain[1])
    assert psnr(frames, plain[0]) >= 40


def test_tensors_are_what_engines_take():
    assert Tensor.from_numpy(np.zeros(1)).shape == (1,)
