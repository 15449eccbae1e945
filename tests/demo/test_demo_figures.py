"""The demo's figures are of what the runtime makes: the same films as a reel's, and as torch's of the same seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.causal_bundle import write_causal_bundle

import edgereel
from edgereel.bundle.reader import open_bundle
from edgereel.demo import gauges
from edgereel.demo.bundle_films import BundleFilms
from edgereel.demo.evaluate import held_out_captions
from edgereel.demo.figures import formats_of, rows, tables_of

CHECKPOINT = Path(__file__).parents[2] / "demo" / "checkpoint"


def test_what_a_bundle_cannot_do_is_left_out(tmp_path: Path) -> None:
    causal = open_bundle(write_causal_bundle(tmp_path / "causal.reel")).manifest
    assert tables_of(causal) == ["text", "picture", "streams", "prompts"]
    assert formats_of(causal) == {"default": (8, 6)}
    assert tables_of(open_bundle(DEMO_REEL).manifest) == list(gauges.TABLES)
    assert list(formats_of(open_bundle(DEMO_REEL).manifest)) == ["square", "tall", "wide"]


def test_films_of_one_chunk_are_the_reels_clips() -> None:
    (_, one), (_, two) = held_out_captions(2)
    with edgereel.load(engine="cpu", threads=1) as reel:
        films = BundleFilms(reel, steps=1).films([[one, two]], [3, 4], (48, 32))
        clips = [
            np.stack(list(reel.generate(text, seed=seed, size=(48, 32), steps=1)))
            for text, seed in ((one, 3), (two, 4))
        ]
        shown = rows(reel, "text", (128, 128), 4, 6, 1)[""]
    assert np.array_equal(films, np.stack(clips))
    assert min(shown[name] for name in ("colour", "scene", "motion", "shape")) >= 0.8
    assert shown["displacement"] == pytest.approx(1, abs=0.3)


@pytest.mark.full
def test_films_of_the_teacher_are_torchs(tmp_path: Path) -> None:
    """A stream whose prompt changes, and a picture come alive: the runtime against the demo's own torch, same seeds."""
    from dataclasses import replace

    from edgereel.demo.growing.candidate import candidate
    from edgereel.demo.growing.presets import GROWTHS
    from edgereel.demo.training.run_folder import RunFolder
    from edgereel.export import export_checkpoint

    export_checkpoint(CHECKPOINT, tmp_path / "teacher.reel")
    (_, one), (_, two) = held_out_captions(2)
    growth = replace(GROWTHS["cpu"], checkpoint=CHECKPOINT, guidance=1.0)
    torchs = candidate(growth, RunFolder(tmp_path / "run"), "teacher:4")
    picture = gauges.true_clips((96, 160), 1)[0][:1]
    with edgereel.load(tmp_path / "teacher.reel", engine="cpu", threads=1) as reel:
        ours = BundleFilms(reel, steps=4, sampler="unipc", guidance=1.0)
        for prompts, pictures in (([[one], [one]], None), ([[one]], picture)):
            made = [each.films(prompts, [5], (96, 160), pictures) for each in (ours, torchs)]
            assert made[0].shape == made[1].shape
            assert gauges.psnr(*made) > 40
        # Where a prompt changes the runtime remembers anew with it, which the roller does not: the first chunk is the same.
        changed = ours.films([[one], [two]], [5], (96, 160))
        same = ours.films([[one], [one]], [5], (96, 160))
        assert np.array_equal(changed[:, :17], same[:, :17])
        assert not np.array_equal(changed[:, 17:], same[:, 17:])
