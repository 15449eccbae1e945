"""Models are added whole or not at all, listed whatever state they are in, and removed at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import DEMO_CHECKPOINT, helpers_environment
from helpers.small_bundle import GRAPHS, edit, graph, replace_file, write_small_bundle
from helpers.small_disk import small_disk

from edgereel.bundle.library import copying, sources
from edgereel.bundle.library.models import add_model, find_model, list_models, path_of_model, remove_models
from edgereel.bundle.library.names import models_folder
from edgereel.bundle.reader import verify_bundle
from edgereel.core.errors import BundleError, Cancelled, MissingBundle, OutputError, UsageError

pytestmark = pytest.mark.lean

posix = pytest.mark.skipif(os.name == "nt", reason="signals and file systems of POSIX")


@pytest.fixture
def reel(tmp_path):
    return write_small_bundle(tmp_path / "source" / "small.reel")


def there():
    """Everything in the models folder, what is hidden too."""
    return sorted(os.listdir(models_folder())) if models_folder().is_dir() else []


def large(reel, size, name="denoiser.data"):
    """Give a bundle a data file of so many bytes, a hole on the disk but for its end, and declare it."""
    digest, zeros = hashlib.sha256(), bytes(2**20)
    for _ in range(size // len(zeros) - 1):
        digest.update(zeros)
    end = b"end".rjust(size - (size // len(zeros) - 1) * len(zeros), b"\0")
    digest.update(end)
    with (reel / name).open("wb") as file:
        file.seek(size - len(end))
        file.write(end)
    edit(reel, lambda data: data["files"][name].update(size=size, sha256=digest.hexdigest()))
    return reel


def test_a_folder_is_copied_to_the_byte(reel):
    (reel / ".DS_Store").write_bytes(b"a Mac's")
    told = []
    added = add_model(reel, on_progress=lambda *call: told.append(call))
    assert (added.model.name, added.left_out) == ("small", [".DS_Store"])
    assert there() == ["small.reel"]
    content = {path.name: path.read_bytes() for path in reel.iterdir() if path.name != ".DS_Store"}
    assert {path.name: path.read_bytes() for path in added.model.path.iterdir()} == content
    assert verify_bundle("small").manifest.name == "small"
    assert added.model.bytes == sum(map(len, content.values()))
    assert told[0] == ("copy", 0, 1)


def test_holes_stay_holes_and_the_content_is_the_same(reel):
    path = add_model(large(reel, 3 * copying.CHUNK + 5)).model.path / "denoiser.data"
    assert path.read_bytes() == (reel / "denoiser.data").read_bytes()
    if sys.platform == "linux":
        assert path.stat().st_blocks * 512 < copying.CHUNK + 2**20


def test_a_file_that_ends_in_a_hole(reel):
    replace_file(reel, "denoiser.data", bytes(copying.CHUNK))
    assert verify_bundle(add_model(reel).model.path)


def test_what_is_listed(reel, run):
    add_model(reel, "wan")
    add_model(reel, "damaged")
    (models_folder() / "damaged.reel" / "denoiser.data").unlink()
    (models_folder() / "notes.txt").write_text("the user's")
    for name in ("a b", "demo"):
        shutil.copytree(reel, models_folder() / f"{name}.reel")
        assert "rename its folder" in next(model for model in list_models()[1:] if model.name == name).problem
        shutil.rmtree(models_folder() / f"{name}.reel")
    listed = {model.name: model for model in list_models()}
    assert list(listed) == ["demo", "damaged", "wan"]
    assert "denoiser.data: is missing" in listed["damaged"].problem
    code, out, err = run("models", "ls")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["demo", "damaged", "wan"]
    assert "cannot be used" in out.splitlines()[1]
    found = json.loads(run("models", "ls", "--json")[1])
    assert found["folder"] == str(models_folder())
    assert [model["problem"] is None for model in found["models"]] == [True, False, True]
    assert run("models", "where", "wan")[1] == f"{models_folder() / 'wan.reel'}\n"
    assert json.loads(run("models", "where", "--json")[1]) == {"path": str(models_folder())}
    assert "precision" in run("models", "show", "wan")[1]
    assert json.loads(run("models", "show", "wan", "--json")[1])["digest"] == listed["wan"].manifest.digest


def test_removing(reel, run, tmp_path):
    for name in ("a", "b", "c"):
        add_model(reel, name)
    with pytest.raises(MissingBundle, match="no model d: those that are there are demo, a, b, c"):
        remove_models(["a", "d"])
    with pytest.raises(UsageError, match="built-in"):
        remove_models(["demo"])
    assert there() == ["a.reel", "b.reel", "c.reel"]
    assert json.loads(run("models", "rm", "a", "a", "b.reel", "--json")[1])["freed"] > 0
    assert there() == ["c.reel"]
    if os.name != "nt":
        (models_folder() / "linked.reel").symlink_to(reel)
        assert find_model("linked").manifest.name == "small"
        assert remove_models(["linked"]) == 0
        assert verify_bundle(reel)
    remove_models(["c"])
    assert there() == []


def test_a_name_that_is_taken(reel):
    add_model(reel, "Wan")
    for name in ("Wan", "wan", "WAN.reel"):
        with pytest.raises(OutputError, match=r"there is a model Wan already: .* edgereel models rm Wan"):
            add_model(reel, name)
    with pytest.raises(UsageError, match="built-in"):
        add_model(reel, "DEMO")
    shutil.copytree(reel, reel.parent / "a b.reel")
    with pytest.raises(UsageError, match=r"a b\.reel: 'a b' cannot be a model's name: .*--name"):
        add_model(reel.parent / "a b.reel")
    assert there() == ["Wan.reel"]


def test_what_is_no_source(reel, tmp_path):
    with pytest.raises(MissingBundle, match="no such folder or archive"):
        add_model(tmp_path / "nothing.reel")
    with pytest.raises(MissingBundle, match=r"is not a bundle; add one of those in it: small\.reel"):
        add_model(reel.parent)
    with pytest.raises(MissingBundle, match="downloads nothing"):
        add_model(Path("https://hub.example/wan.tar"))
    with pytest.raises(MissingBundle, match="is a checkpoint; edgereel export"):
        add_model(DEMO_CHECKPOINT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingBundle, match=r"has no reel\.json"):
        add_model(tmp_path / "empty")
    (tmp_path / "text").write_text("text" * 200)
    with pytest.raises(BundleError, match="neither a bundle's folder nor a tar or zip"):
        add_model(tmp_path / "text")
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(BundleError, match="must be a regular file"):
            add_model(tmp_path / "pipe")
    assert there() == []


def change(reel, what):
    if what == "a byte":
        content = bytearray((reel / "denoiser.data").read_bytes())
        content[7] ^= 1
        (reel / "denoiser.data").write_bytes(content)
    elif what == "a link":
        (reel / "denoiser.data").rename(reel / "elsewhere")
        (reel / "denoiser.data").symlink_to("elsewhere")
    elif what == "other data":
        _, inputs, outputs = GRAPHS["denoiser"]
        replace_file(reel, "denoiser.onnx", graph("../../etc/passwd", inputs, outputs).SerializeToString())
    elif what == "letters' case":
        shutil.copyfile(reel / "MODEL_CARD.md", reel / "model_card.md")
        edit(reel, lambda data: data["files"].update({"model_card.md": data["files"]["MODEL_CARD.md"]}))
    elif what == "a device of Windows":
        shutil.copyfile(reel / "MODEL_CARD.md", reel / "aux.md")
        edit(reel, lambda data: data["files"].update({"aux.md": data["files"]["MODEL_CARD.md"]}))


@posix
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("a byte", r"content of denoiser\.data is not what reel\.json declares"),
        ("a link", "must be a regular file"),
        ("other data", r"refers to data in '\.\./\.\./etc/passwd'"),
        ("letters' case", "are the same file on some systems"),
        ("a device of Windows", r"'aux\.md' is a name that Windows cannot have"),
    ],
)
def test_a_source_that_is_damaged_or_unsafe(reel, what, reason):
    change(reel, what)
    with pytest.raises(BundleError, match=reason):
        add_model(reel)
    assert there() == []


def test_a_full_disk_is_seen_before_anything_is_copied(reel, monkeypatch):
    usage = shutil.disk_usage(reel)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000_000))
    told = []
    with pytest.raises(OutputError, match=r"19 MiB are needed there, 19 MiB are free: .*EDGEREEL_HOME"):
        add_model(large(reel, 20_000_000 - 20_000), on_progress=lambda *call: told.append(call))
    assert (told, there()) == ([], [])


FULL = """
import shutil
usage = shutil.disk_usage("/")
shutil.disk_usage = lambda _: usage._replace(free=10**15)  # a quota does not show in what is free
from edgereel import cli
cli.main()
"""


@posix
def test_a_disk_that_is_full_after_all(reel, tmp_path):
    replace_file(reel, "denoiser.data", os.urandom(3 * 2**20))
    home = tmp_path / "home"
    home.mkdir()
    check = 'shift; "$@"; code=$?; find "$0" -type f -o -name "*.reel" -o -name ".*"; exit $code'
    command = [*small_disk(home, "2m"), "sh", "-c", check, str(home), "-", sys.executable, "-c", FULL]
    ended = subprocess.run(
        [*command, "models", "add", str(reel)],
        env={**helpers_environment(), "EDGEREEL_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
    assert ended.stderr.count("\n") == 1
    assert f"{home / 'models' / 'small.reel'}: cannot be written: [Errno 28] No space left on device" in ended.stderr


class Pulled:
    """A file on a drive that is pulled out after a chunk."""

    def __init__(self, file):
        self._file = file

    def read(self, size):
        if self._file.tell() >= copying.CHUNK:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._file.read(size)


@posix
def test_a_drive_that_is_pulled_out(reel, monkeypatch):
    """As the system tells of it: reading what was open fails, and nothing more is there."""
    large(reel, 3 * copying.CHUNK)
    opened = sources._Folder.open

    @contextmanager
    def open_pulled(self, name):
        with opened(self, name) as file:
            yield Pulled(file)

    monkeypatch.setattr(sources._Folder, "open", open_pulled)
    with pytest.raises(
        BundleError, match=r"small\.reel: cannot be read: Input/output error; if it is on a drive, connect"
    ):
        add_model(reel)
    assert there() == []
    monkeypatch.setattr(sources._Folder, "open", opened)
    with pytest.raises(BundleError, match="cannot be read: No such file or directory; if it is on a drive"):
        add_model(reel, on_progress=lambda *call: shutil.rmtree(reel) if reel.exists() else None)
    assert there() == []


def test_a_file_that_shrinks_or_grows_meanwhile(reel):
    content = (reel / "tokenizer.json").read_bytes()
    for changed, reason in ((content[:-9], "ends 9 bytes too soon"), (content + b"x", "has more than the")):
        (reel / "tokenizer.json").write_bytes(content)
        with pytest.raises(BundleError, match=reason):
            add_model(reel, on_progress=lambda *_, to=changed: (reel / "tokenizer.json").write_bytes(to))
        assert there() == []


def test_cancelling_leaves_nothing(reel):
    with pytest.raises(Cancelled):
        add_model(reel, on_progress=lambda stage, done, total: False)
    assert there() == []


@pytest.fixture
def copying_command(reel):
    """A command in the middle of copying a bundle of 40 GB, which takes it a while to read."""
    size = 40 * 10**9
    with (reel / "denoiser.data").open("r+b") as file:
        file.truncate(size)
    edit(reel, lambda data: data["files"]["denoiser.data"].update(size=size))
    program = (
        "import shutil; usage = shutil.disk_usage('/'); shutil.disk_usage = lambda _: usage._replace(free=10**15)\n"
    )
    program += "from edgereel.core.interrupts import end_on_signals; end_on_signals()\n"
    program += "from edgereel import cli; cli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "models", "add", str(reel)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not any(models_folder().glob(".small-*/denoiser.data")):
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()
    yield process
    process.kill()
    process.communicate()


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_command_that_is_stopped_leaves_nothing(copying_command, name, code):
    copying_command.send_signal(signal.Signals[name])
    out, err = copying_command.communicate(timeout=60)
    assert (copying_command.returncode, out, err.count("\n")) == (code, "", 1)
    assert there() == []


@posix
def test_what_a_killed_command_left_goes_with_the_next(copying_command, run):
    copying_command.kill()
    copying_command.wait()
    assert len(there()) == 1
    assert there()[0].endswith(".partial")
    assert "small" not in run("models", "ls")[1]
    assert there() == []


HALF_REMOVED = """
import os, signal, sys
from edgereel.bundle.library import models
models.remove = lambda path: os.kill(os.getpid(), signal.SIGKILL)
models.remove_models(["small"])
"""


@posix
def test_a_model_that_is_half_removed_is_none(reel):
    add_model(reel)
    ended = subprocess.run([sys.executable, "-c", HALF_REMOVED], timeout=120)
    assert ended.returncode == -signal.SIGKILL
    (left,) = there()
    assert left.endswith(".partial")
    with pytest.raises(MissingBundle):
        path_of_model("small")
    add_model(reel)
    assert there() == ["small.reel"]


@pytest.mark.full
def test_a_bundle_of_20_gb_takes_little_memory(reel):
    """Added, listed and removed, in processes whose memory is read: a chunk at a time is held, never a file."""
    size = 20 * 10**9
    large(reel, size)
    program = (
        "import resource, sys\nfrom edgereel import cli\ntry:\n    cli.main()\nfinally:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
    )

    def peak_of(*arguments):
        ended = subprocess.run(
            [sys.executable, "-c", program, "models", *arguments], capture_output=True, text=True, timeout=600
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout, int(ended.stderr.splitlines()[-1])

    peaks = [peak_of("add", str(reel), "--name", "huge")]
    peaks += [peak_of("ls"), peak_of("show", "huge"), peak_of("rm", "huge")]
    assert "18.63 GiB" in peaks[1][0]
    assert peaks[3][0] == "18.63 GiB freed\n"
    assert max(megabytes for _, megabytes in peaks) < 200, peaks
    assert there() == []
