"""`edgereel doctor`: each check on planted truths, and the command in environments that lack something."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DEMO_REEL, edit_manifest
from helpers.requirements import REQUIREMENTS

from edgereel import cli
from edgereel.core import machine
from edgereel.core.version import __version__
from edgereel.doctor import report as doctor
from edgereel.doctor.probe import Probe
from edgereel.doctor.report import MISSING, OK, OPTIONAL, WARN
from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu

pytestmark = pytest.mark.lean

BASE = {"numpy": "2.0.1", "av": "18.1.0"}
WORKING = Probe(
    loaded={
        "numpy": {},
        "av": {"libx264": True},
        "onnxruntime": {"version": "1.31", "providers": ["CPUExecutionProvider"]},
    },
    engines={"cpu": None},
)
NO_RUNTIME = Probe(failed={"onnxruntime": "No module named 'onnxruntime'"}, engines={"cpu": "needs onnxruntime"})


def only(findings, name):
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def test_packages_that_are_missing_old_broken_or_lack_something():
    findings = doctor.check_packages(REQUIREMENTS, BASE, WORKING)
    assert [(finding.name, finding.status, finding.detail) for finding in findings] == [
        ("numpy", OK, "2.0.1"),
        ("av", OK, "18.1.0"),
    ]
    finding = only(doctor.check_packages(REQUIREMENTS, {"av": "18"}, WORKING), "numpy")
    assert (finding.status, finding.detail) == (MISSING, "numpy is not installed")
    assert finding.commands == ('pip install "numpy>=1.26"',)
    finding = only(doctor.check_packages(REQUIREMENTS, {**BASE, "av": "9.2"}, WORKING), "av")
    assert finding.detail == "av 9.2 is too old: 12 or newer is needed"
    broken = Probe(failed={"av": "libX: cannot open"})
    finding = only(doctor.check_packages(REQUIREMENTS, BASE, broken), "av")
    assert (finding.status, finding.detail) == (MISSING, "av 18.1.0 cannot be loaded: libX: cannot open")
    assert finding.commands == ("pip install --force-reinstall av",)
    without = Probe(loaded={"av": {"libx264": False}})
    finding = only(doctor.check_packages(REQUIREMENTS, BASE, without), "av")
    assert finding.status == WARN
    assert "no libx264" in finding.detail
    assert finding.commands[0].startswith("pip install --force-reinstall --only-binary av")
    findings = doctor.check_packages(None, {}, Probe(failed={"numpy": "No module named 'numpy'", "onnxruntime": "no"}))
    assert [(finding.name, finding.status) for finding in findings] == [("requirements", WARN), ("numpy", MISSING)]


@pytest.mark.parametrize(("has_gpu", "extra"), [(False, "cpu"), (True, "gpu")])
@pytest.mark.parametrize(("probed", "status"), [(WORKING, WARN), (NO_RUNTIME, MISSING)])
def test_two_onnxruntimes_are_explained(has_gpu, extra, probed, status):
    both = {**BASE, "onnxruntime": "1.31.1", "onnxruntime-gpu": "1.23.2"}
    finding = only(doctor.check_onnxruntime(both, probed, has_gpu), "onnxruntime")
    assert finding.status == status
    assert finding.detail == "onnxruntime 1.31.1, onnxruntime-gpu 1.23.2: more than one"
    assert "onnxruntime and onnxruntime-gpu are installed together and overwrite one another's files" in finding.reason
    assert finding.commands == (
        "pip uninstall -y onnxruntime onnxruntime-gpu",
        f'pip install "edgereel[{extra}]"',
    )


def test_no_onnxruntime():
    finding = only(doctor.check_onnxruntime(BASE, NO_RUNTIME, False), "onnxruntime")
    assert (finding.status, finding.detail) == (MISSING, "not installed")
    assert finding.commands == ('pip install "edgereel[cpu]"',)


def test_a_broken_onnxruntime():
    there = {**BASE, "onnxruntime-gpu": "1.23.2"}
    (finding,) = doctor.check_onnxruntime(there, Probe(failed={"onnxruntime": "libcudart missing"}), True)
    assert (finding.status, finding.detail) == (MISSING, "onnxruntime-gpu 1.23.2: libcudart missing")
    assert finding.commands == ("pip uninstall -y onnxruntime-gpu", 'pip install "edgereel[gpu]"')


def test_one_onnxruntime_and_what_it_offers():
    findings = doctor.check_onnxruntime({**BASE, "onnxruntime": "1.31"}, WORKING, False)
    assert [(finding.status, finding.detail) for finding in findings] == [
        (OK, "onnxruntime 1.31"),
        ("information", "CPU"),
    ]


def test_engines():
    assert [finding.status for finding in doctor.check_engines(WORKING)] == [OK]
    findings = doctor.check_engines(Probe(engines={"cpu": None, "cuda": "no GPU"}))
    assert [(finding.name, finding.status, finding.detail) for finding in findings] == [
        ("cpu", OK, "runs"),
        ("cuda", OPTIONAL, "no GPU"),
    ]
    (finding,) = doctor.check_engines(Probe(engines={"cpu": "broken"}))
    assert (finding.status, finding.detail) == (MISSING, "broken")
    (finding,) = doctor.check_engines(Probe(problem="loading av ends Python (SIGILL)"))
    assert (finding.status, finding.detail) == (MISSING, "cannot be tried: loading av ends Python (SIGILL)")
    (finding,) = doctor.check_engines(Probe())
    assert finding.status == MISSING


def test_engines_for_gpus_are_optional_even_where_nothing_runs():
    reasons = {"rtx": "no GPU", "cuda": "no GPU", "cpu": "needs onnxruntime"}
    findings = doctor.check_engines(Probe(engines=reasons))
    assert [(finding.name, finding.status) for finding in findings] == [
        ("rtx", OPTIONAL),
        ("cuda", OPTIONAL),
        ("cpu", MISSING),
    ]
    findings = doctor.check_engines(Probe(engines={"rtx": "no GPU", "cuda": None, "cpu": "broken"}))
    assert [finding.status for finding in findings] == [OPTIONAL, OK, OPTIONAL]


def test_what_auto_takes():
    probed = Probe(engines={"cuda": "no GPU", "cpu": None}, choice="cpu", why="cpu, since cuda cannot run: no GPU")
    (finding,) = doctor.check_choice(probed)
    assert (finding.name, finding.status, finding.facts) == ("auto", "information", {"engine": "cpu"})
    assert finding.detail == "cpu, since cuda cannot run: no GPU"
    assert doctor.check_choice(Probe(engines={"cpu": "broken"}, choice="cpu", why="none can run")) == []
    assert doctor.check_choice(Probe(problem="hangs")) == []


def test_the_onnxruntime_engine_says_why_it_cannot_run(monkeypatch):
    assert OnnxRuntimeCpu().unavailable() is None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime" in OnnxRuntimeCpu().unavailable()
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    assert "most of it is missing: edgereel doctor" in OnnxRuntimeCpu().unavailable()


def test_extras():
    findings = doctor.check_extras(REQUIREMENTS, {**BASE, "onnxruntime": "1.31", "torch": "2.9.1+cpu"})
    assert [(finding.name, finding.status) for finding in findings] == [
        ("export", OK),
        ("bench", OPTIONAL),
    ]
    assert only(findings, "bench").detail == 'without matplotlib: pip install "edgereel[bench]"'


def test_an_extra_does_not_bring_a_second_onnxruntime():
    findings = doctor.check_extras(REQUIREMENTS, {**BASE, "onnxruntime-gpu": "1.31"})
    assert only(findings, "export").detail == 'without torch: pip install "torch>=2.9"'


def test_the_cache(tmp_path):
    folder = tmp_path / "cache" / "edgereel"
    (finding,) = doctor.check_cache(folder)
    assert (finding.status, finding.detail) == (OK, f"{folder}, not made yet")
    folder.mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_bytes(bytes(1234))
    (finding,) = doctor.check_cache(folder)
    assert (finding.status, finding.detail) == (OK, f"{folder}, 1 KiB used")
    assert finding.facts == {"path": str(folder), "bytes": 1234, "writable": True}
    assert [path.name for path in folder.iterdir()] == ["sub"]


def test_a_cache_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    folders = [tmp_path / "file"]
    if Path("/proc/self").is_dir():
        folders.append(Path("/proc/cache"))
    if os.name != "nt" and os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        folders.append(tmp_path / "locked")
    for folder in folders:
        (finding,) = doctor.check_cache(folder)
        assert finding.status == WARN
        assert finding.facts["writable"] is False
        assert f"{folder} cannot be written to" in finding.detail
        assert "EDGEREEL_CACHE" in finding.commands[0]


def test_the_bundle(tmp_path, demo_copy):
    (finding,) = doctor.check_bundle(DEMO_REEL)
    assert finding.status == OK
    (demo_copy / "decoder.data").write_bytes(b"short")
    (finding,) = doctor.check_bundle(demo_copy)
    assert finding.status == MISSING
    assert "decoder.data: is 5 bytes" in finding.reason
    edit_manifest(demo_copy, lambda data: data.update(schema=99))
    assert "schema 99 is newer" in doctor.check_bundle(demo_copy)[0].detail
    assert "no such bundle folder" in doctor.check_bundle(tmp_path / "missing")[0].detail


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgereel", "doctor", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def plant(monkeypatch, packages, probed, gpus=([], "")):
    monkeypatch.setattr(doctor, "installed_packages", lambda: packages)
    monkeypatch.setattr(doctor, "requirements_of", lambda _: REQUIREMENTS)
    monkeypatch.setattr(doctor, "probe", lambda: probed)
    monkeypatch.setattr(doctor, "find_gpus", lambda: gpus)


def test_all_is_well(run, monkeypatch):
    plant(monkeypatch, {**BASE, "onnxruntime": "1.31"}, WORKING)
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.endswith("ready to make videos\n")
    for part in ("machine", "none found", f"edgereel {__version__}", "onnxruntime 1.31", "cpu", "runs", "bench"):
        assert part in out
    code, out, err = run("--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["ready"], report["to_do"]) == (True, [])
    assert {finding["section"] for finding in report["findings"]} == {
        "machine",
        "packages",
        "engines",
        "extras",
        "files",
    }
    assert report["findings"][0]["facts"]["cores"] == machine.usable_cores()


def test_two_onnxruntimes_on_the_screen(run, monkeypatch):
    plant(monkeypatch, {**BASE, "onnxruntime": "1.31", "onnxruntime-gpu": "1.31"}, WORKING)
    code, out, _ = run()
    assert code == 0
    assert "warn" in out
    assert out.endswith(
        'install one:\n    pip uninstall -y onnxruntime onnxruntime-gpu\n    pip install "edgereel[cpu]"\n'
    )


def test_nothing_to_run_models_with(run, monkeypatch):
    plant(monkeypatch, BASE, NO_RUNTIME)
    code, out, err = run()
    assert (code, err) == (1, "")
    assert "no video can be made yet" in out
    assert out.endswith('which runs the models:\n    pip install "edgereel[cpu]"\n')
    code, out, _ = run("--json")
    assert code == 1
    assert json.loads(out)["to_do"][0]["commands"] == ['pip install "edgereel[cpu]"']


def test_without_torch_and_onnxruntime_for_real(tmp_path):
    """In a process where importing them fails, and on to the processes that this one starts."""
    blocked = ["torch", "diffusers", "transformers", "onnx", "onnxruntime"]
    for name in blocked:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name={name!r})")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from edgereel.__main__ import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "doctor", "--json"], capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    engine = next(f for f in json.loads(ended.stdout)["findings"] if f["name"] == "cpu")
    assert 'pip install "edgereel[cpu]"' in engine["detail"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c(run, monkeypatch):
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    plant(monkeypatch, BASE, NO_RUNTIME)
    monkeypatch.setattr(doctor, "probe", interrupted)
    assert run() == (130, "", "edgereel: interrupted\n")
