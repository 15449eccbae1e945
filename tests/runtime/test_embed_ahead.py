"""Prompts embedded ahead on the command line, after which nothing opens the text encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import edit_manifest
from helpers.command_line import BUNDLE, PROMPT, QUICK, prompts_file, refused
from helpers.small_disk import small_disk

from edgereel.core.errors import Cancelled
from edgereel.core.units import format_bytes
from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu
from edgereel.runtime import reel as reel_module
from edgereel.runtime.embed_ahead import embed_ahead
from edgereel.runtime.text.embedding_cache import EmbeddingCache

pytestmark = pytest.mark.lean

PROMPTS = f"{PROMPT}\na green square slides over the ocean\n\n{PROMPT}\n"


@pytest.fixture
def opened(monkeypatch):
    """Return the names of the graphs that are opened from now on."""
    names = []
    open_graph = OnnxRuntimeCpu.open

    def note(self, path, options):
        names.append(Path(path).stem)
        return open_graph(self, path, options)

    monkeypatch.setattr(OnnxRuntimeCpu, "open", note)
    return names


@pytest.fixture
def guided(guided_copy):
    """Return the arguments that choose a bundle whose recipe embeds a negative prompt too."""
    return ["--bundle", str(guided_copy)]


def cache_folder():
    return Path(os.environ["EDGEREEL_CACHE"]) / "embeddings"


def bytes_kept():
    return sum(path.stat().st_size for path in cache_folder().iterdir())


def test_after_embedding_nothing_opens_the_text_encoder(run, tmp_path, opened, guided):
    path = prompts_file(tmp_path, PROMPTS)
    code, out, err = run("embed", path, *guided, "--json")
    assert (code, err) == (0, "")
    folder = str(cache_folder())
    # the two prompts, one of them given twice, and the empty negative prompt
    assert json.loads(out) == {"embedded": 3, "already_there": 0, "bytes": bytes_kept(), "folder": folder}
    assert opened == ["text_encoder"]
    opened.clear()

    code, out, _ = run("embed", path, *guided)
    assert (code, opened) == (0, [])
    assert out == f"0 embedded, 3 already there, {format_bytes(bytes_kept())} in {folder}\n"

    code, out, _ = run("generate", "--prompts", path, "-o", "videos", "--json", *QUICK, *guided)
    assert code == 0
    assert "text_encoder" not in opened
    videos = json.loads(out)["videos"]
    assert [video["cached_prompts"] for video in videos] == [2, 2, 2]


def test_a_negative_prompt(run, tmp_path, opened, guided):
    path = prompts_file(tmp_path, PROMPT)
    assert json.loads(run("embed", path, "--negative", "a green square", "--json", *guided)[1])["embedded"] == 3
    opened.clear()
    for negative in ([], ["--negative", "a green square"]):
        assert run("generate", PROMPT, *negative, "-o", "a.mp4", *QUICK, *guided)[0] == 0
    assert "text_encoder" not in opened


def test_without_guidance_no_negative_prompt_is_embedded(run, tmp_path):
    code, out, _ = run("embed", prompts_file(tmp_path, PROMPT), *BUNDLE, "--json")
    assert (code, json.loads(out)["embedded"]) == (0, 1)


def test_an_entry_that_was_damaged_is_made_again(run, tmp_path, guided):
    path = prompts_file(tmp_path, PROMPTS)
    run("embed", path, *guided)
    one = next(cache_folder().iterdir())
    content = one.read_bytes()
    one.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    record = json.loads(run("embed", path, "--json", *guided)[1])
    assert (record["embedded"], record["already_there"]) == (1, 2)
    assert one.read_bytes() == content


def test_what_was_embedded_before_a_stop_is_kept(tmp_path, guided_copy):
    path = prompts_file(tmp_path, PROMPTS)
    calls = []

    def stop(*call):
        calls.append(call)
        return call != ("embed", 2, 3)

    with pytest.raises(Cancelled, match="cancelled during embed"):
        embed_ahead(path, bundle=guided_copy, on_progress=stop)
    assert [call for call in calls if call[0] == "embed"] == [("embed", 0, 3), ("embed", 1, 3), ("embed", 2, 3)]
    assert {path.suffix for path in cache_folder().iterdir()} == {".embedding"}
    record = embed_ahead(path, bundle=guided_copy)
    assert (record["embedded"], record["already_there"]) == (1, 2)


def test_no_cache_neither_uses_nor_keeps(run, opened):
    for _ in range(2):
        code, out, _ = run("generate", PROMPT, "--no-cache", "--json", "-o", "a.mp4", *QUICK)
        assert (code, json.loads(out)["cached_prompts"]) == (0, 0)
        assert not cache_folder().exists()
    assert opened.count("text_encoder") == 2


def test_the_same_command_twice_writes_the_same_file(run, opened):
    contents = []
    for arguments in ([], [], ["--no-cache"]):
        assert run("generate", PROMPT, "-o", "a.mp4", *arguments, *QUICK)[0] == 0
        contents.append(Path("a.mp4").read_bytes())
    assert contents[0] == contents[1] == contents[2]
    assert opened.count("text_encoder") == 2


@pytest.mark.parametrize(
    ("text", "arguments", "part"),
    [
        (
            f"{PROMPT}\n\n{PROMPT}\na quokka\n",
            [],
            "prompt 3 of 3, 'a quokka': the prompt has words this model does not know: \"quokka\"",
        ),
        ("a quokka\n", [], 'edgereel: the prompt has words this model does not know: "quokka"'),
        (f"{PROMPT}\n{'z' * 200_000}", [], f"prompt 2 of 2, '{'z' * 60}': "),
        ("\n \n", [], "holds no prompt"),
        (b"\xff\xfe", [], "is not UTF-8 text"),
        (PROMPT, ["--negative", "quokka"], 'the negative prompt has words this model does not know: "quok'),
        (PROMPT, ["--engine", "quantum"], "unknown engine 'quantum'"),
    ],
)
def test_bad_input_is_refused_before_any_work(run, tmp_path, opened, text, arguments, part):
    refused(run("embed", prompts_file(tmp_path, text), *arguments, *BUNDLE), 2, part)
    assert opened == []
    assert list(Path(os.environ["EDGEREEL_CACHE"]).glob("embeddings/*")) == []


def test_a_missing_file(run):
    refused(run("embed", "missing.txt", *BUNDLE), 2, "missing.txt: cannot be read: No such file")


def test_prompts_that_do_not_fit_are_refused_before_any_work(run, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(reel_module, "EmbeddingCache", partial(EmbeddingCache, limit=13_000))
    lines = "\n".join(f"a {colour} ball bounces over the ocean" for colour in ("red", "green", "blue"))
    refused(run("embed", prompts_file(tmp_path, lines), *BUNDLE), 1, "is limited to 13 KiB: leave some prompts out")
    assert opened == []


def test_prompts_that_turn_out_not_to_fit(run, tmp_path, demo_copy, monkeypatch):
    """As where the manifest does not say how wide embeddings are."""

    def hide(data):
        data["roles"]["text_encoder"]["outputs"]["prompt_embeds"]["shape"][-1] = "width"

    edit_manifest(demo_copy, hide)
    monkeypatch.setattr(reel_module, "EmbeddingCache", partial(EmbeddingCache, limit=13_000))
    lines = "\n".join(f"a {colour} ball bounces over the ocean" for colour in ("red", "green", "blue"))
    refused(run("embed", prompts_file(tmp_path, lines), "--bundle", demo_copy), 1, "leave some prompts out")
    assert bytes_kept() <= 13_000


def test_those_already_there_are_not_pushed_out(run, tmp_path, monkeypatch, guided):
    """The oldest entry is one of the file's own, and there is no room for another."""
    assert run("embed", prompts_file(tmp_path, PROMPT), *guided)[0] == 0
    assert run("embed", prompts_file(tmp_path, "a white cross rises\na pink ring falls"), *guided)[0] == 0
    path = prompts_file(tmp_path, PROMPTS)
    monkeypatch.setattr(reel_module, "EmbeddingCache", partial(EmbeddingCache, limit=bytes_kept() + 100))
    assert json.loads(run("embed", path, "--json", *guided)[1])["embedded"] == 1
    assert json.loads(run("embed", path, "--json", *guided)[1])["embedded"] == 0


