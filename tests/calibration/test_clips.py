"""Which clips measure quality: as small as asked for, refused before any work, and how long they take told before they begin."""

from __future__ import annotations

import json
import re
import time

import pytest
from conftest import DEMO_REEL, edit_manifest
from helpers.causal_bundle import write_causal_bundle

from edgereel.bundle.reader import open_bundle
from edgereel.calibration import clips, quantize
from edgereel.calibration.clips import ClipSettings, estimate_in_words, estimate_seconds, in_words
from edgereel.calibration.compare import compare_bundles
from edgereel.calibration.trials import Trials
from edgereel.core.errors import GeometryError, MissingExtraError, QualityError, UsageError
from edgereel.runtime.memory.work import count_work
from edgereel.runtime.reel import Reel, load

PROMPT = "a red ball bounces over the ocean"
SMALL = ClipSettings(steps=1, size=(32, 32), frames=5)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(f"{PROMPT}\n")
    return path


@pytest.fixture
def speed(monkeypatch):
    """A machine that does a billion FLOPs a second in any graph, at once."""
    monkeypatch.setattr(clips, "product_peak", lambda *_: 1e9 / clips._SHARE)
    monkeypatch.setattr(clips, "_EACH_RUN", 0.0)
    return 1e9


def test_the_estimate_is_the_work_of_the_clips_by_the_speed(speed):
    bundle = open_bundle(DEMO_REEL)
    one = sum(part.flops for part in count_work(bundle, SMALL.complete(bundle)).values()) / speed
    assert estimate_seconds([bundle], 1, SMALL, "cpu", None) == pytest.approx(one)
    assert estimate_seconds([bundle, bundle], 3, SMALL, "cpu", None, trials=4) == pytest.approx(3 * 6 * one)
    large = ClipSettings(steps=4, size=(256, 256), frames=33)
    assert estimate_seconds([bundle], 1, large, "cpu", None) > 100 * one
    said = estimate_in_words([bundle, bundle], 3, large, trials=90)
    assert said.startswith("3 clips of 256x256, 33 frames, 4 steps, made up to 92 times: at most about ")
    assert said.endswith("on this machine; fewer --prompts, --steps or --frames, or a smaller --size, take less")
    assert re.fullmatch(
        r"1 clip of 32x32, 5 frames, 1 step, made 2 times: about \d+ s on this machine",
        estimate_in_words([bundle] * 2, 1, SMALL),
    )


def test_where_nothing_can_be_told_the_work_goes_on(monkeypatch):
    def missing(*_):
        raise MissingExtraError("onnx", "cpu", "telling what a graph costs")

    monkeypatch.setattr(clips, "product_peak", missing)
    said = []
    compare_bundles(DEMO_REEL, DEMO_REEL, prompts=[PROMPT], settings=SMALL, on_estimate=said.append)
    assert "how long that takes cannot be told: telling what a graph costs needs onnx" in said[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01, "1 s"), (89, "89 s"), (100, "2 min"), (5000, "83 min"), (6000, "1.7 h"), (4e5, "5 days")],
)
def test_times_for_people(seconds, words):
    assert in_words(seconds) == words


def test_clips_are_made_as_asked_for(monkeypatch):
    """Of both bundles, and how long that takes is told before the first."""
    made, told = [], []
    make = Reel.make

    def note(self, asked, *hooks):
        made.append(asked.complete(self.bundle.manifest))
        return make(self, asked, *hooks)

    monkeypatch.setattr(Reel, "make", note)
    settings = ClipSettings(
        size=(32, 48), frames=9, recipe=open_bundle(DEMO_REEL).manifest.recipes[-1].name, guidance=1.5
    )
    compare_bundles(
        DEMO_REEL,
        DEMO_REEL,
        prompts=[PROMPT],
        seeds=(0, 1),
        settings=settings,
        on_estimate=lambda text: told.append(len(made)),
    )
    assert told == [0]
    assert len(made) == 4
    assert {(each.width, each.height, each.frames, each.recipe) for each in made} == {(32, 48, 9, settings.recipe)}
    assert {each.guidances for each in made} == {(1.5,)}


@pytest.mark.parametrize("frames", [1, 3, 9])
def test_clips_of_streams_are_compared_whatever_their_length(tmp_path, frames):
    """Shorter than a chunk, one, and several, of which the first one's steps are compared."""
    reel = write_causal_bundle(tmp_path / "causal.reel")
    settings = ClipSettings(size=(8, 6), frames=frames, steps=3)
    (same,) = compare_bundles(reel, reel, prompts=["a red ball"], settings=settings).clips
    assert same.drift == [0.0] * 3


