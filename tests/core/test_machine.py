"""What the machine says of itself, and an nvidia-smi that says nothing sensible."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import DEMO_REEL

import edgereel
from edgereel.core.errors import UsageError
from edgereel.core.machine import (
    Gpu,
    Machine,
    check_threads,
    find_gpus,
    free_gpu_memory,
    parse_cpuinfo,
    parse_gpus,
    parse_meminfo,
    read_machine,
)
from edgereel.doctor import report as doctor
from edgereel.doctor.report import WARN

pytestmark = pytest.mark.lean


def test_x86_instruction_sets():
    text = "processor : 0\nmodel name : A: fast one\nflags : fpu avx2 avx512f avx_vnni amx_tile avx512_bf16\n\nflags : fpu\n"
    assert parse_cpuinfo(text) == ("A: fast one", ("AVX2", "AVX-512", "VNNI", "AMX", "bf16"))


def test_arm_instruction_sets():
    text = "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16\n"
    assert parse_cpuinfo(text) == ("", ("bf16", "NEON", "dot product", "i8mm", "fp16"))


def test_what_is_not_told_is_not_made_up(tmp_path):
    assert parse_cpuinfo("") == ("", None)
    assert parse_meminfo("rubbish\nMemTotal: many kB\n") == (None, None)
    assert parse_meminfo("MemTotal:  100 kB\nMemAvailable: 50 kB\n") == (102400, 51200)
    found = read_machine(tmp_path)
    assert found.instruction_sets is None
    assert found.processor
    assert found.cores >= 1
    text = " ".join(finding.detail for finding in doctor.check_machine(found))
    assert "instruction sets not known" in text


def test_a_computer_with_a_name(tmp_path):
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"Orin \x1b[31mNano\0")
    assert read_machine(tmp_path).model == r"Orin \x1b[31mNano"


def test_machine_findings():
    findings = doctor.check_machine(Machine("Linux", "CPU", 1, ("AVX2",), 16_000_000_000, 900_000_000, "Board"))
    assert [finding.detail for finding in findings] == [
        "Linux, Board",
        "CPU, 1 usable core, AVX2",
        "14.90 GiB, 858 MiB free",
    ]


def script(folder, text):
    """Return the command that runs a shell script in the place of nvidia-smi."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return (str(path),)


def test_gpus_are_read(tmp_path):
    gpus, problem = parse_gpus("NVIDIA H100, 80GB, 81559, 9.0, 580.95\nOrin (nvgpu), [N/A], 8.7, 540.4.0\n")
    assert problem == ""
    assert gpus == [
        Gpu("NVIDIA H100, 80GB", 81559 * 2**20, "9.0", "580.95"),
        Gpu("Orin (nvgpu)", None, "8.7", "540.4.0"),
    ]
    details = [finding.detail for finding in doctor.check_gpus(gpus, "")]
    assert details == [
        "NVIDIA H100, 80GB, 79.65 GiB, compute capability 9.0, driver 580.95",
        "Orin (nvgpu), memory not known, compute capability 8.7, driver 540.4.0",
    ]


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo No devices were found; exit 6", ""),
        ("true", ""),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "nvidia-smi failed: Failed to"),
        ("exit 3", "nvidia-smi failed: exit code 3"),
        ("echo '<xml>'", "nvidia-smi gave an answer that cannot be read: <xml>"),
        ("printf 'a,\\377\\033[31m,,\\n'", r"cannot be read: a,�\x1b[31m,,"),
    ],
)
def test_answers_of_nvidia_smi_without_a_gpu(tmp_path, text, problem):
    gpus, said = find_gpus(script(tmp_path, text), timeout=60)
    assert gpus == []
    assert problem in said
    (finding,) = doctor.check_gpus(gpus, said)
    assert (finding.status, bool(finding.reason)) == ((WARN, True) if problem else ("information", False))
    if not problem:
        assert said == ""
        assert finding.detail == "none found"


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_an_nvidia_smi_that_hangs(tmp_path):
    started = time.monotonic()
    gpus, problem = find_gpus(script(tmp_path, "sleep 30"), timeout=0.3)
    assert time.monotonic() - started < 10
    assert (gpus, problem) == ([], "nvidia-smi did not answer within 0.3 s: the driver hangs")


