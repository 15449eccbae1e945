"""Jobs made into files: taken up where they were left, cancelled within a step, previewed, marked; and the process that does it."""

from __future__ import annotations

import base64
import io
import json
import subprocess

import av
import numpy as np
import pytest
from conftest import helpers_environment

import edgereel
from edgereel.core.errors import Cancelled, GeometryError, PromptError, UsageError
from edgereel.core.processes import python_command
from edgereel.jobs.files import JobFiles, VideosFolder
from edgereel.jobs.job import new_id
from edgereel.jobs.settings import JobSettings
from edgereel.jobs.worker.clip import ClipJob, ClipMaker
from edgereel.jobs.worker.models import Models
from edgereel.runtime.latents_file import read_video
from edgereel.runtime.video.jpeg import jpeg_bytes

pytestmark = pytest.mark.lean

PROMPT = "a red ball bounces over the ocean"
SHORT = {"prompt": PROMPT, "seed": 7, "num_frames": 9, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def models():
    models = Models({"demo": None}, "cpu", 1, None)
    yield models
    models.unload()


class Told(list):
    def __call__(self, event, **facts):
        self.append((event, facts))

    def of(self, event):
        return [facts for kind, facts in self if kind == event]


def job(folder, mark="none", keep=False, **settings):
    id = new_id()
    return ClipJob(id, "demo", JobSettings.of({**SHORT, **settings}), JobFiles(folder / id), mark, keep_latents=keep)


def make(models, job, cancelled=lambda: False):
    told = Told()
    return ClipMaker(models, told).make(job, cancelled), told


def test_a_job_is_the_clip_that_the_library_makes(models, tmp_path):
    asked = job(tmp_path)
    result, told = make(models, asked)
    with edgereel.load(engine="cpu", threads=1) as reel:
        reel.generate(PROMPT, seed=7, frames=9, steps=2).save(tmp_path / "own.mp4")
    assert asked.files.video.read_bytes() == (tmp_path / "own.mp4").read_bytes()
    assert {path.name for path in asked.files.folder.iterdir()} == {
        "video.mp4",
        "thumbnail.jpg",
        "spritesheet.jpg",
        "record.json",
    }
    assert result["bytes"] == sum(path.stat().st_size for path in asked.files.folder.iterdir())
    assert (result["facts"]["seed"], result["facts"]["num_frames"], result["facts"]["provenance"]) == (7, 9, None)
    assert [facts["step"] for facts in told.of("progress") if facts["stage"] == "denoise"] == [0, 1, 2]


def test_a_whole_clip_is_not_made_again(models, tmp_path):
    asked = job(tmp_path)
    first, _ = make(models, asked)
    before = asked.files.video.stat().st_mtime_ns
    again, told = make(models, asked)
    assert (again["facts"], told) == (json.loads(json.dumps(first["facts"])), [])
    assert asked.files.video.stat().st_mtime_ns == before


def test_a_record_of_another_file_counts_for_nothing(models, tmp_path):
    """A clip that was cut short, or that is a link, is no whole clip, whatever the record says."""
    asked = job(tmp_path)
    make(models, asked)
    whole = asked.files.video.read_bytes()
    asked.files.video.write_bytes(whole[:-1])
    assert asked.files.read_record() is None
    asked.files.video.unlink()
    (tmp_path / "elsewhere.mp4").write_bytes(whole)
    asked.files.video.symlink_to(tmp_path / "elsewhere.mp4")
    assert asked.files.read_record() is None
    asked.files.video.unlink()
    assert make(models, asked)[1]
    assert asked.files.video.read_bytes() == whole


def test_kept_latents_are_decoded_and_damaged_ones_made_again(models, tmp_path):
    asked = job(tmp_path, keep=True)
    make(models, asked)
    whole = asked.files.video.read_bytes()
    for latents in (asked.files.latents.read_bytes(), b"damaged"):
        asked.files.latents.write_bytes(latents)
        for path in (asked.files.video, asked.files.record):
            path.unlink()
        _, told = make(models, asked)
        assert bool([facts for facts in told.of("progress") if facts["stage"] == "denoise"]) == (latents == b"damaged")
        assert asked.files.video.read_bytes() == whole


@pytest.mark.parametrize("stage", ["open", "text", "denoise", "decode"])
def test_cancelling_leaves_no_clip_and_a_reel_that_works(models, tmp_path, stage):
    asked, maker = job(tmp_path), None

    def cancelled():
        return maker.stage[0] == stage or stage == "open"

    maker = ClipMaker(models, Told())
    with pytest.raises(Cancelled):
        maker.make(asked, cancelled)
    assert not asked.files.video.exists()
    assert not asked.files.record.exists()
    assert not list(asked.files.folder.glob(".*"))
    make(models, job(tmp_path))


def test_the_last_preview_is_the_clip(models, tmp_path):
    """At the last step nothing is left to come: what the model believes in then is the clip's first picture, to its rounding."""
    asked = job(tmp_path, keep=True, num_inference_steps=4)
    shown = []
    reel = models.reel("demo")
    reel.on_clean = lambda latents, _: shown.append((latents.copy(), reel.decoder.first_picture(latents)))
    try:
        video = reel.generate(PROMPT, seed=7, frames=17, steps=4)
    finally:
        reel.on_clean = None
    assert len(shown) == 4
    pictures = list(video)
    assert np.abs(shown[-1][0] - video.latents).max() < 1e-4
    assert np.abs(shown[-1][1].astype(int) - pictures[0].astype(int)).max() <= 1
    distances = [np.abs(picture.astype(int) - pictures[0].astype(int)).mean() for _, picture in shown]
    assert distances[0] > distances[-1]
    _, told = make(models, asked)
    previews = told.of("preview")
    assert previews
    assert (previews[0]["job"], previews[0]["step"]) == (asked.id, 1)
    with av.open(io.BytesIO(base64.b64decode(previews[0]["jpeg"]))) as container:
        assert next(container.decode(video=0)).width == 128


def test_previews_change_nothing(models, tmp_path):
    asked = job(tmp_path, keep=True)
    make(models, asked)
    reel = models.reel("demo")
    assert np.array_equal(
        read_video(asked.files.latents, reel).latents, reel.generate(PROMPT, seed=7, frames=9, steps=2).latents
    )


def test_a_decoder_that_has_no_place_beside_the_denoiser_shows_nothing(tmp_path):
    with edgereel.load(engine="cpu", threads=1, memory="215MiB") as reel:
        shown = []
        reel.on_clean = lambda latents, _: shown.append(reel.decoder.first_picture(latents))
        video = reel.generate(PROMPT, frames=9, steps=2)
        assert reel.graphs.plan.components["decoder"].placement == "swapped"
        assert shown == [None, None]
        assert len(list(video)) == 9


def test_marks_are_those_that_the_size_allows(models, tmp_path):
    small, _ = make(models, job(tmp_path, "auto", size="64x64"))
    large, _ = make(models, job(tmp_path, "auto", size="128x128", num_frames=1))
    assert small["facts"]["provenance"] is None
    assert large["facts"]["provenance"]["watermark"]
    assert large["facts"]["provenance"]["signed"] is False
    with pytest.raises(GeometryError, match="watermark"):
        make(models, job(tmp_path, "watermark", size="64x64"))


def test_what_a_job_comes_to_is_said_without_making_it(models):
    request = models.complete("demo", JobSettings.of({"prompt": PROMPT, "seconds": "1.9"}), None)
    assert (request.frames, request.width, request.seed) == (17, 128, 0)
    assert models.complete("demo", JobSettings.of({"prompt": PROMPT, "seconds": 0.01}), None).frames == 1
    with pytest.raises(PromptError):
        models.complete("demo", JobSettings.of({"prompt": "a zebra"}), None)
    with pytest.raises(GeometryError):
        models.complete("demo", JobSettings.of({"prompt": PROMPT, "num_frames": 10}), None)
    with pytest.raises(UsageError, match="no model"):
        models.complete("other", JobSettings.of({"prompt": PROMPT}), None)


def test_files_of_jobs_have_their_place(tmp_path):
    videos = VideosFolder(tmp_path)
    for name in ("..", "video_x", "/etc", "video_" + "0" * 33):
        with pytest.raises(ValueError, match="no job"):
            videos.of(name)
    kept, gone = new_id(), new_id()
    for id in (kept, gone):
        videos.of(id).folder.mkdir()
    (tmp_path / "somebody's").mkdir()
    assert videos.clean({kept}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([kept, "somebody's"])


def test_pictures_as_jpegs():
    """Decoded again it is the picture, to the loss of a JPEG; an odd side loses a row."""
    height, width = np.mgrid[:33, :48]
    picture = np.stack([height * 5, width * 4, height * 2 + width], axis=-1).astype(np.uint8)
    with av.open(io.BytesIO(jpeg_bytes(picture))) as container:
        found = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert found.shape == (32, 48, 3)
    assert np.abs(found.astype(int) - picture[:32].astype(int)).mean() < 3
    assert jpeg_bytes(picture) == jpeg_bytes(picture)


def test_the_process_answers_and_goes_when_nobody_listens(tmp_path):
    process = subprocess.Popen(
        python_command("edgereel.jobs.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**helpers_environment(), "OMP_NUM_THREADS": "1"},
        encoding="utf-8",
    )

    def ask(**command):
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line)
            if said.get("n") == command["n"]:
                return said
        return None

    process.stdin.write("this is no JSON\n[]\n{}\n")
    assert ask(do="make", n=1)["error"].startswith("this worker has nothing open")
    opened = {"models": {"demo": None}, "engine": "cpu", "threads": 1, "memory": None, "warm": False}
    assert ask(do="open", n=2, **opened)["ok"]
    facts = ask(do="check", n=3, model="demo", settings={"prompt": PROMPT})["facts"]
    assert (facts["width"], facts["num_frames"]) == (128, 17)
    assert ask(do="check", n=4, model="demo", settings={"prompt": "zebra"})["kind"] == "PromptError"
    assert ask(do="dance", n=5)["kind"] == "UsageError"
    assert ask(do="prompt", n=6, film="none", prompt="a")["kind"] == "UsageError"
    process.stdin.close()
    process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 0
