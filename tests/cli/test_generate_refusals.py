"""What `generate` refuses: one line, the exit code, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.command_line import BUNDLE, PROMPT, QUICK, prompts_file, refused

from edgereel.bundle.reader import open_bundle

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["generate", ""], 2, "the prompt is empty"),
        (["generate", " \t "], 2, "the prompt is empty"),
        (["generate", "a " * 40], 2, "it has 41 tokens and this model takes at most 24"),
        (["generate", "a quokka bounces over the xylophone"], 2, '"quokka", "xylophone"'),
        (
            ["generate", PROMPT, "--guidance", "4", "--negative", "quokka"],
            2,
            'the negative prompt has words this model does not know: "quok',
        ),
        (["generate", "a \x1b[31mred ball"], 2, "U+001B"),
        (["generate"], 2, "give either a prompt or --prompts FILE"),
        (["generate", *PROMPT.split()], 2, "put the prompt in quotes"),
        (["generate", "z" * 20_000], 2, f'does not know: "{"z" * 40}…"\n'),
        (["generate", "z" * 200_000], 2, "it has 200000 characters and at most 32768 are read"),
        (["generate", PROMPT, "--memory", "6"], 2, "--memory 6: bytes? write 6GiB"),
        (["generate", PROMPT, "--size", "50x64"], 2, "the nearest is 48x64"),
        (["generate", PROMPT, "--size", "0x0"], 2, "the nearest is 16x16"),
        (
            ["generate", PROMPT, "--size", "999999x64"],
            2,
            "size 999999x64 is not possible with this model: the nearest is",
        ),
        (["generate", PROMPT, "--size", "64"], 2, "--size 64: write it as WIDTHxHEIGHT"),
        (["generate", PROMPT, "--size", "64x"], 2, "write it as WIDTHxHEIGHT"),
        (["generate", PROMPT, "--size", "-64x64"], 2, "write it as WIDTHxHEIGHT"),
        (["generate", PROMPT, "--size", "64x64x64"], 2, "write it as WIDTHxHEIGHT"),
        (["generate", PROMPT, "--size", "٦٤x64"], 2, "write it as WIDTHxHEIGHT"),
        (["generate", PROMPT, "--size", "9999999x64"], 2, "too large for any model"),
        (["generate", PROMPT, "--frames", "16"], 2, "16 frames are not possible with this model: the nearest is 17"),
        (["generate", PROMPT, "--frames", "0"], 2, "the nearest is 1 "),
        (["generate", PROMPT, "--frames", "9" * 400], 2, "frames are not possible with this model"),
        (
            ["generate", PROMPT, "--steps", "0"],
            2,
            "0 steps are not possible: this bundle's recipes list the noise levels of 1, 2, 4, 8",
        ),
        (["generate", PROMPT, "--fps", "0"], 2, "0 frames per second"),
        (["generate", PROMPT, "--guidance", "nan"], 2, "guidance nan is not possible"),
        (["generate", PROMPT, "--negative", "red"], 2, "a negative prompt has no effect"),
        (["generate", PROMPT, "--seed", "-1"], 2, "seed -1 is out of range"),
        (["generate", PROMPT, "--sampler", "magic"], 2, "unknown sampler 'magic': choose from euler, rcm, sde, unipc"),
        (["generate", PROMPT, "--recipe", "worst"], 2, "this bundle has no recipe 'worst'"),
        (["generate", PROMPT, "--engine", "quantum"], 2, "unknown engine 'quantum': choose from auto, cpu"),
        (["generate", PROMPT, "--threads", "0"], 2, "--threads"),
        (["generate", PROMPT, "--threads", "two"], 2, "--threads"),
        (["generate", PROMPT, "--magic"], 2, "--magic"),
        (["generate", PROMPT, "-o", "no/such/folder/a.mp4"], 1, "no/such/folder does not exist"),
        (["generate", PROMPT, "-o", "clip.avi"], 2, ".avi is no known suffix: end it in .mp4, .gif or .webp, or"),
        (["generate", PROMPT, "-o", ".mp4"], 2, "the name before .mp4 is missing"),
        (
            ["generate", PROMPT, "-o", "clip.gif", "--format", "webp"],
            2,
            "-o clip.gif says another format than --format",
        ),
        (["generate", PROMPT, "--format", "avi"], 2, "unknown format 'avi': choose from mp4, gif, webp, png"),
        (["generate", PROMPT, "-o", "clip.gif", "--fps", "60"], 2, "60 frames per second are too fast for gif"),
        (["generate", PROMPT, "-o", "."], 1, "cannot write ."),
        (["generate", PROMPT, "--prompts", "list.txt"], 2, "give either a prompt or --prompts FILE"),
        (["generate", "--prompts", "missing.txt", "-o", "out"], 2, "missing.txt: cannot be read: No such file"),
        (["generate", "--prompts", ".", "-o", "out"], 2, "is not a file of prompts"),
        (["generate", PROMPT, "--latents", "missing.npy"], 2, "missing.npy: cannot be read: No such file"),
        (["generate", PROMPT, "--latents", "."], 2, "cannot be read: Is a directory"),
    ],
    ids=lambda value: " ".join(value)[:40].strip() if isinstance(value, list) else "",
)
def test_bad_input(run, arguments, code, part):
    refused(run(*arguments, *BUNDLE), code, part)


def test_an_output_folder_that_cannot_be_written_to(run, tmp_path):
    if os.name == "nt" or (os.geteuid() == 0 and not Path("/proc/self").is_dir()):
        pytest.skip("no folder here that this user cannot write to")
    folder = Path("/proc") if os.geteuid() == 0 else tmp_path / "locked"
    if not folder.exists():
        folder.mkdir(mode=0o500)
    refused(run("generate", PROMPT, "-o", folder / "clip.mp4", *BUNDLE), 1, f"cannot write {folder / 'clip.mp4'}")
    refused(
        run("generate", "--prompts", prompts_file(tmp_path, PROMPT), "-o", folder / "clips", *BUNDLE), 1, "cannot make"
    )


@pytest.mark.parametrize(
    ("content", "part"), [("", "holds no prompt"), (" \n\n\t\n", "holds no prompt"), (b"\xff\xfe", "is not UTF-8 text")]
)
def test_bad_files_of_prompts(run, tmp_path, content, part):
    refused(run("generate", "--prompts", prompts_file(tmp_path, content), "-o", "out", *BUNDLE), 2, part)


def test_a_file_in_the_place_of_the_folder_for_videos(run, tmp_path):
    path = prompts_file(tmp_path, PROMPT)
    for name in ("a.mp4", "a.gif", "a.WEBP"):
        refused(run("generate", "--prompts", path, "-o", name, *BUNDLE), 2, "names a folder for the videos")
    refused(run("generate", "--prompts", path, "-o", path, *BUNDLE), 1, "cannot make this folder: File exists")


def test_a_mistake_in_the_last_prompt_is_told_before_the_first_is_made(run, tmp_path):
    path = prompts_file(tmp_path, f"{PROMPT}\na quokka\n")
    code, _, err = run("generate", "--prompts", path, "-o", "out", *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert "prompt 2 of 2, 'a quokka': the prompt has words this model does not know" in err
    assert not Path("out").exists()


def header(description):
    text = description.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is not a .npy file"),
        (b"PK\x03\x04 a zip file", "is not a .npy file"),
        (b"\x93NUMPY\x09\x00", "this version of the .npy format is not supported"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 5, 8, 8)}\n"), "is not a .npy file"),
        (
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (1" + ", 9999999" * 9 + ")}\n"),
            "is not a .npy file",
        ),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n"), "is not a .npy file"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n") + b"\x80\x04N.", "is not a .npy file"),
        (header("__import__('os').system('true')\n"), "is not a .npy file"),
        (header("{'descr': [\n"), "is not a .npy file"),
        (header("(" * 5000), "is not a .npy file"),
        (header("{" + " " * 20_000 + "}\n"), "is not a .npy file"),
        (np.zeros((1, 2, 3), np.float32), "latents have shape [1, 2, 3]: this model takes [1, "),
        (np.zeros((), np.float32), "latents have shape []"),
        ("float64", "latents are float64: they must be float32"),
        ("nan", "not finite"),
        ("large", "frames are not possible with this model"),
        (np.array([{}, None]), "is not a .npy file of numbers"),
    ],
    ids=[
        *["empty", "zip", "version", "short", "huge", "negative", "pickle", "code", "open", "deep", "padded"],
        *["shape", "scalar", "dtype", "nan", "size", "objects"],
    ],
)
def test_bad_latents(run, tmp_path, content, part):
    path = tmp_path / "latents.npy"
    channels = open_bundle(DEMO_REEL).manifest.latent.channels
    special = {
        "float64": np.zeros((1, channels, 1, 2, 2)),
        "nan": np.full((1, channels, 1, 2, 2), np.nan, np.float32),
        "large": np.zeros((1, channels, 20_000, 2, 2), np.float32),
    }
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, special[content] if isinstance(content, str) else content, allow_pickle=True)
    refused(run("generate", PROMPT, "--latents", path, *BUNDLE), 2, part)
