"""Where latents are kept: beside the output, in the place of nothing but latents of ours."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path

import pytest

import edgereel
from edgereel.cli import main
from edgereel.core.errors import OutputError
from edgereel.runtime.latents_file import latents_path, write_latents

pytestmark = pytest.mark.lean

PROMPT = "a red ball bounces over the ocean"
QUICK = ["--steps", "1", "--frames", "5"]


def foreign_safetensors(metadata):
    header = json.dumps({"__metadata__": metadata, "x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["edgereel", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


FOREIGN = {
    "noise": b"\x07" * 5000,
    "empty": b"",
    "a LoRA": foreign_safetensors({"format": "pt"}),
    "without metadata": foreign_safetensors({}),
    "a lying length": struct.pack("<Q", 2**63) + b"{}",
    "a list": struct.pack("<Q", 2) + b"[]",
    "too deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_the_users_stays(content, tmp_path, run):
    mine = tmp_path / "style.safetensors"
    mine.write_bytes(content)
    code, out, _ = run("generate", PROMPT, "-o", tmp_path / "style.mp4", "--keep-latents", *QUICK)
    assert code == 0
    assert mine.read_bytes() == content
    kept = tmp_path / "style.latents.safetensors"
    assert str(kept) in out
    assert run("decode", kept, "-o", tmp_path / "again.mp4")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.mp4",
        "style.latents.safetensors",
        "style.mp4",
        "style.safetensors",
    ]


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_links_folders_and_pipes_are_left_alone(tmp_path):
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b.safetensors").mkdir()
    os.mkfifo(tmp_path / "c.safetensors")
    for name in "abc":
        assert latents_path(tmp_path / f"{name}.mp4") == tmp_path / f"{name}.latents.safetensors"
    assert stat.S_ISFIFO((tmp_path / "c.safetensors").stat().st_mode)


def test_our_own_are_replaced(tmp_path, run):
    for _ in range(2):
        code, out, _ = run("generate", PROMPT, "-o", tmp_path / "clip.mp4", "--keep-latents", *QUICK)
        assert code == 0
    assert str(tmp_path / "clip.safetensors") in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "clip.safetensors"]


@pytest.mark.parametrize("letter", ["n", "é", "語"])
def test_a_name_as_long_as_the_file_system_takes(letter, tmp_path, run):
    width = len(letter.encode())
    name = letter * ((255 - len(".mp4")) // width) + ".mp4"
    code, out, err = run("generate", PROMPT, "-o", tmp_path / name, "--keep-latents", *QUICK, "--json")
    assert (code, err) == (0, "")
    assert (tmp_path / name).is_file()
    latents = Path(json.loads(out)["latents"])
    assert latents.is_file()
    assert latents.parent == tmp_path
    assert len(list(tmp_path.iterdir())) == 2


def test_a_decode_that_fails_keeps_the_latents_beside_what_is_there(tmp_path, run, monkeypatch):
    mine = tmp_path / "style.safetensors"
    mine.write_bytes(b"mine")

    def full(*_):
        raise OutputError("cannot write style.mp4: No space left on device")

    monkeypatch.setattr("edgereel.runtime.video.output.Output.write", full)
    code, _, err = run("generate", PROMPT, "-o", tmp_path / "style.mp4", *QUICK)
    assert code == 1
    assert f"The latents are kept: edgereel decode {tmp_path / 'style.latents.safetensors'}" in err
    assert mine.read_bytes() == b"mine"


def test_the_video_comes_first(tmp_path, run, monkeypatch):
    """Where the disk takes the video and not the latents, the video is there."""

    def full(*_, **__):
        raise OutputError("cannot write latents: No space left on device")

    monkeypatch.setattr("edgereel.runtime.batch.write_latents", full)
    code, _, err = run("generate", PROMPT, "-o", tmp_path / "clip.mp4", "--keep-latents", *QUICK)
    assert (code, "No space left" in err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_no_name_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("edgereel.runtime.latents_file._MOST_NAMES", 4)
    for ending in ("", ".latents", ".latents-2"):
        (tmp_path / f"clip{ending}.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match="so many files named clip"):
        latents_path(tmp_path / "clip.mp4")


def test_latents_of_a_video_of_film_speed_decode_again(tmp_path):
    with edgereel.load() as reel:
        video = reel.generate(PROMPT, steps=1, frames=5, fps=23.976)
        write_latents(tmp_path / "clip.safetensors", video, reel.bundle)
        from edgereel.runtime.latents_file import read_video

        assert read_video(tmp_path / "clip.safetensors", reel).request == video.request
