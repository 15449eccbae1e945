"""Which layers are kept: on made-up effects whose best choice is known."""

from __future__ import annotations

import pytest

from edgereel.calibration.mixed import Effect, choose_kept, sensitive_layers
from edgereel.calibration.trials import mean_decibels
from edgereel.core.errors import QualityError

pytestmark = pytest.mark.lean

ERRORS = {"a": 1e-3, "b": 1e-5, "c": 4e-4, "d": 1e-7}
BYTES = {"a": 100, "b": 100, "c": 1000, "d": 10}


def effects(clips=2):
    return {("denoiser", name): Effect((error,) * clips, BYTES[name]) for name, error in ERRORS.items()}


def additive(kept, factor=1.0):
    left = [error for name, error in ERRORS.items() if ("denoiser", name) not in kept]
    return (factor * sum(left),) * 2


def names(choice):
    return {name for _, name in choice.kept}


def test_the_cheapest_layers_that_meet_the_budget_are_kept():
    """Without a: 4.1e-4, 33.9 dB. Without c: 30 dB. Only both reach 40 dB, and b and d need not be kept."""
    choice = choose_kept(effects(), (0, 0), [], 33, additive, 10_000)
    assert names(choice) == {"a"}
    assert choice.psnr_db == pytest.approx(mean_decibels(additive(choice.kept)))
    assert names(choose_kept(effects(), (0, 0), [], 40, additive, 10_000)) == {"a", "c"}


def test_layers_to_begin_with_are_given_up_where_they_need_not_be_kept():
    start = [("denoiser", "b"), ("denoiser", "d"), ("elsewhere", "x")]
    assert names(choose_kept(effects(), (0, 0), start, 33, additive, 10_000)) == {"a"}
    assert names(choose_kept(effects(), (0, 0), start, 20, additive, 10_000)) == set()


def test_what_was_measured_goes_before_what_was_predicted():
    """Together the layers cost three times what they cost alone: a alone is at 29 dB, not 33.9."""
    choice = choose_kept(effects(), (0, 0), [], 33, lambda kept: additive(kept, 3), 10_000)
    assert names(choice) == {"a", "c"}
    assert choice.psnr_db >= 33
    assert choice.tried >= 2


def test_what_turns_out_better_than_predicted_is_used():
    choice = choose_kept(effects(), (0, 0), [], 33, lambda kept: additive(kept, 0.1), 10_000)
    assert names(choice) == set()


def test_a_budget_that_cannot_be_met_says_what_can():
    with pytest.raises(QualityError, match=r"50 dB cannot be met.*at 30\.0 dB"):
        choose_kept(effects(), (1e-3, 1e-3), [], 50, lambda kept: (additive(kept)[0] + 1e-3,) * 2, 10_000)


def test_a_choice_as_large_as_fp16_is_refused():
    with pytest.raises(QualityError, match="as large as in fp16"):
        choose_kept(effects(), (0, 0), [], 40, additive, 1099)
    assert names(choose_kept(effects(), (0, 0), [], 40, additive, 1100)) == {"a", "c"}


@pytest.mark.parametrize(("depth", "ends"), [(40, 3), (30, 2), (6, 1), (1, 1)])
def test_first_and_last_blocks_are_scaled_to_the_depth(depth, ends):
    layers = [f"blocks.{block}.attn1.to_q" for block in range(depth)]
    expected = {f"blocks.{block}.attn1.to_q" for block in {*range(ends), *range(max(depth - ends, 0), depth)}}
    assert sensitive_layers(layers) == expected


def test_layers_outside_the_blocks_are_known_by_name():
    layers = ["condition_embedder.time_proj", "proj_out", "transformer_blocks.0.ff", "transformer_blocks.1.ff", "other"]
    assert sensitive_layers(layers) == set(layers) - {"other"}
