"""What follows a clip: from latents in sight of what they left, or from the last pictures of a clip or a file."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.causal_bundle import write_causal_bundle
from helpers.picture_graphs import SIZE, PictureGraphs, code, picture_reel, write_picture_bundle
from helpers.small_bundle import write_small_bundle

import edgereel
from edgereel.core.errors import UsageError
from edgereel.runtime.conditioning import to_float
from edgereel.runtime.pictures.video_file import last_pictures

pytestmark = pytest.mark.lean

BALL, SQUARE = "a red ball", "the green square slides"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_causal_bundle(tmp_path_factory.mktemp("causal") / "small.reel", kind="float")


def write_video(path, pictures, fps=8, codec="libx264", **options):
    """Write pictures without loss, as far as YUV goes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"crf": "0", "g": "4", **options})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def shades(count, width=32, height=16):
    """Return pictures that tell their number by their grey."""
    return [np.full((height, width, 3), 10 + 5 * index, np.uint8) for index in range(count)]


def test_a_causal_clip_that_goes_on_is_the_film_with_another_prompt(bundle):
    """Switching the stream's prompt and continuing a clip are the same, but for the noise."""
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        clip = reel.generate(BALL, seed=5, frames=11)  # three chunks
        more = clip.continue_(SQUARE, 2)
        again = clip.continue_(SQUARE, 2, seed=6)
        other = clip.continue_(SQUARE, 2, seed=7)
        with reel.stream(BALL, seed=5, then=[(2.75, SQUARE)]) as stream:
            streamed = [next(stream) for _ in range(19)]
        pictures = list(more)
        third = more.continue_(BALL, 1)
        assert len(third) == 4
        assert third.latents.shape[2] == 6 + 4 + 2
    assert len(more) == len(pictures) == 8
    assert more.request.overlap == 11
    assert more.request.seed == 6
    assert more.settings()["overlap"] == 11
    assert np.array_equal(more.latents[:, :, :6], clip.latents)
    assert np.array_equal(more.latents, again.latents)
    assert not np.array_equal(more.latents, other.latents)
    assert not np.array_equal(pictures[0], streamed[11]), "the noise is another"


def test_continuing_with_the_noise_of_the_stream_is_the_stream(bundle, monkeypatch):
    from edgereel.runtime import reel as reel_module
    from edgereel.runtime.sampling.noise import NoiseSource

    def after_three_chunks(seed):
        noise = NoiseSource(5)
        for _ in range(3):
            noise.draw((1, 3, 2, 3, 4))
        return noise

    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        clip = reel.generate(BALL, seed=5, frames=11)
        with reel.stream(BALL, seed=5, then=[(2.75, SQUARE)]) as stream:
            streamed = [next(stream) for _ in range(19)]
        monkeypatch.setattr(reel_module, "NoiseSource", after_three_chunks)
        more = list(clip.continue_(SQUARE, 2))
    assert all(np.array_equal(*pair) for pair in zip(more, streamed[11:], strict=True))


def test_kept_latents_go_on_as_their_clip_does(bundle, tmp_path):
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        clip = reel.generate(BALL, seed=5, frames=11)
        more = clip.continue_(SQUARE, 2)
        path = edgereel.write_latents(tmp_path / "more.safetensors", more, reel.bundle)
        read = edgereel.read_video(path, reel)
        assert all(np.array_equal(*pair) for pair in zip(read, more, strict=True))
        assert np.array_equal(read.continue_(BALL, 1).latents, more.continue_(BALL, 1).latents)


@pytest.mark.parametrize("held", [1, 2, 3])
def test_a_held_clip_goes_on_from_its_last_pictures(tmp_path, held):
    graphs = PictureGraphs()
    with picture_reel(write_picture_bundle(tmp_path / "a.reel", held={"frames": held}), graphs) as reel:
        clip = reel.generate(BALL, seed=1, frames=13)
        last = list(clip)[-(1 + 4 * (held - 1)) :]
        graphs.encoded.clear()
        graphs.denoised.clear()
        more = clip.continue_(SQUARE, 1)
        assert len(more) == 8
        assert len(list(more)) == 8
    given = [np.round((block[0].transpose(1, 2, 3, 0) + 1) * 127.5).astype(np.uint8) for block in graphs.encoded]
    assert [len(block) for block in given] == [1, 4, 4][:held]
    assert np.array_equal(np.concatenate(given), np.stack(last))
    assert more.request.overlap == 1 + 4 * (held - 1)
    assert more.latents.shape[2] == held + 2
    assert np.array_equal(graphs.denoised[0]["latents"][:, :, :1], code(to_float(last[0])[None]))
    assert (graphs.denoised[0]["timestep"][0, :held] == 0).all()


def test_a_conditioned_clip_goes_on_from_its_last_picture(tmp_path):
    graphs = PictureGraphs()
    folder = write_picture_bundle(tmp_path / "a.reel", condition={"layout": ["mask", "latents"]})
    with picture_reel(folder, graphs) as reel:
        video = write_video(tmp_path / "a.mp4", shades(6))
        more = reel.continue_file(video, SQUARE)
        assert more.request.frames == 9
        assert len(list(more)) == 8
        assert graphs.denoised[0]["condition"][0, :4, :, 0, 0].tolist() == [[1, 0, 0]] * 4
        assert abs(graphs.denoised[0]["condition"][0, 4, 0, 0, 0] - (35 / 127.5 - 1)) < 0.02


