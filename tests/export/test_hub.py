"""A checkpoint by its name on the hub: found in the cache as huggingface_hub lays it out, and never downloaded."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
from conftest import DEMO_CHECKPOINT, DEMO_STUDENT

from edgereel.core.errors import CheckpointError
from edgereel.export import ExportOptions
from edgereel.export.hub import HubName, find_checkpoint, hub_cache, origin_of

pytestmark = pytest.mark.lean

COMMIT, OLDER = "0123456789abcdef" * 2 + "01234567", "f" * 40
NAME = Path("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, chosen as huggingface_hub's users do."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hf" / "hub"


def fill(cache, source=DEMO_CHECKPOINT, name=NAME, commit=COMMIT, branch="main"):
    """Put a folder into the cache as huggingface_hub does: links to blobs, and a branch that names the commit."""
    folder = cache / f"models--{name.as_posix().replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        if path.is_file():
            target = snapshot / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            blob = folder / "blobs" / f"{abs(hash(path)):x}"
            if not blob.exists():
                shutil.copyfile(path, blob)
            target.symlink_to(Path(*[".."] * len(target.relative_to(folder).parts[:-1]), "blobs", blob.name))
    if branch:
        (folder / "refs" / branch).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / branch).write_text(commit)
    return snapshot


@pytest.mark.parametrize(
    ("given", "name", "revision"),
    [
        ("a/b", "a/b", "main"),
        ("Wan-AI/Wan2.2-TI2V-5B_x", "Wan-AI/Wan2.2-TI2V-5B_x", "main"),
        ("a/b@v1.0", "a/b", "v1.0"),
        ("a/b@refs/pr/3", "a/b", "refs/pr/3"),
        ("https://huggingface.co/a/b", "a/b", "main"),
        ("https://huggingface.co/a/b/", "a/b", "main"),
        ("https://hf.co/a/b/tree/main", "a/b", "main"),
        ("huggingface.co/a/b/tree/fp16", "a/b", "fp16"),
        ("hf://a/b@x", "a/b", "x"),
    ],
)
def test_names(given, name, revision):
    found = HubName.of(Path(given))
    assert found is not None
    assert (found.name, found.revision) == (name, revision)


@pytest.mark.parametrize(
    "given",
    [
        "a",
        "a/b/c",
        "/a/b",
        "../b",
        "a/..",
        "./a/b/../c",
        "a--b/c",
        "a b/c",
        "-a/b",
        "a/b@",
        "~/b",
        "https://a.example/b",
    ],
)
def test_what_is_no_name_is_a_path(given):
    assert HubName.of(Path(given)) is None
    assert find_checkpoint(Path(given)) == Path(given)


def test_the_newest_and_other_revisions(cache, tmp_path):
    newest, older = fill(cache), fill(cache, commit=OLDER, branch="refs/pr/1")
    for given in (NAME, f"{NAME}@main", f"https://huggingface.co/{NAME}", f"{NAME}@{COMMIT}", f"{NAME}@{COMMIT[:9]}"):
        assert find_checkpoint(Path(given)) == newest
    assert find_checkpoint(Path(f"{NAME}@refs/pr/1")) == older
    request = ExportOptions(NAME, tmp_path / "x.reel", transformer=f"{NAME}@{OLDER}").complete
    with pytest.raises(CheckpointError, match=r"has no config\.json"):  # it is a whole model's, not a denoiser's
        request()
    student = fill(cache, DEMO_STUDENT, Path("me/student"))
    found = ExportOptions(NAME, tmp_path / "x.reel", transformer="me/student").complete()
    assert (found.checkpoint, found.replaced) == (newest, {"transformer": student})
    assert origin_of(newest) == f"https://huggingface.co/{NAME}/tree/{COMMIT}"
    assert origin_of(DEMO_CHECKPOINT) is None


def test_a_models_folder_of_the_cache(cache):
    snapshot = fill(cache)
    assert find_checkpoint(snapshot.parent.parent) == snapshot
    (snapshot.parent.parent / "refs" / "main").unlink()
    with pytest.raises(CheckpointError, match=rf"Diffusers: {NAME} is not in .* at main, only at {COMMIT}"):
        find_checkpoint(snapshot.parent.parent)


def test_a_folder_of_that_name_goes_first(cache, tmp_path):
    fill(cache)
    (tmp_path / NAME).mkdir(parents=True)
    assert find_checkpoint(NAME) == NAME


@pytest.mark.extras
@pytest.mark.parametrize(
    ("given", "command"),
    [
        (str(NAME), f"hf download {NAME}"),
        (f"{NAME}@v1", f"hf download {NAME} --revision v1"),
        (f"{NAME}@a;b", f"hf download {NAME} --revision 'a;b'"),
        (f"https://huggingface.co/{NAME}", f"hf download {NAME}"),
    ],
)
def test_what_is_not_there_is_told_with_the_command_that_brings_it(cache, run, given, command):
    pytest.importorskip("torch")
    code, out, err = run("export", given, "-o", "x.reel")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.endswith(f"edgereel downloads nothing itself: if that is a model of the hub, bring it with: {command}\n")
    assert str(cache) in err
    assert ("no such folder" in err) == (not given.startswith("https"))
    assert list(Path.cwd().iterdir()) == []


def test_the_command_is_one_that_there_is():
    """Its argument and option are those of the hub's own command line."""
    cli = pytest.importorskip("huggingface_hub.cli.download")
    assert {"repo_id", "revision"} <= set(inspect.signature(cli.download).parameters)


