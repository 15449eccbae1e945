"""Names of models: what is one on any system, and which folder a name stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import DEMO_REEL, edit_manifest
from helpers.small_bundle import write_small_bundle

import edgereel
from edgereel.bundle.library.models import add_model
from edgereel.bundle.library.names import check_model_name, find_bundle, is_model_name, models_folder
from edgereel.bundle.reader import open_bundle
from edgereel.core import paths
from edgereel.core.errors import MissingBundle, OutputError, UsageError

pytestmark = pytest.mark.lean


@pytest.mark.parametrize("name", ["wan", "wan2.1-t2v_1.3B", "0", "a+b", "_x", "n" * 100])
def test_names(name):
    assert check_model_name(name) == check_model_name(f"{name}.reel") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "a b", "a.", ".a", "-a", "n" * 101, "ä", "a\n", "NUL", "com1.wan", "a:b", "~"],
)
def test_what_is_no_name(name):
    assert not is_model_name(name)
    with pytest.raises(UsageError, match="cannot be a model's name"):
        check_model_name(name)


def test_a_bundle_under_the_path_goes_before_a_model_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = write_small_bundle(tmp_path / "first")
    added = add_model(first, "wan").model.path
    assert find_bundle("wan") == find_bundle("wan.reel") == find_bundle(Path("wan")) == added
    (tmp_path / "wan").mkdir()  # which is no bundle, as `demo` in a clone is none
    assert find_bundle("wan") == added
    assert find_bundle(str(tmp_path / "wan")) == tmp_path / "wan"
    write_small_bundle(tmp_path / "wan.reel")
    assert find_bundle("wan.reel") == Path("wan.reel")
    assert find_bundle("wan") == added
    write_small_bundle(models_folder() / "demo.reel")  # put there by hand: the built-in one stays what it is
    assert find_bundle("demo") == paths.demo_bundle_path()


def test_a_model_is_used_by_its_name_wherever_a_bundle_is(run, tmp_path):
    add_model(DEMO_REEL, "mine")
    with edgereel.load("mine", cache=False) as reel:
        assert reel.bundle.folder == models_folder() / "mine.reel"
    code, out, _ = run("inspect", "mine")
    assert (code, f"({models_folder() / 'mine.reel'})" in out) == (0, True)
    assert run("plan", "mine")[0] == 0
    small = ["--size", "32x32", "--frames", "5", "--steps", "1"]
    assert run("generate", "a red ball bounces over the ocean", "--bundle", "mine", "-o", "a.gif", *small)[0] == 0


def test_what_is_not_there_says_where_models_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        MissingBundle, match=r"^nothing: no such bundle folder, and no model of that name: edgereel models ls"
    ):
        open_bundle("nothing")
    (tmp_path / "wan.tar").write_bytes(b"")
    with pytest.raises(MissingBundle, match="is a file, not a bundle's folder; edgereel models add FILE"):
        open_bundle("wan.tar")


def test_where_models_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEREEL_HOME", str(tmp_path / "chosen"))
    assert models_folder() == tmp_path / "chosen" / "models"
    monkeypatch.delenv("EDGEREEL_HOME")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: str(tmp_path / "data"))
    assert models_folder() == tmp_path / "data" / "models"
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: "~/data")
    with pytest.raises(OutputError, match="set EDGEREEL_HOME=FOLDER"):
        models_folder()
    assert find_bundle("wan") == Path("wan")
    assert find_bundle("demo") == paths.demo_bundle_path()


def test_a_damaged_model_is_named_by_its_path(tmp_path):
    path = add_model(write_small_bundle(tmp_path / "a.reel")).model.path
    edit_manifest(path, lambda data: data.update(name="other"), sign=False)
    with pytest.raises(edgereel.EdgereelError, match="digest differs"):
        open_bundle("a")
