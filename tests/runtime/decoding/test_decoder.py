from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgereel.bundle.manifest import LatentGeometry
from edgereel.core.errors import EngineError
from edgereel.engines.fake import FakeEngine
from edgereel.engines.options import EngineOptions, Window
from edgereel.runtime.decoding.decoder import decode_frames, to_uint8
from edgereel.runtime.decoding.windows import decode_clip, decode_windowed

pytestmark = pytest.mark.lean

GEOMETRY = LatentGeometry(channels=2, temporal_scale=4, spatial_scale=8, patch=[1, 1, 1])
LATENTS = np.arange(1 * 2 * 3 * 2 * 1, dtype=np.float32).reshape(1, 2, 3, 2, 1)


class Decoder:
    """Answers with pictures of the brightness of the running sum of its latents, kept in the state."""

    def __init__(self):
        self.calls = []

    def first(self, inputs):
        return self._answer("first", inputs, 1, "")

    def next(self, inputs):
        return self._answer("next", inputs, 4, "_next")

    def _answer(self, name, inputs, count, ending):
        self.calls.append((name, sorted(inputs), inputs["latent"].shape))
        total = inputs.get("state_00", 0) + inputs["latent"].sum()
        frames = np.full((1, 3, count, 16, 8), total / 255 * 2 - 1, np.float32)
        counted = inputs.get("state_01", np.zeros(1)) + 1
        return {"frames": frames, f"state_00{ending}": total, f"state_01{ending}": counted, "extra": counted}


def decode(first, following, latents=LATENTS):
    engine = FakeEngine({"decoder_first": first, "decoder_next": following})
    sessions = [engine.open(Path(f"{name}.onnx"), EngineOptions()) for name in ("decoder_first", "decoder_next")]
    return decode_frames(*sessions, latents, GEOMETRY)


def test_the_state_is_handed_from_graph_to_graph():
    decoder = Decoder()
    pictures = list(decode(decoder.first, decoder.next))
    names = ["latent", "state_00", "state_01"]
    assert decoder.calls == [("first", ["latent"], (1, 2, 1, 2, 1))] + 2 * [("next", names, (1, 2, 1, 2, 1))]
    assert [picture.shape for picture in pictures] == [(16, 8, 3)] * 9
    totals = np.cumsum(LATENTS.sum(axis=(0, 1, 3, 4)))
    assert [int(picture[0, 0, 0]) for picture in pictures] == [int(total) for total in totals.repeat([1, 4, 4])]


def test_pictures_come_as_they_are_decoded():
    decoder = Decoder()
    pictures = decode(decoder.first, decoder.next)
    assert decoder.calls == []
    next(pictures)
    assert len(decoder.calls) == 1
    next(pictures)
    assert len(decoder.calls) == 2


def test_one_latent_frame_needs_the_first_graph_only():
    decoder = Decoder()
    assert len(list(decode(decoder.first, None, LATENTS[:, :, :1]))) == 1


def altered(function, **changes):
    """Answer as the function does, but for some outputs; None leaves one out."""

    def answer(inputs):
        outputs = function(inputs)
        for name, change in changes.items():
            value = outputs.pop(name, None)
            if change is not None:
                outputs[name] = change(value)
        return outputs

    return answer


def not_a_number(frames):
    frames[0, 1, 0, 3, 3] = np.nan
    return frames


