"""Ctrl-C in the middle of an import is neither lost nor mistaken for a missing package."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from edgereel.engines import EngineOptions, get_engine
from edgereel.errors import EngineError
from edgereel.interrupts import interrupts_wait


@pytest.fixture(autouse=True)
def _listening(monkeypatch):
    """A test run in the background is born deaf to the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
