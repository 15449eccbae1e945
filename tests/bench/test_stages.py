"""A clip's time by stage: planted delays are found where they were planted, and stages add up to the whole."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
from helpers.bench_reel import SlowGraphs
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel.bench.contenders.stages import (
    ClipTimes,
    cold_times,
    make_clip,
    split_times,
    times_from_json,
    without_openings,
)
from edgereel.bench.rows import compare_in_turns, timing_of
from edgereel.core.errors import EngineError
from edgereel.core.progress import Span
from edgereel.runtime.video.output import Written

CLIPS = 7
DELAYS = {"text_encoder": 0.09, "denoiser": 0.06, "decoder_first": 0.075, "decoder_next": 0.045, "writer": 0.02}


def near(measured: list[float], planted: list[float]) -> bool:
    """Within 2% or 2 ms; planted: how long the sleeps really took.

    Of all clips the least difference is taken: what else a busy machine does adds to a clip's time, and never takes away.
    """
    difference = min(a - b for a, b in zip(measured, planted, strict=True))
    return abs(difference) <= max(0.002, 0.02 * statistics.median(planted))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of 9 frames in 2 guided steps, with the sleeps that were really taken for each."""
    graphs, folder = SlowGraphs(DELAYS), tmp_path_factory.mktemp("clips")

    def write(output, frames, *_):
        count = 0
        for _ in frames:
            graphs.sleep("writer")
            count += 1
        output.path.write_bytes(b"clip")
        return Written(count, None)

    made = []
    with pytest.MonkeyPatch.context() as patch, graphs.open(folder) as reel:
        patch.setattr("edgereel.runtime.video.output.Output.write", write)
        make_clip(reel, "a red ball", folder / "clip.mp4", steps=2)  # opens
        for _ in range(CLIPS):
            graphs.slept.clear()
            _, times = make_clip(reel, "a red ball", folder / "clip.mp4", steps=2)
            made.append((times, {name: list(values) for name, values in graphs.slept.items()}))
    return made


def test_planted_delays_show_in_the_right_stage(clips):
    times = [times for times, _ in clips]
    slept = [slept for _, slept in clips]
    assert [len(slept[0][name]) for name in DELAYS] == [2, 4, 1, 2, 9]  # guidance: two prompts, two runs a step
    graphs = {"text": ["text_encoder"], "denoise": ["denoiser"], "decode": ["decoder_first", "decoder_next"]}
    for stage, names in {**graphs, "encode": ["writer"]}.items():
        planted = [sum(sum(each[name]) for name in names) for each in slept]
        assert near([each.stages[stage] for each in times], planted), stage
    assert near([each.total for each in times], [sum(map(sum, each.values())) for each in slept])


def test_planted_delays_show_in_steps_and_frames(clips):
    for place in range(2):
        planted = [sum(slept["denoiser"][2 * place : 2 * place + 2]) for _, slept in clips]
        assert near([times.details["denoise_step"][place] for times, _ in clips], planted)
        planted = [slept["decoder_next"][place] / 4 for _, slept in clips]
        assert near([times.details["frame"][place] for times, _ in clips], planted)
    assert near(
        [times.details["first_frame"][0] for times, _ in clips], [slept["decoder_first"][0] for _, slept in clips]
    )


def test_stages_add_up(clips):
    for times, _ in clips:
        assert sum(times.stages.values()) == pytest.approx(times.total, abs=1e-9)


def test_stages_are_told_as_they_begin(tmp_path):
    told = []
    with SlowGraphs({}).open(tmp_path) as reel:
        make_clip(reel, "a red ball", tmp_path / "clip.mp4", told.append, steps=2)
    turns = [stage for place, stage in enumerate(told) if place == 0 or told[place - 1] != stage]
    assert turns == ["text", "denoise", *["decode", "encode"] * 10]  # the last call finds that no frame is left


def test_opening_inside_other_work_counts_once():
    """The decoder's graphs are opened within the call that gives the first picture; half of that built an engine."""
    spans = [Span("open", "text_encoder", 0.0, 2.0), Span("text", "", 2.0, 1.0), Span("open", "decoder", 10.0, 4.0)]
    spans += [Span("decode", "", 10.0, 5.0), Span("decode", "", 16.0, 1.0), Span("decode", "", 17.0, 0.5)]
    times = split_times((0.0, 3.5, 5.5, 8.5, 9.0, 20.0), spans, 2.0, 2, 1)
    assert times.stages == {"open": 4.0, "build": 2.0, "text": 1.5, "denoise": 5.5, "decode": 2.5, "encode": 4.5}
    assert times.details == {"denoise_step": [2.0, 3.0], "first_frame": [1.0], "frame": [1.0]}
    assert times.total == 20.0


