"""Processes of Python that are started run the same edgereel, and nothing that lies in the current folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgereel.core import processes
from edgereel.core.processes import python_command, safe_path

ROOT = Path(processes.__file__).resolve().parent.parent
STRANGERS = ("json", "numpy", "onnxruntime", "linecache", "os", "runpy", "tempfile", "pynvml", "sitecustomize")


@pytest.fixture
def strangers(tmp_path):
    """A folder whose modules leave a mark where one of them is run, and fail."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in STRANGERS:
        text = (
            f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise ImportError('a module of the current folder')"
        )
        (folder / f"{name}.py").write_text(text)
    yield folder
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def run(command, folder, **options):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, **options)


def test_a_module_of_the_current_folder_does_not_run(strangers):
    done = run(python_command("edgereel", "--version"), strangers)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("edgereel ")


def test_the_current_folder_leaves_the_path_and_installed_packages_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", str(tmp_path), *sys.path])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    found = safe_path()
    assert not {"", ".", str(tmp_path)} & set(found)
    import numpy

    assert str(Path(numpy.__file__).parent.parent) in found
    monkeypatch.chdir(Path(numpy.__file__).parent.parent)
    assert str(Path(numpy.__file__).parent.parent) in safe_path()


def test_a_folder_that_pythonpath_names_in_full_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert safe_path()[0] == str(tmp_path)


def test_a_current_folder_that_was_removed(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert "" not in safe_path()


def test_the_child_runs_this_edgereel_and_its_own_children_are_safe(tmp_path):
    """Another edgereel, first in the path, is not what runs."""
    other = tmp_path / "edgereel"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('the wrong edgereel')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from importlib.util import module_from_spec, spec_from_file_location as at; "
        f"spec = at('edgereel', {str(ROOT / '__init__.py')!r}); "
        "sys.modules['edgereel'] = module_from_spec(spec); spec.loader.exec_module(sys.modules['edgereel']); "
        "from edgereel.core.processes import python_command; import subprocess; "
        "print(subprocess.run(python_command('edgereel', '--version'), capture_output=True, text=True))"
    )
    done = run([sys.executable, "-c", code, str(tmp_path)], tmp_path)
    assert "stdout='edgereel " in done.stdout, done


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no safe path to hand on")
def test_what_a_child_starts_is_safe_too(strangers, monkeypatch, tmp_path):
    package = tmp_path / "package" / "edgereel"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "starts.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import json; print(json.dumps(1))'], check=True)\n"
    )
    monkeypatch.setattr(processes, "__file__", str(package / "core" / "processes.py"))
    done = run(python_command("edgereel.starts"), strangers)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_doctor_in_a_folder_with_modules_of_its_own(tmp_path):
    for name in ("json", "numpy", "onnxruntime", "pynvml"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise ImportError('planted')")
    done = run([sys.executable, "-m", "edgereel", "doctor", "--json"], tmp_path)
    assert not (tmp_path / "ran").exists()
    assert (done.returncode, json.loads(done.stdout)["ready"]) == (0, True), done.stderr


@pytest.mark.parametrize("measurement", ["run", "soak"])
def test_a_measurement_in_a_folder_with_modules_of_its_own(tmp_path, measurement):
    pytest.importorskip("psutil")
    for name in ("json", "numpy"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise ImportError('planted')")
    small = ["--steps", "1", "--sizes", "32x32", "--frames", "5", "--min-runs", "1", "--no-cold"]
    options = small if measurement == "run" else ["--clips", "16"]
    command = [sys.executable, "-m", "edgereel", "bench", measurement, "-o", "report", "--threads", "1", *options]
    done = run(command, tmp_path)
    assert not (tmp_path / "ran").exists()
    (row,) = json.loads((tmp_path / "report" / "record.json").read_text())["rows"]
    assert row["warm"], done.stderr
    assert row["failures"] == []


def test_bench_run_that_measured_nothing_fails(tmp_path):
    """A worker that cannot begin: its interpreter has no numpy for it."""
    pytest.importorskip("psutil")
    broken = tmp_path / "broken" / "numpy"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "import sys\n"
        "if 'worker' in str(getattr(sys, 'orig_argv', sys.argv)): raise ImportError('planted')\n"
        "place = __file__.rsplit('/numpy/', 1)[0]; sys.path.remove(place); del sys.modules['numpy']; import numpy\n"
        "sys.path.insert(0, place)\n"
    )
    path = os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")])
    small = ["--steps", "1", "--sizes", "32x32", "--frames", "5", "--threads", "1", "--min-runs", "1", "--no-cold"]
    command = [sys.executable, "-m", "edgereel", "bench", "run", "-o", "report", *small]
    done = run(command, tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edgereel: no row was measured: ")
    assert (tmp_path / "report" / "record.json").exists()
