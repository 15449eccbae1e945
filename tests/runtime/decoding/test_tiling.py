"""Clips decoded tile by tile: every pixel is there once, nothing is left behind, and pictures are near the untiled ones."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from hypothesis import given
from hypothesis import strategies as st

from edgereel.bundle.manifest import LatentGeometry
from edgereel.core.errors import Cancelled, EngineError, OutputError, UsageError
from edgereel.engines.fake import FakeEngine
from edgereel.engines.options import EngineOptions
from edgereel.runtime.decoding import tiling
from edgereel.runtime.decoding.decoder import decode_frames
from edgereel.runtime.decoding.tiling import Tile, decode_tiled, plan_tiles
from edgereel.runtime.memory.plan import LEAST_TILE
from edgereel.runtime.reel import load

SCALE = 4
GEOMETRY = LatentGeometry(channels=2, temporal_scale=2, spatial_scale=SCALE, patch=[1, 1, 1])


@st.composite
def pictures_and_tiles(draw):
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    tile = [draw(st.integers(1, 20)) for _ in range(2)]
    return height, width, Tile(*tile, draw(st.integers(0, min(tile) - 1)))


def along(tiles, axis):
    """Return the distinct (start, length) of tiles along one axis."""
    return sorted({(tile.top, tile.height) if axis == 0 else (tile.left, tile.width) for tile in tiles})


@given(pictures_and_tiles())
def test_tiles_cover_the_picture_and_overlap_as_asked(case):
    height, width, tile = case
    tiles = plan_tiles(height, width, tile)
    assert [(part.top, part.left) for part in tiles] == sorted({(part.top, part.left) for part in tiles})
    counts = np.zeros((height, width), int)
    for part in tiles:
        assert 0 <= part.top <= height - part.height
        assert 0 <= part.left <= width - part.width
        counts[part.top : part.top + part.height, part.left : part.left + part.width] += 1
    assert counts.min() == 1
    for axis, (length, size) in enumerate(((height, tile.height), (width, tile.width))):
        spans = along(tiles, axis)
        assert {extent for _, extent in spans} == {min(length, size)}
        overlaps = [start + size - following for (start, _), (following, _) in pairwise(spans)]
        assert all(overlap >= tile.overlap for overlap in overlaps)
        # One tile fewer could not cover it.
        assert len(spans) == 1 or (len(spans) - 1) * (size - tile.overlap) + tile.overlap < length
    assert len(tiles) == len(along(tiles, 0)) * len(along(tiles, 1))


@pytest.mark.parametrize("size", [(4, 4, 4), (4, 3, 3), (4, 4, -1), (0, 4, 0)])
def test_impossible_tiles_are_refused(size):
    with pytest.raises(UsageError, match=f"tiles of {size[0]}x{size[1]} latents cannot overlap by {size[2]}"):
        Tile(*size)


class Decoder:
    """Decodes each latent for itself: its pixels have its first channel's value, plus the frame's number as its state."""

    def __init__(self):
        self.shapes, self.fails = [], None

    def first(self, inputs):
        return self._answer(inputs, 1, 0, "")

    def following(self, inputs):
        return self._answer(inputs, 2, inputs["state_00"], "_next")

    def _answer(self, inputs, count, number, ending):
        latent = inputs["latent"]
        self.shapes.append(latent.shape)
        if self.fails is not None and len(self.shapes) == self.fails[0]:
            raise self.fails[1]
        values = latent[:, :1].repeat(SCALE, 3).repeat(SCALE, 4).repeat(3, 1).repeat(count, 2) + number
        return {"frames": values.astype(np.float32) / 127.5 - 1, f"state_00{ending}": np.float32(number + 1)}

    def sessions(self):
        engine = FakeEngine({"decoder_first": self.first, "decoder_next": self.following})
        return [engine.open(Path(f"{name}.onnx"), EngineOptions()) for name in ("decoder_first", "decoder_next")]


def whole_latents(height, width, frames=3):
    """Whole numbers, which the decoder above turns into exact brightness."""
    return np.random.default_rng().integers(0, 250, (1, 2, frames, height, width)).astype(np.float32)


@given(pictures_and_tiles())
def test_a_decoder_without_context_gives_the_same_pictures(case):
    """Weights sum to one everywhere: what all tiles agree on comes out as it is."""
    height, width, tile = case
    latents, sessions = whole_latents(height, width, 2), Decoder().sessions()
    expected = np.stack(list(decode_frames(*sessions, latents, GEOMETRY)))
    found = np.stack(list(decode_tiled(None, sessions, latents, GEOMETRY, tile)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("overlap", range(6))
def test_weights_lead_from_tile_to_tile_and_leave_edges_out(overlap):
    for length, tile in ((20, 8), (17, 6), (9, 8)):
        spans = tiling.spans(length, tile, overlap)
        weights = tiling._weights(spans, overlap, SCALE)
        total = np.zeros(length * SCALE)
        for (start, end), weight in zip(spans, weights, strict=True):
            total[start * SCALE : end * SCALE] += weight
            assert weight.min() >= 0
            if overlap >= 3:
                assert start == 0 or not weight[:SCALE].any()
                assert end == length or not weight[-SCALE:].any()
        np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
        alone = np.sum([np.pad(weight > 0, (start * SCALE, (length - end) * SCALE))
                        for (start, end), weight in zip(spans, weights, strict=True)], axis=0) == 1  # fmt: skip
        assert (total[alone] == 1).all()
        ramps = (~alone).sum() / SCALE / (len(spans) - 1)
        assert ramps <= 1


def test_a_tile_goes_through_all_of_time_before_the_next():
    decoder = Decoder()
    pictures = decode_tiled(None, decoder.sessions(), whole_latents(6, 5), GEOMETRY, Tile(4, 5, 2))
    assert decoder.shapes == []
    next(pictures)
    assert decoder.shapes == 6 * [(1, 2, 1, 4, 5)]
    assert len(list(pictures)) == 4
    assert len(decoder.shapes) == 6


def test_errors_are_those_of_decoding(tmp_path):
    decoder = Decoder()
    engine = FakeEngine({"f": decoder.first, "n": lambda inputs: {**decoder.following(inputs), "frames": np.zeros(3)}})
    sessions = [engine.open(Path(name), EngineOptions()) for name in "fn"]
    with pytest.raises(EngineError, match="decoding latent frame 2 gave frames of shape"):
        list(decode_tiled(None, sessions, whole_latents(6, 6), GEOMETRY, Tile(4, 4, 1), tmp_path))


def open_files():
    """What the descriptors of this process lead to, deleted files included."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            yield os.readlink(f"/proc/self/fd/{descriptor}")


