"""Latents that are kept: decoded later they give the same clip; damaged, foreign or hostile files are refused."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import DEMO_REEL, edit_manifest
from helpers.command_line import frames_of, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import edgereel
from edgereel.core.errors import UsageError
from edgereel.runtime.latents_file import decoder_digest, read_video, write_latents

pytestmark = pytest.mark.lean

PROMPT = "a red ball bounces over the ocean"
QUICK = ["--steps", "2", "--frames", "5", "--size", "32x32", "--bundle", str(DEMO_REEL)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a file of latents and the reel, which stays open."""
    path = tmp_path_factory.mktemp("latents") / "clip.safetensors"
    with edgereel.load(DEMO_REEL, "cpu", threads=1, cache=False) as reel:
        video = reel.generate(PROMPT, steps=2, frames=5, size=(32, 32), seed=4)
        write_latents(path, video, reel.bundle)
        yield path, reel, video


def metadata_of(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata(), file.get_tensor("latents")


def done(result):
    """Return what a run that went well printed."""
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def test_decoding_later_gives_the_same_video(run):
    record = json.loads(done(run("generate", PROMPT, "-o", "now.mp4", *QUICK, "--keep-latents", "--json")))
    assert record["latents"].endswith("now.safetensors")
    again = json.loads(done(run("decode", "now.safetensors", "-o", "later.mp4", "--bundle", str(DEMO_REEL), "--json")))
    assert np.array_equal(frames_of("now.mp4"), frames_of("later.mp4"))
    assert again["settings"] == record["settings"]
    assert set(again["seconds"]) == {"open", "decode", "encode"}


def test_private_leaves_the_prompts_out(run):
    done(run("generate", PROMPT, "-o", "a.mp4", *QUICK, "--keep-latents", "--private"))
    assert b"red ball" not in Path("a.safetensors").read_bytes()
    done(run("decode", "a.safetensors", "-o", "b.mp4", "--bundle", str(DEMO_REEL)))
    assert b"red ball" not in Path("b.mp4").read_bytes()


def test_what_the_file_holds(kept):
    path, reel, video = kept
    metadata, latents = metadata_of(path)
    assert metadata["bundle_digest"] == reel.bundle.manifest.digest
    assert json.loads(metadata["settings"])["prompt"] == PROMPT
    assert np.array_equal(latents, video.latents)
    assert read_video(path, reel).request == video.request


def test_another_decoder_is_refused_and_another_denoiser_is_not(kept, demo_copy):
    path, _, video = kept
    edit_manifest(demo_copy, lambda data: data.update(name="other"))
    with edgereel.load(demo_copy, "cpu") as other:
        assert other.bundle.manifest.digest != json.loads(json.dumps(metadata_of(path)[0]["bundle_digest"]))
        assert np.array_equal(read_video(path, other).latents, video.latents)
    edit_manifest(demo_copy, lambda data: data["latent"].update(max_patches=255))
    with edgereel.load(demo_copy, "cpu") as other, pytest.raises(UsageError, match="whose decoder is another"):
        read_video(path, other)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda data, array: data.update(settings="{}"), "settings in it cannot be read"),
        (lambda data, array: data.update(settings="[" * 100000), "settings in it cannot be read"),
        (lambda data, array: data.pop("settings"), "settings in it cannot be read"),
        (lambda data, array: data.update(decoder="0" * 64), "whose decoder is another"),
        (
            lambda data, array: data.update(settings=data["settings"].replace('"fps": 8', '"fps": 100000')),
            "frames per second",
        ),
        (
            lambda data, array: data.update(settings=data["settings"].replace('"width": 32', '"width": 64')),
            "not of the size",
        ),
        (lambda data, array: array.__setitem__((0, 0, 0, 0, 0), np.nan), "finite"),
    ],
)
def test_changed_files(kept, tmp_path, change, part):
    path, reel, _ = kept
    metadata, latents = metadata_of(path)
    latents = latents.copy()
    change(metadata, latents)
    other = tmp_path / "other.safetensors"
    save_file({"latents": latents}, other, metadata)
    with pytest.raises(UsageError, match=part):
        read_video(other, reel)


@pytest.mark.parametrize(
    "tensors",
    [
        {"latents": np.zeros((1, 24, 2, 2), np.float32)},
        {"latents": np.zeros((1, 24, 2, 2, 2), np.float64)},
        {"latents": np.zeros((2, 24, 2, 2, 2), np.float32)},
        {"latents": np.zeros((1, 24, 0, 2, 2), np.float32)},
        {"other": np.zeros((1, 24, 2, 2, 2), np.float32)},
        {"latents": np.zeros((1, 7, 2, 2, 2), np.float32)},
        {},
    ],
)
def test_other_tensors(kept, tmp_path, tensors):
    _, reel, _ = kept
    path = tmp_path / "other.safetensors"
    save_file(tensors, path, metadata_of(kept[0])[0])
    with pytest.raises(UsageError):
        read_video(path, reel)


def test_a_size_that_is_not_there_is_not_allocated(kept, tmp_path):
    header = json.dumps(
        {"latents": {"dtype": "F32", "shape": [1, 24, 2**20, 2**10, 2**10], "data_offsets": [0, 2**53]}}
    )
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(UsageError, match="not a whole file of latents"):
        read_video(path, kept[1])
    path.write_bytes(struct.pack("<Q", 2**62))
    with pytest.raises(UsageError, match="not a whole file of latents"):
        read_video(path, kept[1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), length=st.integers(0, 10**6))
def test_any_damage_is_a_refusal_or_a_whole_clip(kept, tmp_path, place, value, length):
    path, reel, video = kept
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    other = tmp_path / "damaged.safetensors"
    other.write_bytes(content[: len(content) if length % 2 else length % len(content)])
    with contextlib.suppress(UsageError):
        assert read_video(other, reel).latents.shape == video.latents.shape


@pytest.mark.parametrize(("name", "part"), [("nothing.safetensors", "there is no such file"), (".", "is not a file")])
def test_missing_files(run, name, part):
    refused(run("decode", name, "--bundle", str(DEMO_REEL)), 2, part)


def test_decoding_needs_memory_for_the_decoder_alone(run):
    done(
        run(
            "generate",
            PROMPT,
            "-o",
            "a.mp4",
            *QUICK[:2],
            "--size",
            "256x256",
            "--bundle",
            str(DEMO_REEL),
            "--keep-latents",
        )
    )
    bundle = ["--bundle", str(DEMO_REEL), "--engine", "cpu"]  # auto would take OpenVINO where it is installed
    record = json.loads(done(run("decode", "a.safetensors", "-o", "b.mp4", *bundle, "--memory", "1GiB", "--json")))
    assert list(record["memory"]["plan"]["components"]) == ["decoder"]
    code, _, err = run("decode", "a.safetensors", "-o", "c.mp4", *bundle, "--memory", "100MiB")
    assert code == 1
    assert "decoder needs" in err
    assert "frames would" not in err
    assert not Path("c.mp4").exists()
    comment = json.loads(av.open("b.mp4").metadata["comment"])
    assert comment["ran"]["engine"] == "cpu"


def test_the_digest_of_a_decoder_is_its_files(kept):
    assert decoder_digest(kept[1].bundle) == metadata_of(kept[0])[0]["decoder"]
