"""The command line: what it writes and prints, and the one line and exit code that every bad input ends in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import DEMO_CHECKPOINT, DEMO_REEL, edit_manifest
from helpers.small_disk import small_disk

from edgereel import cli
from edgereel.bundle.reader import open_bundle
from edgereel.core.version import __version__

pytestmark = pytest.mark.lean

PROMPT = "a red ball bounces over the ocean"
BUNDLE = ["--bundle", str(DEMO_REEL)]
NEGATIVE = ["--negative", "a green square", "--guidance", "4"]
QUICK = ["--steps", "2", "--frames", "5", "--size", "32x32", *BUNDLE]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder; return exit code, stdout, stderr."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgereel", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def refused(result, code, part):
    """Check that a run ended with this code and one line on stderr with this part in it, and wrote nothing."""
    exit_code, out, err = result
    assert (exit_code, out) == (code, ""), err
    assert err.count("\n") == 1, err
    assert err.startswith("edgereel: ")
    assert part in err
    assert [path.name for path in Path.cwd().iterdir()] == []


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def metadata_of(path):
    with av.open(str(path)) as container:
        return dict(container.metadata)


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
        (["generate", "z" * 200_000], 2, f'does not know: "{"z" * 40}…"\n'),
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
        (["inspect", "missing.reel"], 1, "missing.reel: no such bundle folder"),
        (["verify", "missing.reel"], 1, "missing.reel: no such bundle folder"),
        (["inspect", "two\nlines.reel"], 1, r"two\nlines.reel: no such bundle folder"),
        (["frobnicate"], 2, "No such command"),
    ],
    ids=lambda value: " ".join(value)[:40].strip() if isinstance(value, list) else "",
)
def test_bad_input(run, arguments, code, part):
    bundle = BUNDLE if arguments[0] == "generate" else []
    refused(run(*arguments, *bundle), code, part)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["nowhere", "-o", "x.reel"], 1, "nowhere: no such folder; give a checkpoint"),
        ([DEMO_REEL, "-o", "x.reel"], 1, "has no model_index.json"),
        ([DEMO_CHECKPOINT, "-o", "x.onnx"], 2, "ends with .reel"),
        ([DEMO_CHECKPOINT, "-o", DEMO_REEL], 1, "is there already"),
        ([DEMO_CHECKPOINT, "-o", "no/x.reel"], 1, "no: no such folder"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--recipe", "magic"], 2, "unknown recipe 'magic': choose from self-forcing"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--lora", "missing.safetensors:0.5"], 1, "no such LoRA file"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--lora", "a.safetensors:much"], 2, "scale 'much' is not a number"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--transformer", "missing"], 1, "missing: has no config.json"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--precision", "int4"], 2, "choose fp32 or fp16"),
        ([DEMO_CHECKPOINT, "-o", "x.reel", "--max-tokens", "70000"], 2, "max tokens is 70000"),
    ],
    ids=lambda value: " ".join(map(str, value[-2:])) if isinstance(value, list) else "",
)
def test_arguments_of_export_are_checked_before_torch_is_imported(run, monkeypatch, arguments, code, part):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "edgereel.export.bundle", None)  # importing it is an error from here on
    refused(run("export", *arguments), code, part)


def test_refusing_an_export_does_not_import_torch(tmp_path):
    pytest.importorskip("torch")
    program = "import sys\nfrom edgereel import cli\ntry: cli.main()\nexcept SystemExit: print('torch' in sys.modules, end='')"
    command = [sys.executable, "-c", program, "export", DEMO_CHECKPOINT, "-o", "x.reel", "--recipe", "magic"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.stdout == "False"
    assert "unknown recipe" in ended.stderr


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
    ("arguments", "part"),
    [
        (["compare", DEMO_REEL, DEMO_REEL, "--report", "missing/page.html"], "missing does not exist"),
        (["compare", DEMO_REEL, DEMO_REEL, "--report", "/proc/page.html"], "cannot write /proc/page.html"),
        (["calibrate", DEMO_REEL, "--prompts", "PROMPTS", "-o", "missing/stats.npz"], "missing does not exist"),
        (["calibrate", DEMO_REEL, "--prompts", "PROMPTS", "-o", "/proc/stats.npz"], "cannot write /proc/stats.npz"),
        (["calibrate", DEMO_REEL, "--prompts", "PROMPTS", "-o", "."], "it is a folder"),
        (["quantize", DEMO_REEL, "--precision", "mixed", "-o", "/proc/x.reel"], "cannot write /proc/x.reel"),
    ],
    ids=lambda value: " ".join(map(str, [value[0], value[-1]])) if isinstance(value, list) else "",
)
def test_where_a_result_cannot_go_is_told_before_any_work(run, tmp_path, monkeypatch, arguments, part):
    if "/proc/" in arguments[-1] and not Path("/proc/self").is_dir():
        pytest.skip("no folder here that nobody can write to")
    pytest.importorskip("onnx")
    prompts = prompts_file(tmp_path, PROMPT)
    monkeypatch.setattr("edgereel.bundle.reader.Bundle.path", lambda *_: pytest.fail("work had begun"))
    refused(run(*(prompts if argument == "PROMPTS" else argument for argument in arguments)), 1, part)


def prompts_file(folder, text):
    (folder / "prompts.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "prompts.txt"


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


def test_a_damaged_bundle(run, demo_copy):
    with (demo_copy / "decoder.data").open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    for command in (["generate", PROMPT, "--bundle"], ["inspect"], ["verify"]):
        refused(run(*command, demo_copy), 1, "decoder.data: the content is not what reel.json declares")
    edit_manifest(demo_copy, lambda data: data.update(schema=99, read_by="9.0"))
    for command in (["generate", PROMPT, "--bundle"], ["inspect"], ["verify"]):
        refused(run(*command, demo_copy), 1, "it needs edgereel 9.0: pip install -U edgereel")


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


def test_inspect(run):
    code, out, err = run("inspect", DEMO_REEL)
    assert (code, err) == (0, "")
    for word in ("licence", "origin", "digest", "recipe", "precision", "differs from torch by", "up to 24 tokens"):
        assert word in out
    code, out, err = run("inspect", DEMO_REEL, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((DEMO_REEL / "reel.json").read_text(encoding="utf-8"))


def test_verify(run):
    code, out, _ = run("verify", DEMO_REEL)
    assert code == 0
    assert "files are as declared" in out
    code, out, _ = run("verify", DEMO_REEL, "--json")
    manifest = open_bundle(DEMO_REEL).manifest
    assert json.loads(out) == {"bundle": str(DEMO_REEL), "digest": manifest.digest, "files": len(manifest.files)}


def test_help_and_version(run):
    assert run("--version") == (0, f"edgereel {__version__}\n", "")
    for arguments in ([], ["--help"], ["generate", "--help"]):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        assert "Usage" in out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            MemoryError("cannot allocate 9 TiB"),
            "not enough memory: try a smaller size or fewer frames (cannot allocate 9 TiB)",
        ),
        (OSError(5, "Input/output error", "clip\n.mp4"), r"[Errno 5] Input/output error: 'clip\n.mp4'"),
    ],
)
def test_failures_of_the_machine_are_one_line(run, monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("edgereel.runtime.batch.run_jobs", fail)
    refused(run("generate", PROMPT), 1, line)


def test_a_smaller_clip_is_no_advice_where_none_is_made(run, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("cannot allocate 9 TiB")

    monkeypatch.setattr("edgereel.bundle.reader.verify_bundle", fail)
    refused(run("verify"), 1, "not enough memory (cannot allocate 9 TiB)")


INTERRUPTED = """
import os, signal, sys
from edgereel import cli, terminal
stage, done = sys.argv.pop(1).split(":")
show = terminal.StageProgress.__call__
def interrupt(self, *call):
    show(self, *call)
    if call[:2] == (stage, int(done)):
        os.kill(os.getpid(), signal.SIGINT)
