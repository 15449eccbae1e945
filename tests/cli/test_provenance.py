"""The commands about marks, from a key to a file that is asked about, and what --private leaves out of all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgereel.core.version import __version__

c2pa = pytest.importorskip("c2pa")

PROMPT = "a red ball bounces over the ocean"
SIZE = ("--size", "128x128", "--steps", "2", "--frames", "5")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEREEL_HOME", str(tmp_path / "home"))
    for name in ("EDGEREEL_KEYS", "EDGEREEL_MARK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def test_from_a_key_to_the_answer(run, tmp_path):
    code, out, _ = run("provenance", "init", "--name", "Booth 7", "--json")
    assert code == 0
    maker = json.loads(out)["maker"]
    log = ("--log", tmp_path / "log.db")
    code, out, err = run("generate", PROMPT, *SIZE, "-o", "clip.mp4", "--mark", "all", *log, "--label", "AI", "--json")
    assert (code, err) == (0, "")
    marks = json.loads(out)["marks"]
    assert marks["signed_by"] == "Booth 7"
    assert marks["watermark"].startswith(maker)
    code, out, _ = run("verify-media", "clip.mp4", "--json")
    (report,) = json.loads(out)["files"]
    assert code == 0
    assert report["signature"]["state"] == "trusted"
    assert report["signature"]["claim"]["version"] == __version__
    assert report["signature"]["claim"]["settings"]["seed"] == 0
    for wanted in (marks["id"], marks["watermark"], marks["sha256"], "clip.mp4"):
        code, out, _ = run("provenance", "log", wanted, *log, "--json")
        (entry,) = json.loads(out)["clips"]
        assert (code, entry["id"]) == (0, marks["id"])
    assert "prompt" not in json.dumps(entry)
    assert run("provenance", "log", "00ff00-0123456789", *log)[:2] == (3, "not in the log\n")


def test_private_leaves_the_prompt_out_of_every_layer(run, tmp_path):
    """Byte by byte: in no file that is written, however text is encoded."""
    run("provenance", "init")
    negative = "a blue square"
    options = ("--private", "--mark", "all", "--log", tmp_path / "log.db", "--no-cache")
    for name in ("clip.mp4", "clip.gif", "clip.webp", "folder"):
        assert run("generate", PROMPT, *SIZE, "--guidance", "2", "--negative", negative, "-o", name, *options)[0] == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 8
    for path in written:
        content = path.read_bytes().lower()
        for word in (PROMPT, "red ball", "bounces", "ocean", negative, "blue square"):
            for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
                assert word.encode(encoding) not in content, path


def test_the_prompt_is_in_no_signed_claim_even_without_private(run):
    from edgereel.provenance.verify.signature import read_signature

    run("provenance", "init")
    assert run("generate", PROMPT, *SIZE, "-o", "clip.mp4", "--mark", "signature")[0] == 0
    assert PROMPT not in json.dumps(read_signature(Path("clip.mp4"), "video/mp4", None).to_json())


def test_exit_codes_of_verify_media(run, tmp_path):
    from helpers.marked_clips import pictures
    from PIL import Image

    run("provenance", "init")
    assert run("generate", PROMPT, *SIZE, "-o", "clip.mp4", "--mark", "signature")[0] == 0
    Image.fromarray(pictures(96, 72, 1)[0]).save("photo.png")
    assert run("verify-media", "clip.mp4")[0] == 0
    code, out, _ = run("verify-media", "clip.mp4", "photo.png")
    assert code == 3
    assert "No mark was found. That says nothing about how it was made" in out
    content = bytearray(Path("clip.mp4").read_bytes())
    content[-2000] ^= 1
    Path("altered.mp4").write_bytes(content)
    code, out, _ = run("verify-media", "altered.mp4", "photo.png", "missing.mp4")
    assert code == 1
    assert "It was changed after it was signed" in out
    code, _, err = run("verify-media", "clip.mp4", "missing.mp4")
    assert code == 2
    assert "missing.mp4: there is no such file" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mark", "all"), "make one with edgereel provenance init"),
        (("--mark", "everything"), "unknown mark 'everything'"),
        (("--mark", "watermark", "--size", "64x64"), "too small for a watermark"),
        (("--require-signature",), "needs --mark signature or all"),
        (("--label", "two\nlines"), "a label is one line"),
        (("--label", "AI", "--label-corner", "middle"), "unknown corner"),
        (("--label", "a very long label that cannot fit into so small a picture"), "does not fit into 128x128"),
        (("--label", "中文"), "font has no"),
        (("--policy", "nowhere.toml"), "policy nowhere.toml: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(options, said, run, tmp_path):
    code, out, err = run("generate", PROMPT, "-o", "clip.mp4", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert list((tmp_path / "here").iterdir()) == []


def test_each_picture_of_a_folder_is_signed(run):
    """And the folder can be replaced by the next clip all the same, which has other signatures."""
    run("provenance", "init", "--name", "Booth 7")
    arguments = ("generate", PROMPT, *SIZE, "-o", "folder", "--mark", "all", "--require-signature", "--json")
    ids = []
    for _ in range(2):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        ids.append(json.loads(out)["marks"]["id"])
        names = sorted(path.name for path in Path("folder").iterdir())
        assert names == [f"{number:04}.png" for number in range(1, 6)]
        code, out, _ = run("verify-media", f"folder/{names[0]}", f"folder/{names[-1]}", "--json")
        reports = json.loads(out)["files"]
        assert code == 0
        assert {report["signature"]["state"] for report in reports} == {"trusted"}
        assert {report["signature"]["id"] for report in reports} == {ids[-1]}
    assert ids[0] != ids[1]


def test_half_a_key_is_refused(run):
    code, _, err = run("provenance", "init", "--key", "key.pem")
    assert code == 2
    assert "--key and --chain belong together" in err
