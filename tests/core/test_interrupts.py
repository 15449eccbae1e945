"""Ctrl-C in the middle of an import is neither lost nor mistaken for a missing package; SIGTERM cleans up as it does."""

from __future__ import annotations

import glob
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import DEMO_CHECKPOINT

from edgereel.core import interrupts
from edgereel.core.errors import EngineError
from edgereel.core.interrupts import end_on_signals, how_it_ended, interrupts_wait, temporary_folder
from edgereel.engines import EngineOptions, get_engine

pytestmark = pytest.mark.lean

posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def _listening(monkeypatch):
    """What a test does with signals is undone."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(interrupts, "_terminated_at", None)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


def test_an_interrupt_waits_for_the_end_of_the_block():
    reached = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("end")
        reached.append("after")
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_the_block_comes_through():
    with pytest.raises(ImportError), interrupts_wait():
        raise ImportError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_while_a_temporary_folder_is_made(tmp_path, monkeypatch):
    real = tempfile.mkdtemp

    def interrupted(*arguments):
        made = real(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", interrupted)
    with pytest.raises(KeyboardInterrupt), temporary_folder("edgereel-", tmp_path):
        pytest.fail("it was not interrupted")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_goes_unless_it_has_another_name(tmp_path):
    with pytest.raises(ValueError, match="of the block"), temporary_folder(".x-", tmp_path, ".partial") as folder:  # noqa: PT012
        assert folder.parent == tmp_path
        assert (folder.name[:3], folder.suffix) == (".x-", ".partial")
        (folder / "file").touch()
        raise ValueError("of the block")
    assert list(tmp_path.iterdir()) == []
    with temporary_folder(".x-", tmp_path) as folder:
        folder.rename(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(FileNotFoundError), temporary_folder(".x-", tmp_path / "missing"):
        pass


@posix
@pytest.mark.parametrize(
    ("number", "ended"), [(signal.SIGINT, ("interrupted", 130)), (signal.SIGTERM, ("terminated", 143))]
)
def test_an_interrupt_while_a_library_imports_is_not_lost(tmp_path, monkeypatch, number, ended):
    """An extension module that swallows what is raised in it, as numpy.random does, imported in the middle of other work."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_on_signals()
    (tmp_path / f"swallowing_{number.name}.py").write_text(
        "import os, time\n"
        "try:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(0.1)\n"
        "except BaseException:\n"
        "    raise SystemExit('it was swallowed') from None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reached, started = [], time.monotonic()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        reached.append(importlib.import_module(f"swallowing_{number.name}"))
        time.sleep(60)
    assert reached
    assert time.monotonic() - started < 50
    assert how_it_ended() == ended


@posix
def test_a_command_line_that_runs_as_a_module_is_imported_can_be_stopped(tmp_path):
    (tmp_path / "runs.py").write_text(
        "import os, signal, time\n"
        "from edgereel.core import interrupts\n"
        "interrupts.end_on_signals()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    code = "try:\n    import runs\nexcept KeyboardInterrupt:\n    print('stopped')"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=50
    )
    assert (ended.stdout, ended.stderr) == ("stopped\n", "")


def test_an_interrupt_while_a_worker_is_started(tmp_path, monkeypatch):
    """It is ended, and its folder goes."""
    from edgereel.bench.contenders.process import WorkerProcess

    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        WorkerProcess([sys.executable, "-c", "input()"])
    assert started[0].poll() is not None
    assert list(tmp_path.iterdir()) == []


def test_other_threads_are_left_alone():
    seen = []

    def work():
        with interrupts_wait():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_broken_onnxruntime_is_not_called_missing(monkeypatch, tmp_path):
    broken = tmp_path / "onnxruntime"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libonnxruntime.so.1: cannot open shared object file')")
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineError, match=r"cannot be loaded: libonnxruntime\.so\.1"):
        get_engine("cpu").open(tmp_path / "a.onnx", EngineOptions())


@posix
def test_a_termination_waits_for_the_end_of_the_block_too():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_on_signals()
    ours = signal.getsignal(signal.SIGTERM)
    reached = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with interrupts_wait():
            with interrupts_wait():
                signal.raise_signal(signal.SIGTERM)
                reached.append("inner")
            reached.append("outer")
        reached.append("after")
    assert reached == ["inner", "outer"]
    assert how_it_ended() == ("terminated", 143)
    assert signal.getsignal(signal.SIGTERM) is ours


@posix
def test_an_interrupt_is_told_even_where_the_import_made_an_error_of_it():
    with pytest.raises(KeyboardInterrupt), interrupts_wait():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        raise ImportError
    assert how_it_ended() == ("interrupted", 130)


@posix
def test_the_same_termination_twice_does_not_disturb_the_cleaning_up(monkeypatch):
    """`timeout` sends it to the process and to its group."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_on_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    now[0] += 5
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


@posix
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_who_has_a_way_with_terminations_keeps_it(handler):
    signal.signal(signal.SIGTERM, handler)
    end_on_signals()
    with interrupts_wait():
        assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGTERM) is handler


@posix
def test_outside_the_main_thread_nothing_is_installed():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    thread = threading.Thread(target=end_on_signals)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@posix
def test_using_the_library_leaves_terminations_alone():
    """Cleaning up on SIGTERM is the command's; a program that imports edgereel still dies of it at once."""
    program = (
        "import edgereel, os, signal; edgereel.load; from edgereel import cli; os.kill(os.getpid(), signal.SIGTERM)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == -signal.SIGTERM


def terminated(arguments, tmp_path, begun):
    """Run a command, send it SIGTERM when `begun`, given its number, is true, and return what it printed on stderr."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgereel", *map(str, arguments)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not begun(process.pid) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1] == "edgereel: terminated"
    assert list(temporary.glob("edgereel*")) == []
    return errors


@posix
@pytest.mark.extras
@pytest.mark.parametrize("stage", ["importing", "exporting"])
def test_an_export_that_is_terminated_leaves_nothing(tmp_path, stage):
    pytest.importorskip("torch")
    place = tmp_path / "place"
    place.mkdir()
    started = time.monotonic()

    def begun(number):
        if stage == "exporting":
            return any(place.glob(".x-*.partial/*"))
        if sys.platform == "linux":
            return "libtorch" in Path(f"/proc/{number}/maps").read_text()
        return time.monotonic() > started + 1.5

    errors = terminated(["export", DEMO_CHECKPOINT, "-o", place / "x.reel"], tmp_path, begun)
    assert "Traceback" not in errors
    assert list(place.iterdir()) == []


@posix
@pytest.mark.extras
@pytest.mark.parametrize("pattern", ["edgereel-bench-*", "*/*/clip.mp4"], ids=["starting", "measuring"])
def test_a_measurement_that_is_terminated_leaves_no_temporary_files(tmp_path, pattern):
    pytest.importorskip("psutil")
    small = ["--steps", "1", "--sizes", "32x32", "--frames", "5", "--threads", "1", "--min-runs", "100000"]
    command = ["bench", "run", "-o", tmp_path / "report", *small]
    # Path.glob fails where a folder goes meanwhile.
    terminated(command, tmp_path, lambda _: any(glob.iglob(f"{tmp_path}/temporary/{pattern}")))