terminal.StageProgress.__call__ = interrupt
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("point", ["check:0", "text:1", "denoise:1", "decode:0", "decode:3"])
def test_ctrl_c_at_any_stage(tmp_path, point):
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"earlier")
    command = [sys.executable, "-c", INTERRUPTED, point, "generate", PROMPT, "-o", target, *QUICK]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "edgereel: interrupted\n")
    assert target.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_from_outside(tmp_path, guided_copy):
    """The signal comes while ONNX Runtime is at work on one of a thousand steps."""
    target = tmp_path / "out" / "clip.mp4"
    target.parent.mkdir()
    command = [sys.executable, "-m", "edgereel", "generate", PROMPT, "-o", target, "--bundle", guided_copy]
    process = subprocess.Popen(
        [*command, "--steps", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 60
        while "onnxruntime" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "edgereel: interrupted\n")
    assert list(target.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces of Linux")
@pytest.mark.parametrize(("frames", "kept"), [("5", True), ("65", False)], ids=["room for latents", "none"])
def test_a_full_disk(tmp_path, frames, kept):
    """What was sampled is kept where there is room for that; a video that is cut off never is."""
    inside = small_disk(tmp_path, "4k")
    target = tmp_path / "clip.mp4"
    more = ["--size", "64x64", "--frames", frames]
    command = [sys.executable, "-m", "edgereel", "generate", PROMPT, "-o", str(target), *QUICK, *more]
    script = f'"$@"; echo "$?" $(ls -A "{tmp_path}" | wc -l)'
    ended = subprocess.run(
        [*inside, "sh", "-c", script, "-", *command], capture_output=True, text=True, timeout=120, cwd="/"
    )
    latents = f". The latents are kept: edgereel decode {target.with_suffix('.safetensors')}" if kept else ""
    assert ended.stderr == f"edgereel: cannot write {target}: No space left on device{latents}\n"
    assert ended.stdout.split() == ["1", str(int(kept))]


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_reader_that_goes_away(tmp_path):
    """What is printed into a closed pipe ends the run without a word, as other tools do."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgereel", "inspect", "--json", str(DEMO_REEL)]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_output_that_the_terminal_cannot_show(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "edgereel", "inspect", "été.reel"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (ended.returncode, ended.stderr) == (1, "edgereel: \\xe9t\\xe9.reel: no such bundle folder\n")


def test_the_cache_is_emptied_of_everything_that_is_edgereels(run):
    folder = Path(os.environ["EDGEREEL_CACHE"])
    (folder / "hashes.json").write_text("{}")
    (folder / "lowered").mkdir()
    (folder / "lowered" / "graph").write_bytes(bytes(10))
    (folder / "photos").mkdir()
    (folder / "photos" / "mine").write_bytes(bytes(20))
    code, out, _ = run("cache", "ls", "--json")
    listed = {part["name"]: (part["bytes"], part["files"]) for part in json.loads(out)["parts"]}
    assert (code, listed) == (0, {"lowered": (10, 1), "photos": (20, 1), "hashes.json": (2, 1)})
    code, out, _ = run("cache", "rm", "--all", "--json")
    assert (code, json.loads(out)) == (0, {"freed": 12})
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["mine"]
    assert json.loads(run("cache", "rm", "--all", "--json")[1]) == {"freed": 0}


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_plan_shows_that_it_is_being_made_on_a_terminal_only(tmp_path):
    import pty

    command = [sys.executable, "-m", "edgereel", "plan", DEMO_REEL, "--memory", "1MiB"]
    quiet = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert quiet.returncode == 1
    assert quiet.stderr.count("\n") == 1
    ours, theirs = pty.openpty()
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, timeout=60, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 2**16)
        except OSError:  # Linux's way of saying that the terminal is gone
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert ended.returncode == 1
    assert b"finding what each graph takes" in shown