@pytest.mark.parametrize(
    ("answer", "free"),
    [
        ("echo 7800", 7800 * 2**20),
        ("echo 7800; echo 5", 7800 * 2**20),
        ("echo '[N/A]'", None),
        ("exit 9", None),
        ("", None),
    ],
)
def test_free_memory_of_the_gpu(tmp_path, answer, free):
    assert free_gpu_memory(script(tmp_path, answer), timeout=60) == free


def test_free_memory_of_a_gpu_whose_driver_hangs(tmp_path):
    assert free_gpu_memory(script(tmp_path, "sleep 30"), timeout=0.3) is None


def test_no_nvidia_smi(tmp_path):
    assert find_gpus((str(tmp_path / "nvidia-smi"),)) == ([], "")
    (tmp_path / "nvidia-smi").write_text("not executable")
    gpus, problem = find_gpus((str(tmp_path / "nvidia-smi"),))
    assert gpus == []
    assert "cannot be started" in problem


HOLES = """
import sys
import numpy as np
from edgereel.core import machine

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "at once":
    machine.give_back_large_blocks()
np.ones(24 * 2**20, np.uint8)  # glibc learns from the end of this one to keep such blocks
before = resident()
blocks = [np.ones(8 * 2**20, np.uint8) for _ in range(20)]
del blocks[:-1]
print((resident() - before) // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux" or "glibc" not in platform.libc_ver(), reason="a way of glibc's")
@pytest.mark.parametrize("how", ["at once", "later"])
def test_large_blocks_go_back_to_the_system(how):
    """Freed blocks below one that is in use stay with the process, unless each is given back by itself."""
    ended = subprocess.run([sys.executable, "-c", HOLES, how], capture_output=True, text=True, timeout=60)
    kept = int(ended.stdout)
    assert kept < 20 if how == "at once" else kept > 100


THREADS_NOT_POSSIBLE = ["2", 2.5, 0, -1, 2**31, 10**20, float("inf"), b"2"]


@pytest.mark.parametrize("threads", THREADS_NOT_POSSIBLE, ids=str)
def test_numbers_of_threads_that_the_machine_has_no_use_for(threads):
    with pytest.raises(UsageError, match=r"threads.*choose 1 to "):
        check_threads(threads)


def test_numbers_of_threads(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert [check_threads(threads) for threads in (None, 1, 12, np.int64(2))] == [None, 1, 12, 2]
    assert type(check_threads(np.int64(2))) is int
    with pytest.raises(UsageError, match="13 threads are not possible: choose 1 to 12"):
        check_threads(13)


@pytest.mark.extras
@pytest.mark.parametrize("threads", [THREADS_NOT_POSSIBLE[1], *THREADS_NOT_POSSIBLE[4:6]], ids=str)
def test_threads_are_checked_wherever_python_asks_for_them(threads, tmp_path):
    for package in ("psutil", "matplotlib", "ml_dtypes"):  # of the extras that these parts need
        pytest.importorskip(package)
    from edgereel.bench.run import run_bench
    from edgereel.calibration import calibrate, quantize
    from edgereel.calibration.compare import compare_bundles

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball bounces over the ocean\n")
    stats, smaller = tmp_path / "stats.safetensors", tmp_path / "a.reel"
    asked = [
        lambda: edgereel.load(threads=threads),
        lambda: run_bench(threads=threads),
        lambda: calibrate(DEMO_REEL, prompts, stats, threads=threads),
        lambda: quantize(DEMO_REEL, smaller, precision="int8", prompts=prompts, threads=threads),
        lambda: list(
            compare_bundles(DEMO_REEL, DEMO_REEL, prompts=["a red ball bounces over the ocean"], threads=threads)
        ),
    ]
    for ask in asked:
        with pytest.raises(UsageError, match=re.escape(str(threads))):
            ask()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt"]