def test_settings_of_clips_that_nobody_makes(tmp_path, prompts):
    for option, given in (
        ("--size", {"size": (32, 32)}),
        ("--recipe", {"recipe": "4-step"}),
        ("--steps", {"steps": 1}),
    ):
        with pytest.raises(UsageError, match=f"{option} is for the clips that are compared, and none are"):
            quantize(DEMO_REEL, tmp_path / "x.reel", precision="int8", compare=False, **given)


def test_more_clips_than_anyone_waits_for(tmp_path, prompts):
    with pytest.raises(UsageError, match="1000000000 clips are too many"):
        compare_bundles(DEMO_REEL, DEMO_REEL, prompts=[PROMPT], seeds=range(10**9))
    with pytest.raises(UsageError, match="1000000000 clips are too many"):
        quantize(DEMO_REEL, tmp_path / "x.reel", precision="int8", prompts=prompts, seeds=range(10**9))


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        (ClipSettings(size=(33, 32)), GeometryError, "33"),
        (ClipSettings(frames=6), GeometryError, "6"),
        (ClipSettings(recipe="none"), UsageError, "no recipe 'none'"),
        (ClipSettings(steps=7), UsageError, "7 steps are not possible"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_any_work(settings, error, reason, monkeypatch, tmp_path, prompts):
    monkeypatch.setattr(Reel, "make", lambda *_: pytest.fail("work had begun"))
    monkeypatch.setattr("edgereel.calibration.quantizing.denoiser_graphs", lambda *_: pytest.fail("work had begun"))
    with pytest.raises(error, match=reason):
        compare_bundles(DEMO_REEL, DEMO_REEL, prompts=[PROMPT], settings=settings)
    with pytest.raises(error, match=reason):
        quantize(DEMO_REEL, tmp_path / "x.reel", precision="int8", prompts=prompts, **settings.given())


def test_bundles_of_other_steps_are_refused_before_any_work(demo_copy, monkeypatch):
    edit_manifest(demo_copy, lambda data: data["recipes"].reverse())
    monkeypatch.setattr(Reel, "make", lambda *_: pytest.fail("work had begun"))
    with pytest.raises(UsageError, match=r"the bundles take \d and \d steps: give --steps"):
        compare_bundles(DEMO_REEL, demo_copy, prompts=[PROMPT])


def test_the_commands_take_it_all(run, prompts, tmp_path):
    small = [
        "--prompts",
        prompts,
        "--size",
        "32x32",
        "--frames",
        "5",
        "--steps",
        "1",
        "--seeds",
        "2",
        "--guidance",
        "1",
    ]
    code, out, err = run("quantize", DEMO_REEL, "-o", "q.reel", "--precision", "int8", "--json", *small)
    assert code == 0, err
    quality = json.loads(out)["quality"]
    assert [quality[name] for name in ("clips", "steps", "width", "height", "frames")] == [2, 1, 32, 32, 5]
    assert re.match(r"edgereel: 2 clips of 32x32, 5 frames, 1 step, made 2 times: about \d+ s on this machine\n", err)
    code, out, err = run("compare", DEMO_REEL, "q.reel", "--json", *small)
    assert code == 0, err
    assert len(json.loads(out)["clips"]) == 2
    assert json.loads(out)["first"]["shown"] is None  # the scorer reads clips of the demo's own size
    assert "made 2 times: about" in err


@pytest.mark.full
def test_mixed_makes_no_more_clips_than_it_said(prompts, tmp_path, monkeypatch):
    """Each layer alone, then whole choices: counted here where no budget can be met, which tries them all."""
    times, said = [], []
    errors = Trials.errors
    monkeypatch.setattr(Trials, "errors", lambda self, plans: (times.append(1), errors(self, plans))[1])
    with pytest.raises(QualityError):
        quantize(
            DEMO_REEL, tmp_path / "m.reel", precision="mixed", budget_db=99.9, prompts=prompts, on_estimate=said.append,
            **SMALL.given(),
        )  # fmt: skip
    most = int(re.search(r"made up to (\d+) times", said[0])[1])
    assert most / 2 < len(times) + 2 <= most


@pytest.mark.full
def test_the_estimate_is_of_the_right_size():
    bundle = open_bundle(DEMO_REEL)
    settings = ClipSettings(size=(128, 128), frames=33)
    told = estimate_seconds([bundle], 2, settings, "cpu", 1)
    with load(DEMO_REEL, threads=1, cache=False) as reel:
        list(reel.generate(PROMPT, **settings.given()))
        started = time.perf_counter()
        for seed in (1, 2):
            list(reel.generate(PROMPT, seed=seed, **settings.given()))
    assert 1 / 4 < told / (time.perf_counter() - started) < 4
