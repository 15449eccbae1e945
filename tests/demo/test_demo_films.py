"""Films: shots go on without a cut, captions say what is shown, and the scorer reads it back, seams and drift included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgereel.demo.clips import MOTIONS, Subject, split
from edgereel.demo.film_scorer import cut, drift, read_motion, read_shot, seams, shows
from edgereel.demo.films import (
    FADE,
    FIRST,
    NEXT,
    Film,
    Shot,
    Wear,
    draw_caption,
    draw_film,
    held_out_subjects,
    pictures_of,
    render_film,
    tracks,
    worn,
)
from edgereel.demo.training.tokenizer import UNKNOWN, build_tokenizer

RED_BALL = Shot("ball", "red", ("moves right",), "ocean")


def _render(*shots: Shot, size: int = 64, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return render_film(Film(shots), np.random.RandomState(seed), height=size, width=size)


def test_a_film_has_the_pictures_that_chunks_of_five_latent_frames_decode_to() -> None:
    assert [pictures_of(shots) for shots in (1, 2, 3)] == [17, 37, 57]
    film = _render(RED_BALL, RED_BALL, RED_BALL)
    assert (film.shape, film.dtype) == ((57, 64, 64, 3), np.uint8)
    assert [len(chunk) for chunk in cut(film)] == [FIRST, NEXT, NEXT]


@pytest.mark.parametrize("motion", sorted(MOTIONS))
def test_a_motion_goes_on_at_its_own_speed_across_shots(motion: str) -> None:
    shot = Shot("ball", "red", (motion,), "night")
    track = np.concatenate(tracks(Film((shot, shot, shot)), np.random.RandomState(1)))
    u = np.arange(17, dtype=np.float32) / 16
    x, y, scale = MOTIONS[motion](u)
    assert np.allclose(np.diff(track[:17], axis=0), np.diff(np.stack([x, y, scale], axis=-1), axis=0), atol=1e-6)
    steps = np.linalg.norm(np.diff(track, axis=0), axis=-1)
    assert steps.max() <= 1.3 * steps[:16].max()


def test_another_motion_begins_where_the_one_before_ended() -> None:
    second = Shot("ball", "red", ("rises", "moves left"), "ocean")
    one, two = tracks(Film((RED_BALL, second)), np.random.RandomState(2))
    assert np.allclose(two[0], one[-1] - (0, 0.5 / 16, 0))
    assert np.allclose(two[9] - two[0], (0, -0.5 * 9 / 16, 0))
    assert np.allclose(two[19] - two[10], (-0.5 * 9 / 16, 0, 0))


def test_what_leaves_at_an_edge_comes_in_at_the_opposite_one() -> None:
    film = _render(RED_BALL, RED_BALL)
    red = (film[..., 0] > 200) & (film[..., 1] < 90)
    areas = red.sum(axis=(1, 2))
    assert areas.min() > 0.9 * areas.max()
    assert (red[:, :, 0].any(axis=1) & red[:, :, -1].any(axis=1)).any()


def test_no_training_shot_is_held_out_and_captions_use_known_words() -> None:
    rng, tokenizer = np.random.RandomState(3), build_tokenizer()
    assert held_out_subjects() == set(split()[1])
    for _ in range(300):
        film = draw_film(rng, 3)
        for index, shot in enumerate(film.shots):
            assert not set(shot.subjects()) & held_out_subjects()
            caption = draw_caption(film, index, rng, has_context=index > 0)
            tokens = tokenizer.encode(caption).tokens
            assert UNKNOWN not in tokens
            assert len(tokens) <= 24


def test_what_is_worn_is_another_shape_and_heals_in_the_next_shot() -> None:
    shot = Shot("star", "red", ("moves right",), "ocean")
    whole = Film((shot, shot, shot))
    other = replace(whole, wear=Wear(1, "ball", 1.0, 0.0))
    one, two = (cut(render_film(film, np.random.RandomState(0), height=64, width=64)) for film in (whole, other))
    assert np.array_equal(one[0], two[0])
    assert [read_shot(two[index], first=False).shape for index in (1, 2)] == ["ball", "star"]
    assert not np.array_equal(one[2][: FADE - 1], two[2][: FADE - 1])
    assert np.array_equal(one[2][FADE:], two[2][FADE:])
    drawn = {worn(whole, np.random.RandomState(seed)).wear for seed in range(40)}
    assert {wear.shot for wear in drawn} == {0, 1}, "the last one is remembered by none"
    assert all(wear.shape != "star" and 0.1 <= wear.share <= 0.6 for wear in drawn)


def test_a_caption_is_silent_only_about_what_has_not_changed() -> None:
    changed = Shot("star", "blue", ("rises",), "snow")
    film = Film((RED_BALL, changed))
    captions = {draw_caption(film, 1, np.random.RandomState(seed), has_context=True) for seed in range(200)}
    assert captions <= set(changed.captions())
    same = Film((RED_BALL, RED_BALL))
    captions = {draw_caption(same, 1, np.random.RandomState(seed), has_context=True) for seed in range(200)}
    assert {"a red ball", "it is moving to the right"} <= captions
    first = {draw_caption(same, 0, np.random.RandomState(seed), has_context=False) for seed in range(200)}
    assert not any("it" in caption.split() for caption in first)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (80, 48)])
def test_the_scorer_reads_true_films_right(height: int, width: int) -> None:
    rng, found = np.random.RandomState(4), []
    for _ in range(12):
        film = draw_film(rng, 3)
        pictures = render_film(film, rng, height=height, width=width)
        for index, (chunk, shot) in enumerate(zip(cut(pictures), film.shots, strict=True)):
            found.append(shows(read_shot(chunk, first=index == 0), shot, chunk))
    for name in ("colour", "scene", "motion", "shape"):
        assert np.mean([match[name] for match in found]) >= 0.95, name


def test_the_scorer_tells_another_subject_from_what_is_shown() -> None:
    film = _render(RED_BALL, RED_BALL)
    chunk = cut(film)[1]
    other = Shot("star", "blue", ("rises",), "snow")
    assert not any(shows(read_shot(chunk, first=False), other, chunk).values())
    assert read_motion(np.zeros((20, 3))) is None


def test_a_jump_at_a_hand_over_is_seen_and_a_smooth_one_is_not() -> None:
    film = _render(RED_BALL, RED_BALL, RED_BALL)
    assert all(seam.jump < 1.5 and abs(seam.scene) < 0.02 for seam in seams(film))
    jumped = film.copy()
    jumped[FIRST:] = np.roll(jumped[FIRST:], 20, axis=1)
    assert seams(jumped)[0].jump > 3
    assert seams(jumped)[1].jump < 1.5
    relit = film.copy()
    relit[FIRST:] //= 2
    assert seams(relit)[0].scene > 0.05


def test_drift_tells_faded_and_blurred_films_from_true_ones() -> None:
    film = _render(RED_BALL, RED_BALL, RED_BALL)
    true = drift(film)
    assert true.colour < 0.05
    assert true.scene < 0.05
    assert 0.9 < true.sharpness < 1.1
    blurred = film.astype(np.float32)
    for _ in range(4):
        blurred = (blurred + np.roll(blurred, 1, axis=2) + np.roll(blurred, -1, axis=2)) / 3
    worn = film.copy()
    worn[-NEXT:] = 0.8 * blurred[-NEXT:] + 30
    assert drift(worn).sharpness < 0.7
    assert drift(worn).colour > true.colour
    assert drift(worn).scene > true.scene


def test_every_subject_of_a_single_clip_can_be_a_shot() -> None:
    subject = Subject("ring", "pink", "circles", "volcano")
    shot = Shot(subject.shape, subject.colour, (subject.motion,), subject.scene)
    assert shot.subjects() == [subject]
    assert set(shot.captions()) == set(subject.captions())
