"""Where there is no home there is no cache: that is said once, and everything else works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgereel.core import paths
from edgereel.core.paths import NO_HOME, cache_folder, find_cache_folder, scratch_folder
from edgereel.doctor.report import check_cache

pytestmark = [pytest.mark.lean, pytest.mark.skipif(os.name == "nt", reason="Windows has a profile for each user")]

PROMPT = "a red ball bounces over the ocean"
SAID = f"edgereel: {NO_HOME}\n"
NO_NAME = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
"""Starts a program as a user id without an entry, as `docker run --user 12345` does."""


@pytest.fixture
def no_home(monkeypatch):
    import pwd

    def unknown(user):
        raise KeyError(user)

    for name in ("HOME", "EDGEREEL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    paths._tell_once.cache_clear()
    yield
    paths._tell_once.cache_clear()


def test_it_is_said_once_and_the_folder_cannot_be_made(no_home, capsys, caplog):
    assert find_cache_folder() is None
    folders = {cache_folder() for _ in range(3)}
    assert [record.getMessage() for record in caplog.records] == [SAID.strip()]
    for folder in folders:
        assert not folder.exists()
        with pytest.raises(OSError):  # noqa: PT011  what it is differs between systems
            (folder / "embeddings").mkdir(parents=True, exist_ok=True)
    assert scratch_folder() == Path(tempfile.gettempdir())


def test_an_older_library_that_leaves_the_tilde(no_home, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: "~/.cache/edgereel")
    assert find_cache_folder() is None


def test_a_chosen_folder_needs_no_home(no_home, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_cache_folder() == tmp_path / "edgereel"
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"


def test_a_tilde_that_no_shell_has_expanded(monkeypatch, tmp_path, no_home):
    monkeypatch.setenv("EDGEREEL_CACHE", "~/c")
    assert find_cache_folder() is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "c"
    monkeypatch.setenv("EDGEREEL_CACHE", "c")
    assert cache_folder() == Path("c")


def test_scratch_goes_elsewhere_where_the_cache_cannot_be_written_to(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "file" / "below"))
    assert scratch_folder() == Path(tempfile.gettempdir())
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "new"))
    assert scratch_folder() == tmp_path / "new"
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"below: Not a directory; .*file: "):
        scratch_folder()


def test_doctor_says_how_to_have_a_cache():
    (finding,) = check_cache(None)
    assert (finding.status, finding.detail) == ("warn", "no home folder")
    assert finding.commands == ("export EDGEREEL_CACHE=FOLDER",)


@pytest.fixture
def nobody(tmp_path):
    """Runs a command as a user without a home, in a folder that it can write to."""
    if shutil.which("unshare") is None or subprocess.run([*NO_NAME, "true"], capture_output=True).returncode:
        pytest.skip("no user namespace can be made here")
    tmp_path.chmod(0o777)
    kept = ("HOME", "EDGEREEL_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in kept}

    def run(*arguments):
        command = [*NO_NAME, sys.executable, "-m", "edgereel", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)

    return run


SMALL = ["--steps", "1", "--size", "32x32", "--frames", "5"]


@pytest.mark.parametrize(
    ("arguments", "said", "made"),
    [
        (["generate", PROMPT, "-o", "a.mp4", *SMALL], SAID, ["a.mp4"]),
        (["plan"], SAID, []),
        (["inspect"], SAID, []),
        (["verify"], "", []),
        (["cache", "ls"], SAID, []),
        (["models", "ls"], "", []),
        (["cache", "rm", "--all"], SAID, []),
        (["cache", "verify"], SAID, []),
        (["doctor", "--json"], "", []),
        (["--help"], "", []),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) and value else "",
)
def test_commands_of_a_user_without_a_home(nobody, tmp_path, arguments, said, made):
    done = nobody(*arguments)
    assert (done.returncode, done.stderr) == (0, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == made


def test_embedding_ahead_has_nowhere_to_keep_it(nobody, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n")
    done = nobody("embed", "prompts.txt")
    assert (done.returncode, done.stderr) == (1, f"edgereel: embeddings cannot be kept: {NO_HOME}\n")


@pytest.mark.full
def test_a_clip_in_tiles_without_a_home(nobody, tmp_path):
    small = ["--size", "256x256", "--frames", "5", "--steps", "1", "--memory", "210MiB"]
    done = nobody("generate", PROMPT, "-o", "a.mp4", *small)
    assert done.returncode == 0, done.stderr
    assert "in tiles" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