def test_a_video_file_goes_on_at_its_size_and_speed(tmp_path):
    graphs = PictureGraphs()
    with picture_reel(write_picture_bundle(tmp_path / "a.reel", held={"frames": 2}), graphs) as reel:
        more = reel.continue_file(write_video(tmp_path / "a.mp4", shades(23), fps=16), SQUARE, seconds=0.5)
        assert (more.request.width, more.request.height, more.request.fps) == (*SIZE, 16)
        assert len(more) == 8
        seen = [float(picture.mean()) for block in graphs.encoded for picture in block[0].transpose(1, 0, 2, 3)]
        assert np.abs(np.array(seen) - [(10 + 5 * index) / 127.5 - 1 for index in range(18, 23)]).max() < 0.02
        graphs.encoded.clear()
        more = reel.continue_file(write_video(tmp_path / "b.mp4", shades(9, 50, 50)), SQUARE)
        assert (more.request.width, more.request.height) == (32, 16), "a size that the model cannot do"
        assert graphs.encoded[0].shape == (1, 3, 1, 16, 32)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")])
@pytest.mark.parametrize("count", [1, 5, 60])
def test_the_last_pictures_of_a_file(tmp_path, suffix, codec, count):
    path = write_video(tmp_path / f"a.{suffix}", shades(49), fps=Fraction(24000, 1001), codec=codec)
    end = last_pictures(path, count)
    assert end.fps == Fraction(24000, 1001)
    found = [float(picture.mean()) for picture in end.pictures]
    expected = [10 + 5 * index for index in range(49)][-count:]
    assert np.abs(np.array(found) - expected).max() < 4


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_list_of_other_files_is_no_video(tmp_path, text):
    write_video(tmp_path / "other.mp4", shades(9))
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(UsageError, match="is not a video that can be read"):
        last_pictures(tmp_path / "list.mp4", 5)


def bad_files(folder):
    good = write_video(folder / "good.mp4", shades(9)).read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video at all")
    (folder / "cut.mp4").write_bytes(good[: len(good) // 3])
    write_video(folder / "short.mp4", shades(3))
    with av.open(str(folder / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return {
        "empty.mp4": "is not a video that can be read",
        "text.mp4": "is not a video that can be read",
        "cut.mp4": "is not a video that can be read",
        "short.mp4": "has 3 pictures, and this model goes on from 5 at least",
        "sound.wav": "has no pictures in it",
        "nothing.mp4": "there is no such file",
        ".": "is not a file",
    }


def test_files_that_no_clip_goes_on_from(tmp_path):
    graphs = PictureGraphs()
    with picture_reel(write_picture_bundle(tmp_path / "a.reel", held={"frames": 2}), graphs) as reel:
        for name, message in bad_files(tmp_path).items():
            with pytest.raises(UsageError, match=message) as refusal:
                reel.continue_file(tmp_path / name, SQUARE)
            assert "\n" not in str(refusal.value)
    assert not graphs.denoised


def test_a_large_video_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    from edgereel.runtime.pictures import video_file

    monkeypatch.setattr(video_file, "MOST_PIXELS", 100)
    with pytest.raises(UsageError, match="are too large: scale the clip down"):
        last_pictures(write_video(tmp_path / "a.mp4", shades(5)), 5)


@pytest.mark.parametrize("name", ["size", "frames", "fps", "latents", "image", "last_image"])
def test_what_is_the_clips_own(bundle, name):
    values = {"size": (8, 6), "frames": 9, "fps": 4, "latents": np.zeros((1, 3, 5, 3, 4), np.float32)}
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        clip = reel.generate(BALL, frames=3)
        with pytest.raises(UsageError, match=f"{name} is that of the clip"):
            clip.continue_(SQUARE, **{name: values.get(name, np.zeros((6, 8, 3), np.uint8))})
        with pytest.raises(UsageError, match="no time in seconds"):
            clip.continue_(SQUARE, -1)


def test_a_bundle_of_a_prompt_alone_continues_nothing(tmp_path):
    graphs = PictureGraphs()
    with picture_reel(write_small_bundle(tmp_path / "small.reel"), graphs) as reel:
        video = write_video(tmp_path / "a.mp4", shades(9))
        with pytest.raises(UsageError, match="takes no picture"):
            reel.continue_file(video, SQUARE)
        graphs.denoised.clear()
        clip = reel.generate(BALL, frames=5, recipe="quick", guidance=1)
        with pytest.raises(UsageError, match="takes no picture"):
            clip.continue_(SQUARE)


def test_a_bundle_without_an_encoder_continues_its_own_clips_and_no_files(tmp_path):
    def change(data):
        for name in ("encoder_first", "encoder_next"):
            data["roles"].pop(name)

    folder = write_causal_bundle(tmp_path / "c.reel", change=change)
    with edgereel.load(folder, engine="cpu", threads=1) as reel:
        assert len(list(reel.generate(BALL, frames=7).continue_(SQUARE, 1))) == 4
        with pytest.raises(UsageError, match="takes no picture"):
            reel.continue_file(write_video(tmp_path / "a.mp4", shades(9, 8, 6)), SQUARE)
        with pytest.raises(UsageError, match="takes no picture"):
            reel.stream(BALL, image=np.zeros((6, 8, 3), np.uint8))


def test_latents_of_another_bundle_are_refused(bundle, tmp_path):
    def change(data):
        data["latent"]["max_patches"] = 32

    other = write_causal_bundle(tmp_path / "other.reel", change=change)
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        path = edgereel.write_latents(tmp_path / "a.safetensors", reel.generate(BALL, frames=7), reel.bundle)
    with (
        edgereel.load(other, engine="cpu", threads=1) as reel,
        pytest.raises(UsageError, match="whose decoder is another"),
    ):
        edgereel.read_video(path, reel)