def test_a_cache_folder_that_cannot_be_written(run, tmp_path, monkeypatch):
    path = prompts_file(tmp_path, PROMPT)
    monkeypatch.setenv("EDGEREEL_CACHE", str(path))
    refused(run("embed", path, *BUNDLE), 1, f"{path}/embeddings: cannot keep embeddings there: Not a directory")
    code, _, err = run("generate", PROMPT, "-o", "a.mp4", *QUICK)
    assert (code, err) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces of Linux")
def test_a_full_disk(tmp_path):
    """Embedding ahead says so; a generation does without."""
    cache = tmp_path / "cache"
    cache.mkdir()
    inside = small_disk(cache, "12k")
    prompts = prompts_file(tmp_path, "\n".join(f"a {colour} ball falls" for colour in ("red", "green", "blue", "pink")))
    edgereel = [sys.executable, "-m", "edgereel"]
    script = f'"$@"; echo "$?" $(ls -A "{cache}/embeddings" | grep -c part)'
    environment = {**os.environ, "EDGEREEL_CACHE": str(cache)}

    def inside_it(*arguments):
        command = [*inside, "sh", "-c", script, "-", *edgereel, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", env=environment)

    ended = inside_it("embed", prompts, *BUNDLE)
    assert "cannot keep embeddings there: No space left on device" in ended.stderr
    assert ended.stdout.split() == ["1", "0"]
    ended = inside_it("generate", "--prompts", prompts, "-o", tmp_path / "videos", *QUICK)
    assert (ended.stderr, ended.stdout.split()[-2:]) == ("", ["0", "0"])
    assert len(list((tmp_path / "videos").iterdir())) == 4


def test_the_demo_is_the_default(run, tmp_path):
    code, out, _ = run("embed", prompts_file(tmp_path, PROMPT))
    assert code == 0
    assert out.startswith("1 embedded, 0 already there, ")
