"""What is known of a clip, as the denoiser gets it and as it comes out: held frames, masks, latents and embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.picture_graphs import SIZE, PictureGraphs, code, picture_reel, write_picture_bundle
from helpers.small_bundle import write_small_bundle
from PIL import Image

from edgereel.bundle.manifest import Condition, LatentGeometry
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import BundleError, EngineError, UsageError
from edgereel.runtime.conditioning import mask_channels, to_float
from edgereel.runtime.sampling.noise import NoiseSource
from edgereel.runtime.sampling.samplers import SAMPLERS
from edgereel.runtime.sampling.schedules import euler_schedule, unipc_schedule

pytestmark = pytest.mark.lean

PROMPT = "a red ball"


def picture(seed, width=SIZE[0], height=SIZE[1]):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def made(folder, graphs, **settings):
    with picture_reel(folder, graphs) as reel:
        return reel.generate(PROMPT, seed=3, frames=9, **settings).latents


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
def test_held_frames_are_in_every_call_and_in_the_clip(tmp_path, sampler):
    folder = write_picture_bundle(tmp_path / "a.reel", held={"frames": 2, "timestep": 7.0})
    graphs = PictureGraphs()
    latents = made(folder, graphs, image=picture(0), sampler=sampler)
    held = code(to_float(picture(0))[None])
    assert np.array_equal(latents[:, :, :1], held)
    assert len(graphs.denoised) == 3
    schedule = {"euler": euler_schedule, "unipc": unipc_schedule}[sampler](3, 3.0)
    for inputs, timestep in zip(graphs.denoised, schedule.timesteps, strict=True):
        assert np.array_equal(inputs["latents"][:, :, :1], held)
        assert np.array_equal(inputs["timestep"], np.array([[7, timestep, timestep]], np.float32))

    # The samplers know nothing of it: they go on with their own values, whatever those have become.
    def velocity(noisy, timestep, sigma):
        return np.sin(np.concatenate([held, noisy[:, :, 1:]], axis=2) * 3) * np.float32(1e3)

    noise = NoiseSource(3).draw((1, 2, 3, 2, 4))
    expected = SAMPLERS[sampler].sample(velocity, noise, schedule, lambda: noise, None)
    assert np.abs(latents[:, :, 1:] - expected[:, :, 1:]).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(expected[:, :, :1] - held).max() > 1, "a frame that is not put back would not be noticed"


def test_a_clip_is_decoded_under_the_plan_that_it_was_made_under(tmp_path):
    plans = []
    with picture_reel(write_picture_bundle(tmp_path / "a.reel", held={"frames": 1}), PictureGraphs()) as reel:
        reel.on_plan = plans.append
        list(reel.generate(PROMPT, image=picture(0), frames=9))
        assert [list(plan.components) for plan in plans] == [["text_encoder", "encoder", "denoiser", "decoder"]]
        list(reel.generate(PROMPT, frames=5))
        assert list(plans[1].components) == ["text_encoder", "denoiser", "decoder"]


def test_a_clip_of_a_prompt_alone_has_one_timestep(tmp_path):
    graphs = PictureGraphs()
    latents = made(write_picture_bundle(tmp_path / "a.reel", held={"frames": 2}), graphs)
    assert not graphs.encoded
    assert all(
        len(set(inputs["timestep"][0])) == 1 and inputs["timestep"].shape == (1, 3) for inputs in graphs.denoised
    )
    assert np.array_equal(graphs.denoised[0]["latents"], NoiseSource(3).draw(latents.shape))


def test_masks_fold_the_flags_of_pictures():
    latent = LatentGeometry(channels=2, temporal_scale=4, spatial_scale=2, patch=[1, 1, 1])
    flags = np.array([1, 0, 0, 0, 0, 0, 0, 0, 1], np.float32)
    found = {}
    for kind in ("pictures", "latents", "pixels"):
        channels = mask_channels(Condition(layout=["mask"], mask=kind), flags, (1, 2, 3, 5, 6), latent)
        assert channels.dtype == np.float32
        assert channels.shape[2:] == (3, 5, 6)
        assert (channels == channels[..., :1, :1]).all()
        found[kind] = channels[0, :, :, 0, 0].tolist()
    assert found["pictures"] == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert found["latents"] == [[1, 0, 1]]
    assert found["pixels"] == [[1, 1, 1]] * 4  # pictures 1, 4 and 7 are nearest, and all are to be made
    known = np.ones(9, np.float32)
    assert mask_channels(Condition(layout=["mask"], mask="pixels"), known, (1, 2, 3, 5, 6), latent).max() == 0


@pytest.mark.parametrize("blank", ["encoded", "zero"])
def test_condition_channels_are_mask_and_latents_in_the_order_of_the_layout(tmp_path, blank):
    rules = {"layout": ["mask", "latents", "blank"], "blank": blank, "last": "optional"}
    folder = write_picture_bundle(tmp_path / "a.reel", condition=rules)
    graphs = PictureGraphs()
    made(folder, graphs, image=picture(0), last_image=picture(1))
    condition = graphs.denoised[0]["condition"]
    assert all(np.array_equal(inputs["condition"], condition) for inputs in graphs.denoised)
    assert condition.shape == (1, 4 + 2 + 2, 3, 2, 4)
    assert condition[0, :4, :, 0, 0].tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1]]
    first, last = (code(to_float(picture(seed))[None]) for seed in (0, 1))
    if blank == "encoded":  # one picture of four is known at the end
        expected = np.concatenate([first, first / 10, last / 4 + first / 100], axis=2)
    else:
        expected = np.concatenate([first, np.zeros_like(first), last], axis=2)
    assert np.abs(condition[:, 4:6] - expected).max() < 1e-6
    assert np.abs(condition[:, 6:]).max() == 0
    films = [pictures.shape[2] for pictures in graphs.encoded]
    assert films == ([1, 4, 4, 1, 4, 4] if blank == "encoded" else [1, 1, 1, 4, 4])


def test_embeddings_of_both_pictures_lie_side_by_side(tmp_path):
    rules = {"layout": ["mask", "latents"], "last": "required"}
    folder = write_picture_bundle(tmp_path / "a.reel", condition=rules, embeds=True)
    graphs = PictureGraphs()
    made(folder, graphs, image=picture(0), last_image=picture(1))
    embeds = graphs.denoised[0]["image_embeds"]
    means = [float(pixels.mean()) for pixels in graphs.pixels]
    assert embeds.shape == (1, 10, 4)
    assert np.allclose(embeds[0, :, 0], [means[0]] * 5 + [means[1]] * 5)
    middle = picture(0)[:, 8:24]
    expected = (middle.astype(np.float32) / 255 - 0.5) / 0.25
    assert np.abs(graphs.pixels[0][0].transpose(1, 2, 0) - expected).max() < 1e-6


def test_a_picture_of_another_shape_is_cut_or_padded(tmp_path):
    folder = write_picture_bundle(tmp_path / "a.reel", held={"frames": 1})
    tall = tmp_path / "tall.png"
    Image.fromarray(picture(0, 32, 64)).save(tall)
    shown = {}
    for fit in (None, "crop", "pad"):
        graphs = PictureGraphs()
        with picture_reel(folder, graphs) as reel:
            video = reel.generate(PROMPT, image=tall, fit=fit, frames=9)
        shown[fit] = graphs.encoded[0][0, :, 0]
        assert video.settings()["image"] == video.request.image
        assert video.request.fit == fit
    assert np.array_equal(shown[None], shown["crop"])
    assert np.array_equal(shown["crop"], to_float(picture(0, 32, 64)[24:40]))
    assert (shown["pad"][:, :, :12] == -1).all()
    assert (shown["pad"][:, :, 12:20] > -1).any()


NO_PICTURE = "takes no picture: a bundle that was exported from an image-to-video checkpoint"


@pytest.mark.parametrize(
    ("keys", "given", "message"),
    [
        ({}, {"image": 0}, NO_PICTURE),
        ({}, {"last_image": 0}, NO_PICTURE),
        ({"held": {"frames": 1}}, {"image": 0, "last_image": 0}, "takes no last picture"),
        ({"condition": {"layout": ["mask", "latents"]}}, {}, r"makes clips from pictures: give image \(--image FILE\)"),
        (
            {"condition": {"layout": ["mask", "latents"], "last": "required"}},
            {"image": 0},
            r"give last_image \(--last-image FILE\)",
        ),
        (
            {"condition": {"layout": ["mask"], "first": "no", "last": "optional"}},
            {"image": 0},
            "takes no first picture",
        ),
    ],
)
def test_pictures_that_a_bundle_does_not_take_or_lacks(tmp_path, keys, given, message):
    folder = write_picture_bundle(tmp_path / "a.reel", **keys) if keys else write_small_bundle(tmp_path / "a.reel")
    graphs = PictureGraphs()
    with picture_reel(folder, graphs) as reel, pytest.raises(UsageError, match=message):
        reel.generate(PROMPT, **{name: picture(seed) for name, seed in given.items()})
    assert not graphs.denoised
    assert not graphs.encoded


def test_fit_without_a_picture_and_of_another_name_is_refused(tmp_path):
    with picture_reel(write_picture_bundle(tmp_path / "a.reel", held={"frames": 1}), PictureGraphs()) as reel:
        with pytest.raises(UsageError, match="fit is for pictures"):
            reel.generate(PROMPT, fit="crop")
        with pytest.raises(UsageError, match="choose crop or pad"):
            reel.generate(PROMPT, fit="stretch", image=picture(0))


@pytest.mark.parametrize(
    ("graph", "answer", "message"),
    [
        ("encoder_first", {"latent": np.full((1, 2, 1, 2, 4), np.nan, np.float32)}, "frame 1 gave values that are not"),
        ("encoder_first", {"latent": np.zeros((1, 2, 1, 2, 5), np.float32)}, "frame 1 gave latents of shape"),
        ("encoder_next", {"state_00_next": np.zeros(1)}, "frame 2 gave nothing"),
        ("encoder_next", {"latent": np.zeros((1, 2, 1, 2, 4), np.float32)}, "frame 2 gave the state"),
    ],
)
def test_an_encoder_that_is_at_fault(tmp_path, graph, answer, message):
    folder = write_picture_bundle(tmp_path / "a.reel", condition={"layout": ["mask", "latents"]})
    graphs = PictureGraphs()
    setattr(graphs, graph, lambda inputs: answer | ({"state_00": answer["latent"]} if graph == "encoder_first" else {}))
    with picture_reel(folder, graphs) as reel, pytest.raises(EngineError, match=message):
        reel.generate(PROMPT, image=picture(0), frames=9)


def test_a_manifest_says_nothing_that_its_graphs_do_not_take(tmp_path):
    from helpers.small_bundle import edit

    folder = write_picture_bundle(tmp_path / "a.reel", condition={"layout": ["mask", "latents"]})
    for change, message in (
        (lambda data: data.pop("condition"), "condition must be told"),
        (lambda data: data.update(condition={"layout": ["latents"]}), "makes 2 channels"),
        (lambda data: data.update(held={"frames": 1}), "held needs denoisers whose timestep"),
        (lambda data: data["roles"].pop("encoder_next"), "belong together"),
        (lambda data: data.update(schema=1), "uses what schema 1 does not have"),
    ):
        before = (folder / "reel.json").read_text()
        edit(folder, change)
        with pytest.raises(BundleError, match=message):
            open_bundle(folder)
        (folder / "reel.json").write_text(before)