def test_a_revision_that_is_not_there(cache):
    fill(cache, branch="")
    with pytest.raises(CheckpointError, match=rf"at main, only at {COMMIT} \({NAME}@{COMMIT[:12]}\); edgereel"):
        find_checkpoint(NAME)
    for outside in ("../../x", "a/../../../b"):
        with pytest.raises(CheckpointError, match="not in Hugging Face's cache"):
            find_checkpoint(Path(f"{NAME}@{outside}"))


def test_a_branch_that_leads_elsewhere(cache, tmp_path):
    """What a file of the cache says is a commit, or nothing."""
    snapshot = fill(cache)
    (cache / "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers" / "refs" / "main").write_text("../../../elsewhere")
    with pytest.raises(CheckpointError, match="not in Hugging Face's cache"):
        find_checkpoint(NAME)
    assert snapshot.is_dir()


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("vae/diffusion_pytorch_model.safetensors", r"vae/\*\.safetensors"),
        ("text_encoder", "text_encoder/"),
        ("tokenizer", "tokenizer/"),
    ],
)
def test_a_download_that_did_not_finish(cache, path, missing):
    snapshot = fill(cache)
    gone = snapshot / path
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(
        CheckpointError, match=f"{missing} is missing, the download did not finish: run it again: hf download {NAME}"
    ):
        find_checkpoint(NAME)


def test_content_or_a_shard_that_is_gone(cache):
    snapshot = fill(cache)
    index = {"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "other-00002.safetensors"}}
    path = snapshot / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"transformer/other-00002\.safetensors is missing"):
        find_checkpoint(NAME)
    path.unlink()
    (snapshot / "vae" / "config.json").resolve().unlink()
    with pytest.raises(CheckpointError, match=r"vae/config\.json is missing"):
        find_checkpoint(NAME)


def test_where_the_cache_is(monkeypatch, tmp_path):
    """By the same variables, in the same order, as huggingface_hub."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub_cache() == Path("~/.cache/huggingface/hub").expanduser()
    for variable, value, found in (
        ("XDG_CACHE_HOME", "/x", "/x/huggingface/hub"),
        ("HF_HOME", "~/hf", "~/hf/hub"),
        ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
        ("HF_HUB_CACHE", "$HOME/new", "~/new"),
    ):
        monkeypatch.setenv(variable, value)
        assert hub_cache() == Path(found).expanduser()


def test_the_cache_is_read_as_huggingface_hub_reads_it(cache):
    """Both find the same snapshot."""
    hub = pytest.importorskip("huggingface_hub")
    snapshot = fill(cache)
    assert hub.snapshot_download(str(NAME), cache_dir=cache, local_files_only=True) == str(snapshot)
    assert find_checkpoint(NAME) == snapshot
