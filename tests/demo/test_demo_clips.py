"""The procedural clips: what captions say is what is rendered, at any size and length."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from conftest import ROOT

from edgereel.bundle.vocabulary import Vocabulary
from edgereel.demo.clips import COLOURS, MOTIONS, SCENES, SHAPES, prompt_words, render, split, subjects
from edgereel.demo.evaluate import held_out_captions, shuffled, true_clips
from edgereel.demo.scorer import ATTRIBUTES, read, score, score_readings


def test_there_are_at_least_six_shapes_eight_colours_eight_motions_six_scenes() -> None:
    assert (len(SHAPES), len(COLOURS), len(MOTIONS), len(SCENES)) >= (6, 8, 8, 6)
    assert len(set(subjects())) == len(SHAPES) * len(COLOURS) * len(MOTIONS) * len(SCENES)


def test_a_tenth_of_the_combinations_is_held_out_and_every_attribute_is_trained_on() -> None:
    training, held_out = split()
    assert set(training).isdisjoint(held_out)
    assert len(held_out) == len(subjects()) // 10
    for name, values in (("shape", SHAPES), ("colour", COLOURS), ("motion", MOTIONS), ("scene", SCENES)):
        assert {getattr(subject, name) for subject in training} == set(values)


def test_every_subject_has_several_phrasings_and_no_two_subjects_share_one() -> None:
    owners = {}
    for subject in subjects():
        captions = subject.captions()
        assert len(set(captions)) == len(captions) >= 6
        for caption in captions:
            assert owners.setdefault(caption, subject) == subject


def test_whatever_is_chosen_of_the_vocabulary_is_a_caption() -> None:
    words = prompt_words()
    vocabulary = Vocabulary.model_validate(words["vocabulary"])
    captions = {caption for subject in subjects() for caption in subject.captions()}
    names = [group.name for group in vocabulary.groups]
    sentences = [
        vocabulary.sentence(dict(zip(names, chosen, strict=True)), template)
        for template in vocabulary.templates
        for chosen in product(*(group.words for group in vocabulary.groups))
    ]
    assert set(sentences) | set(words["examples"]) <= captions
    assert len(set(sentences)) == len(subjects())


def test_checkpoints_and_the_built_in_bundle_have_the_words_of_the_clips() -> None:
    demo = ROOT / "demo"
    for path in (demo / "checkpoint" / "edgereel.json", demo / "demo.reel" / "reel.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        assert {key: data.get(key) for key in ("vocabulary", "examples")} == prompt_words(), path


def test_captions_of_the_evaluation_are_of_held_out_subjects() -> None:
    training, _ = split()
    pairs = held_out_captions(230)
    assert len({subject for subject, _ in pairs}) == 230
    assert all(caption in subject.captions() and subject not in training for subject, caption in pairs)


def test_scorer_reads_true_clips_right_and_shuffled_captions_near_chance() -> None:
    pairs = true_clips(230, frames=17, height=64, width=64)
    readings = [(read(clip), subject) for clip, subject in pairs]
    truth, guess = score_readings(readings), score_readings(shuffled(readings))
    for name, chance in zip(ATTRIBUTES, (1 / 8, 1 / 6, 1 / 8, 1 / 6), strict=True):
        assert truth[name] >= 0.98, name
        assert abs(guess[name] - chance) < 0.1, name


@pytest.mark.parametrize(("frames", "height", "width"), [(33, 128, 128), (9, 96, 64), (17, 48, 80)])
def test_scorer_reads_clips_of_other_sizes_and_lengths(frames: int, height: int, width: int) -> None:
    rng = np.random.RandomState(5)
    chosen = [subjects()[index] for index in rng.choice(len(subjects()), 40, replace=False)]
    found = score((render(subject, rng, frames=frames, height=height, width=width), subject) for subject in chosen)
    assert min(found.values()) >= 0.9


def test_scorer_withstands_blur_and_noise() -> None:
    rng = np.random.RandomState(6)
    pairs = []
    for clip, subject in true_clips(80, frames=17, height=64, width=64):
        rough = clip.astype(np.float32)
        rough = (rough + np.roll(rough, 1, axis=1) + np.roll(rough, 1, axis=2) + np.roll(rough, -1, axis=1)) / 4
        rough = rough + rng.normal(0, 10, rough.shape)
        pairs.append((np.clip(rough, 0, 255).astype(np.uint8), subject))
    assert min(score(pairs).values()) >= 0.9


def test_scorer_sees_nothing_where_nothing_is() -> None:
    reading = read(np.full((17, 64, 64, 3), 30, np.uint8))
    assert (reading.colour, reading.motion, reading.shape) == (None, None, None)


def test_a_still_picture_has_no_motion() -> None:
    clip = render(subjects()[0], np.random.RandomState(0))
    assert read(np.repeat(clip[:1], 17, axis=0)).motion is None


def test_same_random_state_gives_the_same_clip() -> None:
    one, two = (render(subjects()[100], np.random.RandomState(3)) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.dtype == np.uint8
    assert one.shape == (17, 64, 64, 3)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_thing_that_vanishes_half_way_is_read_from_where_it_is_seen(shape: str) -> None:
    subject = next(subject for subject in subjects() if (subject.shape, subject.colour) == (shape, "red"))
    clip = render(subject, np.random.RandomState(4))
    clip[10:] = 30
    reading = read(clip)
    assert (reading.colour, reading.shape) == ("red", shape)