@given(
    moments=st.lists(st.floats(0, 100), min_size=4, max_size=12).map(sorted),
    opened=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), max_size=4),
    built=st.floats(0, 30),
)
@settings(max_examples=200)
def test_any_timeline_adds_up(moments, opened, built):
    spans = [Span("open", "", start, seconds) for start, seconds in opened]
    times = split_times(moments, spans, built, 5, 4)
    assert sum(times.stages.values()) == pytest.approx(moments[-1] - moments[0], abs=1e-6)
    assert all(seconds >= -1e-9 for seconds in times.stages.values())


def test_what_nobody_accounts_for_is_the_start():
    clip = ClipTimes(3.0, {"open": 1.0, "build": 0.0, "text": 0.5, "denoise": 1.0, "decode": 0.25, "encode": 0.25}, {})
    cold = cold_times(5.0, {"open": 0.5}, clip)
    assert cold.total == 5.0
    assert cold.stages == {"start": 1.5, **clip.stages, "open": 1.5}


def test_looking_things_up_is_no_stage_of_a_warm_clip():
    def clip(opening):
        return ClipTimes(1.0, {"open": opening, "build": 0.0, "text": 0.25, "denoise": 0.75 - opening}, {})

    opened = [clip(0.0), clip(0.25)]
    assert without_openings(opened) == opened
    assert [found.stages for found in without_openings([clip(0.0)] * 2)] == [{"text": 0.25, "denoise": 0.75}] * 2


def test_times_come_back_from_json():
    clip = ClipTimes(1.0, {"text": 1.0}, {"frame": [0.25, 0.5]})
    assert times_from_json(clip.to_json()) == clip
    for wrong in ({}, {"total": "x", "stages": {}, "details": {}}, {"total": 1, "stages": [], "details": {}}):
        with pytest.raises(EngineError, match="not a clip's times"):
            times_from_json(wrong)


def test_a_row_sums_up_its_clips():
    generator = np.random.default_rng(1)
    totals = generator.uniform(1, 2, 64)
    clips = [ClipTimes(float(t), {"denoise": float(t)}, {"frame": [0.1, 0.2]}) for t in totals]
    timing = timing_of(clips, frames=16, fps=8)
    assert timing.runs == 64
    assert timing.stages["total"].median == pytest.approx(np.median(totals))
    assert timing.stages["total"].p90 == pytest.approx(totals.max())  # 64 runs: nothing can be discarded yet
    assert timing.stages["total"].p99 is None
    assert timing.stages["frame"].runs == 128
    assert timing.frames_per_second == pytest.approx(16 / np.median(totals))
    assert timing.real_time_factor == pytest.approx(np.median(totals) / 2)
    assert timing.samples["total"] == pytest.approx(totals.tolist(), abs=1e-7)
    assert timing_of([], 16, 8) is None


def test_rows_are_compared_with_the_first_round_by_round():
    base = [ClipTimes(float(t), {}, {}) for t in np.random.default_rng(2).uniform(1, 3, 12)]
    double = [ClipTimes(2 * clip.total, {}, {}) for clip in base]
    found = compare_in_turns({"a": base, "b": double, "c": base[:9]})
    assert [(each.first, each.second, each.rounds) for each in found] == [("a", "b", 12), ("a", "c", 9)]
    assert found[0].ratio == pytest.approx(2)
    assert found[0].verdict == "slower"
    assert found[1].verdict == "no difference found"
    assert compare_in_turns({"a": base}) == []
    found = compare_in_turns({"a": base, "b": double, "c": base, "d": double}, {"b": "a", "c": "b", "d": "missing"})
    assert [(each.first, each.second) for each in found] == [("a", "b"), ("b", "c"), ("a", "d")]
    assert found[1].ratio == pytest.approx(0.5)


def test_the_clock_of_a_clip_is_the_wall(tmp_path):
    with SlowGraphs({}).open(tmp_path) as reel:
        started = time.perf_counter()
        _, times = make_clip(reel, "a red ball", tmp_path / "clip.mp4", steps=2)
        assert times.total <= time.perf_counter() - started
    assert (tmp_path / "clip.mp4").stat().st_size > 500
