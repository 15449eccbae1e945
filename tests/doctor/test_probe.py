"""Packages that are broken in every way do not break who asks for them."""

from __future__ import annotations

import os

import pytest

from edgereel.doctor import probe
from edgereel.doctor import report as doctor
from edgereel.doctor.probe import read_probe
from edgereel.doctor.report import MISSING
from edgereel.engines import ENGINES

pytestmark = pytest.mark.lean


def test_a_crash_says_what_it_was():
    lines = ['{"event": "try", "name": "numpy"}', '{"event": "loaded", "name": "numpy", "facts": {}}', "noise", "7"]
    crashed = read_probe("\n".join([*lines, '{"event": "try", "name": "av"}']), "ends Python (SIGILL)")
    assert crashed.loaded == {"numpy": {}}
    assert crashed.failed == {"av": "loading it ends Python (SIGILL)"}
    assert crashed.problem == "loading av ends Python (SIGILL)"
    crashed = read_probe("\n".join([*lines, '{"event": "try", "name": "cpu"}']), "ends Python (SIGILL)")
    assert crashed.failed == {}
    assert crashed.problem == "trying cpu ends Python (SIGILL)"


@pytest.fixture
def shadow(tmp_path, monkeypatch):
    """Put a package of this text in front of the installed one, for processes that are started."""

    def shadow(name, text):
        (tmp_path / "first" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "first" / name / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / "first"))

    return shadow


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ImportError('libonnxruntime.so: cannot open\\nshared object')", "cannot open shared object"),
        ("raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')", "No module named"),
        ("", "has no attribute '__version__'"),
        ("raise RuntimeError()", "RuntimeError"),
        ("import os; os.kill(os.getpid(), 9)", "ends Python (SIGKILL)"),
        ("import sys; sys.exit('no licence')", "failed: no licence"),
        ("import time; time.sleep(600)", "hangs"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_broken_onnxruntime_does_not_break_the_probe(shadow, text, reason):
    shadow("onnxruntime", text)
    found = probe.probe(timeout=20 if reason == "hangs" else 600)
    assert reason in found.failed["onnxruntime"]
    assert "\n" not in found.failed["onnxruntime"]
    assert set(found.loaded) == {"numpy", "tokenizers", "av"}
    assert found.engines.get("cpu") or found.problem
    statuses = {finding.name: finding.status for finding in doctor.check_engines(found)}
    assert statuses.get("cpu", statuses.get("engines")) == MISSING
    assert doctor.check_choice(found) == []


def test_what_works_here():
    found = probe.probe()
    assert (found.failed, found.problem) == ({}, "")
    assert set(found.engines) == set(ENGINES)
    assert found.engines["cpu"] is None
    assert found.engines[found.choice] is None
    assert found.why.startswith(found.choice)
    assert found.loaded["av"] == {"libx264": True}
    assert "CPUExecutionProvider" in found.loaded["onnxruntime"]["providers"]
