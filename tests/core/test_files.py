"""Files are written whole or not at all; what killed processes left goes when the place is used again, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgereel.bundle.writer import check_new_bundle, new_bundle_folder
from edgereel.core import files
from edgereel.core.errors import OutputError
from edgereel.core.files import check_file_target, sweep, temporary_beside, whole_file, write_text
from edgereel.core.interrupts import temporary_folder

pytestmark = pytest.mark.skipif(os.name == "nt", reason="whether a process runs is not told there")

WRITER = """
import sys, time
from pathlib import Path
from edgereel.bundle.writer import new_bundle_folder
from edgereel.core.files import whole_file
from edgereel.core.interrupts import temporary_folder
place = Path(sys.argv[1])
with (
    whole_file(place / "a.txt") as file,
    new_bundle_folder(place / "a.reel") as bundle,
    temporary_folder(".edgereel-calibrate-", place) as folder,
    temporary_folder("edgereel-bench-") as elsewhere,
):
    for part in (bundle / "denoiser.data", folder / "weights", elsewhere / "clip.mp4"):
        part.write_text("half")
    file.write_text("half")
    print(file.name, bundle.name, folder.name, flush=True)
    time.sleep(600)
"""


def gone():
    """Return the number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.fixture
def writer(tmp_path):
    """A real writer in the middle of its work: the folder it writes to, the process, and the names of its parts."""
    place, temporary = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-c", WRITER, str(place)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    names = process.stdout.readline().split()
    assert len(names) == 3
    yield place, process, names
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_a_killed_writer_left_goes_with_the_next_write(writer, monkeypatch):
    place, process, names = writer
    for name in ("mine.part", ".edgereel-notes.part", "b.txt"):
        (place / name).write_text("the user's")
    write_text(place / "c.txt", "while it runs, its parts stay")
    assert {path.name for path in place.iterdir()} >= set(names)
    process.kill()
    process.wait()
    assert {path.name for path in place.iterdir()} >= set(names)
    write_text(place / "a.txt", "whole")
    left = {path.name for path in place.iterdir()}
    assert left == {"a.txt", "b.txt", "c.txt", "mine.part", ".edgereel-notes.part"}
    monkeypatch.setattr("tempfile.tempdir", str(place.parent / "temporary"))
    assert len(list((place.parent / "temporary").iterdir())) == 1
    with temporary_folder("edgereel-compare-") as folder:
        assert list(folder.parent.iterdir()) == [folder]


def test_the_next_bundle_sweeps_too(writer):
    place, process, _ = writer
    process.kill()
    process.wait()
    check_new_bundle(place / "b.reel")
    assert list(place.iterdir()) == []
    with new_bundle_folder(place / "b.reel") as folder:
        assert re.fullmatch(r"\.b-.*\.partial", folder.name)
    assert [path.name for path in place.iterdir()] == ["b.reel"]


def parts(folder, process, place=None):
    """Make what a process would leave: a file, and a folder of each kind."""
    place = files._place() if place is None else place
    names = [
        f".edgereel-{place}-{process}-0123456789abcdef.part",
        f".a name-with-hyphens-{place}-{process}-abcd_123.partial",
        f".edgereel-trials-{place}-{process}-abcd_123",
        f"edgereel-bench-{place}-{process}-abcd_123",
    ]
    (folder / names[0]).write_text("half")
    for name in names[1:]:
        (folder / name).mkdir()
        (folder / name / "file").write_text("half")
    return set(names)


def test_only_what_is_provably_ours_and_dead_is_swept(tmp_path):
    dead = gone()
    kept = parts(tmp_path, dead, "00000000") | parts(tmp_path, os.getpid()) | parts(tmp_path, os.getppid())
    for name in (
        f".edgereel-{files._place()}-{dead}-0123456789abcdef.earlier",  # of value: the clip's PNGs of before
        f"a-{files._place()}-{dead}-abcd_123",
        f".a-{files._place()}-{dead}-abcd_123.mp4",
        f".edgereel-{files._place()}-{dead}.part",
    ):
        (tmp_path / name).touch()
        kept.add(name)
    parts(tmp_path, dead)
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    sweep(tmp_path / "missing")


def test_links_are_removed_and_not_followed(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "holiday.png").write_text("dear")
    place, dead = tmp_path / "place", gone()
    place.mkdir()
    for name in (
        f".edgereel-{files._place()}-{dead}-0123456789abcdef.part",
        f".a-{files._place()}-{dead}-abcd_123.partial",
    ):
        (place / name).symlink_to(pictures, target_is_directory=True)
    inside = place / f".b-{files._place()}-{dead}-abcd_123.partial"
    inside.mkdir()
    (inside / "link").symlink_to(pictures, target_is_directory=True)
    sweep(place)
    assert list(place.iterdir()) == []
    assert (pictures / "holiday.png").read_text() == "dear"


def test_a_file_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(ValueError, match="of the block"), whole_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ValueError("of the block")
    with pytest.raises(OutputError, match=r"cannot write .*a\.txt: No space left"), whole_file(path) as temporary:
        raise OSError(28, "No space left on device")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    with whole_file(path) as temporary:
        assert temporary.name.startswith(".edgereel-")
        temporary.write_text("after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["after"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "text"


def test_what_cannot_be_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("folder", "it is a folder"), ("pipe", "not a regular file"), ("no/a", "does not exist")):
        with pytest.raises(OutputError, match=reason):
            check_file_target(tmp_path / name)


def test_hidden_names_fit_beside_the_longest(tmp_path):
    target = tmp_path / ("n" * 255)
    write_text(target, "text")
    assert len(temporary_beside(target).name) < 100
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_terminal_that_is_closed_leaves_nothing(writer):
    """The same writer as a command of ours, which takes SIGHUP as it does SIGTERM."""
    place, process, _ = writer
    process.kill()
    process.wait()
    program = WRITER.replace(
        "place = Path",
        "from edgereel.core.interrupts import end_on_signals, how_it_ended\nend_on_signals()\nplace = Path",
    )
    program = "try:\n" + "".join(f"    {line}\n" for line in program.splitlines())
    program += "except KeyboardInterrupt:\n    print(how_it_ended()); sys.exit(how_it_ended()[1])\n"
    environment = {**os.environ, "TMPDIR": str(place.parent / "temporary")}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place)], env=environment, stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        command.stdout.readline()
        command.send_signal(signal.SIGHUP)
        said = command.stdout.read()
    assert (command.returncode, said) == (129, "('hung up', 129)\n")
    assert list(place.iterdir()) == []
    assert list((place.parent / "temporary").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which signals a process handles")
@pytest.mark.parametrize("ignored", [False, True], ids=["closed", "nohup"])
def test_a_command_whose_terminal_is_closed(tmp_path, ignored):
    command = [sys.executable, "-m", "edgereel", "plan", "missing.reel"]
    if ignored:
        command = ["nohup", *command]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def mask(name):
        found = re.search(rf"^{name}:\s*([0-9a-f]+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        return int(found[1], 16) if found else 0

    handled = 1 << (signal.SIGTERM - 1)
    while process.poll() is None and not mask("SigCgt") & handled:
        pass
    assert bool(mask("SigIgn") & 1) == ignored
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=300)
    ended = (2, "edgereel: missing.reel: no such bundle folder") if ignored else (129, "edgereel: hung up")
    assert (process.returncode, errors.splitlines()[-1]) == ended