@pytest.mark.parametrize(
    ("first", "following", "message"),
    [
        ({"frames": not_a_number}, {}, "latent frame 1 gave values that are not numbers"),
        ({}, {"frames": not_a_number}, "latent frame 2 gave values that are not numbers"),
        ({}, {"frames": lambda frames: frames / 0}, "latent frame 2 gave values that are not numbers"),
        ({"frames": None}, {}, "latent frame 1 gave no frames"),
        ({"frames": lambda frames: frames.repeat(4, 2)}, {}, r"shape \[1, 3, 4, 16, 8\] in the place of \[1, 3, 1, 16"),
        (
            {},
            {"frames": lambda frames: frames[:, :, :3]},
            r"shape \[1, 3, 3, 16, 8\] in the place of \[1, 3, 4, 16, 8\]",
        ),
        ({}, {"frames": lambda frames: frames[..., :4]}, r"latent frame 2 gave frames of shape \[1, 3, 4, 16, 4\]"),
        ({}, {"frames": lambda frames: frames[:, :1]}, r"latent frame 2 gave frames of shape \[1, 1, 4, 16, 8\]"),
        ({"state_00": None, "state_01": None}, {}, r"latent frame 1 gave the state \[\], needed is state_00"),
        (
            {},
            {"state_01_next": None},
            r"latent frame 2 gave the state \['state_00'\], needed is \['state_00', 'state_01'\]",
        ),
        ({}, {"state_02_next": lambda _: np.zeros(1)}, "latent frame 2 gave the state"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_decoders_that_are_at_fault(first, following, message):
    decoder = Decoder()
    with pytest.raises(EngineError, match=message):
        list(decode(altered(decoder.first, **first), altered(decoder.next, **following)))


def in_pictures(function, broken=False):
    """Answer as the function does, with the frames made into pictures, as a device makes them."""

    def answer(inputs):
        outputs = function(inputs)
        frames = outputs.pop("frames")
        mean = np.float32(np.nan) if broken else frames.mean()
        return {"pictures": to_uint8(frames)[None], "frames_mean": np.array(mean, np.float32), **outputs}

    return answer


def test_pictures_that_a_device_made_are_taken_as_they_are():
    whole, made = Decoder(), Decoder()
    expected = np.stack(list(decode(whole.first, whole.next)))
    found = np.stack(list(decode(in_pictures(made.first), in_pictures(made.next))))
    np.testing.assert_array_equal(found, expected)


def test_decoders_of_whole_clips_may_give_pictures_too():
    """At once and in windows: the rear smooths over one frame on either side."""

    def rear(inputs):
        (hidden,) = inputs.values()
        padded = np.pad(hidden, [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)], mode="edge")
        mixed = (padded[:, :1, :-2] + padded[:, :1, 1:-1] + padded[:, :1, 2:]) / 30
        frames = mixed.repeat(3, 1).repeat(8, 3).repeat(8, 4)
        return {"frames": np.concatenate([frames[:, :, :1], frames[:, :, 1:].repeat(4, 2)], axis=2)}

    def clip(answer, *windowed):
        engine = FakeEngine({"front": lambda inputs: {"hidden_00": inputs["latents"]}, "rear": answer})
        front, last = (engine.open(Path(f"{name}.onnx"), EngineOptions()) for name in ("front", "rear"))
        latents = {"latents": np.random.RandomState(4).standard_normal((1, 2, 9, 2, 1)).astype(np.float32)}
        if windowed:
            return np.stack(list(decode_windowed(front, last, latents, GEOMETRY, *windowed)))
        return np.stack(list(decode_clip(last, latents, GEOMETRY)))

    expected = clip(rear)
    assert expected.shape == (33, 16, 8, 3)
    assert len(np.unique(expected)) > 10
    for windowed in ((), (Window(reach=1, growth=1, pictures=4), 5)):
        np.testing.assert_array_equal(clip(rear, *windowed), expected)
        np.testing.assert_array_equal(clip(in_pictures(rear), *windowed), expected)
    with pytest.raises(EngineError, match="decoding gave values that are not numbers"):
        clip(in_pictures(rear, broken=True))


def test_the_mean_of_the_frames_tells_what_bytes_cannot():
    decoder = Decoder()
    with pytest.raises(EngineError, match="latent frame 2 gave values that are not numbers"):
        list(decode(in_pictures(decoder.first), in_pictures(decoder.next, broken=True)))


@pytest.mark.extras
def test_rounding_is_that_of_diffusers():
    torch = pytest.importorskip("torch")
    from diffusers.image_processor import VaeImageProcessor

    steps = np.arange(-260, 261, dtype=np.float32) / 255
    halves = (np.arange(256, dtype=np.float32) + 0.5) / 255 * 2 - 1
    values = np.concatenate([steps, halves, np.nextafter(halves, -2), np.nextafter(halves, 2)])[: 3 * 429]
    frames = np.resize(values, (1, 3, 1, 11, 39)).astype(np.float32)
    theirs = VaeImageProcessor.denormalize(torch.from_numpy(frames)).numpy().transpose(0, 2, 3, 4, 1)[0]
    images = VaeImageProcessor.numpy_to_pil(theirs)
    np.testing.assert_array_equal(to_uint8(frames), np.stack([np.asarray(image) for image in images]))
    np.testing.assert_array_equal(to_uint8(np.zeros((1, 3, 1, 1, 1), np.float32)), 128)
