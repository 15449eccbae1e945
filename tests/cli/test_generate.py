"""What `generate` and `decode` write and print."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.command_line import BUNDLE, NEGATIVE, PROMPT, QUICK, frames_of, metadata_of, prompts_file

from edgereel.bundle.reader import open_bundle
from edgereel.core.version import __version__

pytestmark = pytest.mark.lean


def test_generate_writes_a_video_that_says_how_it_was_made(run):
    code, out, err = run("generate", PROMPT, "-o", "clip.mp4", "--seed", "7", *QUICK)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert "clip.mp4" in out
    assert "denoise" in out
    metadata = metadata_of("clip.mp4")
    assert metadata["title"] == PROMPT
    assert metadata["description"] == "AI-generated video"
    settings = json.loads(metadata["comment"])
    assert settings["ai_generated"] is True
    assert (settings["prompt"], settings["seed"], settings["steps"]) == (PROMPT, 7, 2)
    assert (settings["width"], settings["height"], settings["frames"]) == (32, 32, 5)
    assert settings["bundle_digest"] == open_bundle(DEMO_REEL).manifest.digest
    assert settings["edgereel"] == __version__
    assert settings["ran"]["provider"] == ["CPUExecutionProvider"]
    assert frames_of("clip.mp4").shape == (5, 32, 32, 3)
    assert [path.name for path in Path.cwd().iterdir()] == ["clip.mp4"]


def test_private_leaves_every_prompt_out_of_the_file(run):
    code, _, _ = run("generate", PROMPT, *NEGATIVE, "--private", "-o", "clip.mp4", *QUICK)
    assert code == 0
    content = Path("clip.mp4").read_bytes()
    for text in (PROMPT, "bounces", "ocean", "green", "negative_prompt"):
        assert text.encode() not in content
        assert text.encode("utf-16-le") not in content
    assert metadata_of("clip.mp4")["title"] == "AI-generated video"
    assert b"AI-generated" in content


def test_the_same_command_twice_gives_identical_frames(run):
    for name in ("one.mp4", "two.mp4"):
        assert run("generate", PROMPT, "--seed", "3", "-o", name, *QUICK)[0] == 0
    assert run("generate", PROMPT, "--seed", "4", "-o", "other.mp4", *QUICK)[0] == 0
    np.testing.assert_array_equal(frames_of("one.mp4"), frames_of("two.mp4"))
    assert not np.array_equal(frames_of("one.mp4"), frames_of("other.mp4"))


def test_json_is_one_object_on_stdout(run):
    code, out, err = run("generate", PROMPT, "--json", "-o", "clip.mp4", *QUICK)
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["output"] == "clip.mp4"
    assert record["settings"]["prompt"] == PROMPT
    assert record["engine"]["engine"] == "cpu"
    assert {"open", "text", "denoise", "decode", "encode"} == set(record["seconds"])
    assert record["cached_prompts"] == 0


def test_a_file_of_prompts_makes_a_folder_of_videos(run, tmp_path):
    path = prompts_file(tmp_path, f"\ufeff{PROMPT}\r\n\r\n  a green square slides over the ocean  \r\n")
    code, out, _ = run("generate", "--prompts", path, "-o", "videos", "--json", *QUICK)
    assert code == 0
    videos = json.loads(out)["videos"]
    assert [Path(video["output"]).name for video in videos] == ["001.mp4", "002.mp4"]
    assert [video["settings"]["prompt"] for video in videos] == [PROMPT, "a green square slides over the ocean"]
    assert sorted(path.name for path in Path("videos").iterdir()) == ["001.mp4", "002.mp4"]
    assert all(video["seconds"]["denoise"] > 0 for video in videos)
    assert videos[1]["seconds"]["open"] < videos[0]["seconds"]["open"]


@pytest.mark.parametrize("arguments", [["-o", "clip.gif"], ["--format", "gif"], ["-o", "x.GIF", "--format", "gif"]])
def test_a_gif(run, arguments):
    code, out, err = run("generate", PROMPT, "--json", *arguments, *QUICK)
    assert (code, err) == (0, "")
    output = Path(json.loads(out)["output"])
    assert output.name == (arguments[1] if arguments[0] == "-o" else "out.gif")
    assert output.read_bytes().startswith(b"GIF89a")
    assert b'"ai_generated": true' in output.read_bytes().replace(b"\xff", b"")
    assert frames_of(output).shape == (5, 32, 32, 3)


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip"])
def test_private_leaves_every_prompt_out_of_every_format(run, name):
    code, _, _ = run("generate", PROMPT, *NEGATIVE, "--private", "-o", name, *QUICK)
    assert code == 0
    files = sorted(Path(name).iterdir()) if Path(name).is_dir() else [Path(name)]
    for content in (file.read_bytes() for file in files):
        for text in ("bounces", "ocean", "green", "negative_prompt"):
            assert text.encode() not in content
        assert b"AI-generated video" in content
        assert b"ai_generated" in content


def test_a_folder_of_pngs_is_replaced_by_the_next_clip(run):
    for frames in ("5", "1"):
        code, out, err = run("generate", PROMPT, "-o", "frames", *QUICK, "--frames", frames)
        assert (code, err) == (0, "")
        assert "frames  (" in out
    assert [path.name for path in Path.cwd().rglob("*")] == ["frames", "0001.png"]
    Path("frames/mine.txt").touch()
    code, _, err = run("generate", PROMPT, "-o", "frames", *QUICK)
    assert (code, err.count("\n")) == (1, 1)
    assert "holds something other than the frames of an earlier clip" in err


@pytest.mark.parametrize(("format", "names"), [("webp", ["001.webp", "002.webp"]), ("png", ["001", "002"])])
def test_a_file_of_prompts_in_another_format(run, tmp_path, format, names):
    path = prompts_file(tmp_path, f"{PROMPT}\n{PROMPT}\n")
    code, out, _ = run("generate", "--prompts", path, "--format", format, "--json", *QUICK)
    assert code == 0
    assert [Path(video["output"]).name for video in json.loads(out)["videos"]] == names
    assert sorted(path.name for path in Path("out").iterdir()) == names
    if format == "png":
        assert len(list(Path("out/002").iterdir())) == 5


def test_latents_from_a_file(run):
    channels = open_bundle(DEMO_REEL).manifest.latent.channels
    scale = open_bundle(DEMO_REEL).manifest.latent.spatial_scale
    noise = np.random.default_rng(0).standard_normal((1, channels, 2, 32 // scale, 32 // scale)).astype(np.float32)
    np.save("noise.npy", noise)
    code, out, _ = run(
        "generate", PROMPT, "--latents", "noise.npy", "--steps", "1", "-o", "clip.mp4", "--json", *BUNDLE
    )
    assert code == 0
    settings = json.loads(out)["settings"]
    assert settings["own_latents"] is True
    assert (settings["width"], settings["height"], settings["frames"]) == (32, 32, 5)


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "folder that is there"])
def test_outputs_are_told_as_they_were_given(run, tmp_path, there):
    if there:
        Path("videos").mkdir()
    path = prompts_file(tmp_path, f"{PROMPT}\n{PROMPT}")
    code, out, _ = run("generate", "--prompts", path, "-o", "videos", *QUICK)
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        str(Path("videos", name)) for name in ("001.mp4", "002.mp4")
    ]
    code, out, _ = run("generate", PROMPT, "-o", "clip.mp4", "--keep-latents", "--json", *QUICK)
    told = json.loads(out)
    assert (told["output"], told["latents"]) == ("clip.mp4", "clip.safetensors")
    code, out, _ = run("decode", "clip.safetensors", "-o", "again.mp4", "--json", *BUNDLE)
    assert json.loads(out)["output"] == "again.mp4"


def test_an_earlier_output_is_replaced(run):
    Path("clip.mp4").write_bytes(b"earlier")
    assert run("generate", "a quokka", "-o", "clip.mp4", *QUICK)[0] == 2
    assert Path("clip.mp4").read_bytes() == b"earlier"
    assert run("generate", PROMPT, "-o", "clip.mp4", *QUICK)[0] == 0
    assert len(frames_of("clip.mp4")) == 5