@pytest.mark.parametrize("ends", ["error", "interrupt", "closed", "whole"])
def test_nothing_is_left_in_the_folder(tmp_path, ends):
    folder, decoder = tmp_path / "scratch", Decoder()
    kinds = {"error": EngineError("no"), "interrupt": KeyboardInterrupt()}
    if ends in kinds:
        decoder.fails = (5, kinds[ends])
    pictures = decode_tiled(None, decoder.sessions(), whole_latents(6, 6), GEOMETRY, Tile(4, 4, 1), folder)
    if ends in kinds:
        with pytest.raises(type(kinds[ends])):
            next(pictures)
    elif ends == "closed":
        next(pictures)
        pictures.close()
    else:
        assert len(list(pictures)) == 5
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    if sys.platform == "linux":
        assert not [descriptor for descriptor in open_files() if descriptor.startswith(str(folder))]


KILLED = """
import sys
import time
from itertools import pairwise
from pathlib import Path
import numpy as np
from edgereel.engines.options import EngineOptions
from edgereel.engines.fake import FakeEngine
from edgereel.bundle.manifest import LatentGeometry
from edgereel.runtime.reel import load
from edgereel.runtime.decoding.tiling import Tile, decode_tiled

def wait(inputs):
    print("decoding", flush=True)
    for _ in range(600):  # in one long sleep, or read, a signal that comes just before it goes unseen
        time.sleep(0.05)

session = FakeEngine({"f": wait}).open(Path("f"), EngineOptions())
geometry = LatentGeometry(channels=2, temporal_scale=2, spatial_scale=4, patch=[1, 1, 1])
next(decode_tiled(None, (session, session), np.zeros((1, 2, 1, 6, 6), np.float32), geometry, Tile(4, 4, 1), Path(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that is killed leaves its files")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_process_is_stopped(tmp_path, number):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"decoding\n"
        process.send_signal(number)
        assert process.wait(30) != 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    decoder, latents = Decoder(), whole_latents(100, 100, 6)
    # 4 tiles of 60 x 60 latents of 4 x 4 pixels, 11 pictures of 3 bytes a pixel
    message = rf"needs 7 MiB in {tmp_path}, where 977 KiB are free: make room or choose another folder"
    with pytest.raises(OutputError, match=message):
        next(decode_tiled(None, decoder.sessions(), latents, GEOMETRY, Tile(60, 60, 4), tmp_path))
    assert decoder.shapes == []


def test_a_disk_that_fills_up_and_a_folder_that_is_none(tmp_path, monkeypatch):
    decoder = Decoder()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"tiled decoding cannot use .*file"):
        next(decode_tiled(None, decoder.sessions(), whole_latents(6, 6), GEOMETRY, Tile(4, 4, 1), tmp_path / "file"))
    decoder.fails = (1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OutputError, match=f"cannot use {tmp_path}: No space left on device"):
        next(decode_tiled(None, decoder.sessions(), whole_latents(6, 6), GEOMETRY, Tile(4, 4, 1), tmp_path))


class CutDecoder(Decoder):
    """The decoder above with a front, whose maps have `scale` pixels to a latent and count frames, whole pictures alone."""

    def __init__(self, scale=1):
        super().__init__()
        self.scale, self.front_shapes, self.later = scale, [], lambda maps: maps

    def front_first(self, inputs):
        return self._front(inputs, 0, "")

    def front_following(self, inputs):
        made = self._front(inputs, inputs["state_50"], "_next")
        return {**made, "hidden_00": self.later(made["hidden_00"])}

    def _front(self, inputs, number, ending):
        latent = inputs["latent"]
        self.front_shapes.append(latent.shape)
        # The mean is what a tile could not know.
        maps = np.repeat(np.repeat(latent, self.scale, 3), self.scale, 4) + np.round(latent.mean()) + number
        return {"hidden_00": maps.astype(np.float32), f"state_50{ending}": np.float32(number + 1)}

    def _answer(self, inputs, count, number, ending):
        maps = inputs.pop("hidden_00")
        return super()._answer({**inputs, "latent": maps[..., :: self.scale, :: self.scale]}, count, number, ending)

    def fronts(self):
        engine = FakeEngine({"decoder_first": self.front_first, "decoder_next": self.front_following})
        return tuple(engine.open(Path(f"{name}.onnx"), EngineOptions()) for name in ("decoder_first", "decoder_next"))


@given(pictures_and_tiles(), st.integers(1, 3))
def test_the_front_sees_whole_pictures_and_the_rear_their_tiles(case, scale):
    height, width, tile = case
    latents = np.floor(whole_latents(height, width, 3) / 3)
    decoder = CutDecoder(scale)
    found = np.stack(list(decode_tiled(decoder.fronts(), decoder.sessions(), latents, GEOMETRY, tile)))
    assert decoder.front_shapes == 3 * [latents[:, :, :1].shape]
    frames = [latents[0, 0, at] + np.round(latents[:, :, at].mean()) + at for at in range(3)]
    expected = [frames[0], *(frame + at for at, frame in ((1, frames[1]), (2, frames[2])) for _ in range(2))]
    for picture, values in zip(found, expected, strict=True):
        np.testing.assert_array_equal(picture, values.repeat(SCALE, 0).repeat(SCALE, 1)[..., None].repeat(3, 2))


def test_a_front_that_hands_on_other_things(tmp_path):
    latents, tile = whole_latents(6, 6), Tile(4, 4, 1)
    decoder = CutDecoder()
    decoder.later = lambda maps: maps[..., :5]
    with pytest.raises(EngineError, match="hands on other shapes for later frames"):
        next(decode_tiled(decoder.fronts(), decoder.sessions(), latents, GEOMETRY, tile, tmp_path))
    whole = FakeEngine({"f": lambda inputs: {"hidden_00": inputs["latent"][..., :5], "state_50": np.zeros(1)}})
    session = whole.open(Path("f"), EngineOptions())
    with pytest.raises(EngineError, match=r"hands on \[1, 2, 1, 6, 5\] for latents \[1, 2, 3, 6, 6\]"):
        next(decode_tiled((session, session), decoder.sessions(), latents, GEOMETRY, tile, tmp_path))
    nothing = FakeEngine({"f": lambda inputs: {"state_50": np.zeros(1)}}).open(Path("f"), EngineOptions())
    with pytest.raises(EngineError, match="latent frame 1 gave nothing to decode further"):
        next(decode_tiled((nothing, nothing), decoder.sessions(), latents, GEOMETRY, tile, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_room_for_what_the_front_hands_on_is_looked_for_too(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=8_000_000))
    decoder, latents = CutDecoder(scale=2), whole_latents(100, 100, 6)
    # 7.6 MB of pictures, as above, and 6 frames of 2 x 200 x 200 floats
    with pytest.raises(OutputError, match=r"needs 9 MiB in .*, where 8 MiB are free"):
        next(decode_tiled(decoder.fronts(), decoder.sessions(), latents, GEOMETRY, Tile(60, 60, 4), tmp_path))
    assert (len(decoder.front_shapes), decoder.shapes) == (1, [])


def test_progress_is_told_by_tiles_and_may_cancel(tmp_path, words_reel):
    decoder, told = Decoder(), []
    list(
        decode_tiled(
            None,
            decoder.sessions(),
            whole_latents(6, 6),
            GEOMETRY,
            Tile(4, 4, 1),
            on_tile=lambda *now: told.append(now),
        )
    )
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    with load(words_reel, threads=1) as reel:
        plan = reel.plan(128, 128, 5)
        reel.graphs.plans[plan.sizes.key] = replace(plan, tile=Tile(7, 8))
        video = reel.generate("a red ball", size=(128, 128), frames=5, steps=1)
        stages = []

        def cancel(stage, done, total):
            stages.append((stage, done, total))
            return stage != "tiles" or done < 1

        with pytest.raises(Cancelled, match="cancelled during tiles"):
            video.save(tmp_path / "clip.gif", on_progress=cancel)
    assert stages == [("decode", 0, 5), ("tiles", 0, 2), ("tiles", 1, 2)]


def opened(reel, part=None):
    return tuple(reel.graphs.session(f"decoder_{name}", part) for name in ("first", "next"))


def psnr(found, expected):
    return -10 * np.log10(np.square(found / 255.0 - expected / 255.0).mean())


@pytest.mark.parametrize(
    ("prompt", "seed", "size"),
    [
        ("a green star rises in the snow", 1, (128, 128)),
        ("a blue square slides over the lava", 2, (256, 192)),
        ("a red ball bounces over the ocean", 0, (192, 192)),
        ("a red ball bounces over the ocean", 4, (256, 192)),
    ],
    ids=str,
)
def test_the_demos_pictures_are_near_the_untiled_ones(prompt, seed, size):
    """Latents as sampled, tiles of about half the size and the smallest ones (dB)."""
    with load(DEMO_REEL, threads=1) as reel:
        latents, geometry = reel.generate(prompt, seed=seed, size=size, frames=9).latents, reel.bundle.manifest.latent
        whole = np.stack(list(decode_frames(*opened(reel), latents, geometry)))
        front, rear = opened(reel, "front"), opened(reel, "rear")

        def near(tile):
            return psnr(np.stack(list(decode_tiled(front, rear, latents, geometry, tile))), whole)

        height, width = (extent // 2 for extent in latents.shape[3:])
        smallest = near(Tile(LEAST_TILE, LEAST_TILE))
        halves = near(Tile(height + 3, width + 3))
        apart = near(Tile(height, width, 0))
    assert min(smallest, halves) > 50
    assert apart < halves - 10


PEAK = """
import sys
import numpy as np
import edgereel
from edgereel.runtime.decoding.decoder import decode_frames
from edgereel.runtime.reel import load
from edgereel.runtime.decoding.tiling import Tile, decode_tiled

tiled, frames = sys.argv[1] == "tiled", int(sys.argv[2])
with edgereel.load(sys.argv[3], threads=1) as reel:
    def opened(part):
        return tuple(reel.graphs.session(f"decoder_{name}", part) for name in ("first", "next"))

    geometry = reel.bundle.manifest.latent
    latents = np.random.default_rng(0).standard_normal((1, geometry.channels, frames, 24, 24)).astype(np.float32)
    if tiled:
        pictures = decode_tiled(opened("front"), opened("rear"), latents, geometry, Tile(6, 6, 1))
    else:
        pictures = decode_frames(*opened(None), latents, geometry)
    assert sum(1 for _ in pictures) == 1 + 4 * (frames - 1)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_tile_and_does_not_grow_with_length():
    def peak(*arguments):
        command = [sys.executable, "-c", PEAK, *map(str, arguments), str(DEMO_REEL)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    whole, short, long = peak("whole", 2), peak("tiled", 2), peak("tiled", 12)
    assert short < 0.8 * whole
    assert long < 1.05 * short
