"""What a container allows is found in every enclosing control group, of version 1 and 2; planted trees and real groups."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgereel.core import machine
from edgereel.core.container import MemoryLimit, Quota, memory_limit, processor_quota
from edgereel.core.machine import find_cores, free_host_memory, read_machine, usable_cores
from edgereel.doctor.report import check_machine
from edgereel.runtime.memory.budget import LEAST_MARGIN_OF_GROUP, budget_of

MIB = 2**20
PROMPT = "a red ball bounces over the ocean"


def plant(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def v2(root, own, groups, mount="sys/fs/cgroup", top="/"):
    """Plant a hierarchy of version 2: groups by their paths below the mount, each a table of files."""
    plant(root, {"proc/self/cgroup": f"0::{own}\n"})
    plant(root, {"proc/self/mountinfo": f"30 23 0:26 {top} /{mount} rw,nosuid - cgroup2 cgroup2 rw\n"})
    for group, files in groups.items():
        plant(root, {f"{mount}/{group}/{name}": f"{text}\n" for name, text in files.items()})


def v1(root, controllers, own, groups):
    """Plant a hierarchy of version 1; controllers: as they are mounted, such as "cpu,cpuacct"."""
    mount = f"sys/fs/cgroup/{controllers}"
    with_others = f"9:name=systemd:/\n4:{controllers}:{own}\n0::/\n"
    plant(root, {"proc/self/cgroup": with_others})
    plant(
        root,
        {
            "proc/self/mountinfo": f"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
            f"35 31 0:32 / /{mount} rw,relatime shared:9 - cgroup cgroup rw,{controllers}\n"
        },
    )
    for group, files in groups.items():
        plant(root, {f"{mount}/{group}/{name}": f"{text}\n" for name, text in files.items()})


@pytest.mark.parametrize("limited", ["", "a", "a/b"])
def test_memory_of_every_enclosing_group_v2(tmp_path, limited):
    files = {"memory.max": 420 * MIB, "memory.current": 100 * MIB, "memory.stat": f"inactive_file {MIB}\nactive_file 5"}
    none = {"memory.max": "max", "memory.high": "max", "memory.current": 5}
    v2(tmp_path, "/a/b", {"": none, "a": none, "a/b": none} | {limited: files})
    assert memory_limit(tmp_path) == MemoryLimit(420 * MIB, 321 * MIB + 5, f"/{limited}")
    assert free_host_memory(tmp_path) == 321 * MIB + 5


def test_the_group_with_least_left_decides(tmp_path):
    v2(
        tmp_path,
        "/a/b",
        {
            "a": {"memory.max": 1000 * MIB, "memory.current": 990 * MIB},  # its other groups have taken it
            "a/b": {"memory.max": 400 * MIB, "memory.current": 10 * MIB},
        },
    )
    assert memory_limit(tmp_path) == MemoryLimit(1000 * MIB, 10 * MIB, "/a")


def test_memory_above_which_a_process_is_held_up(tmp_path):
    v2(tmp_path, "/a", {"a": {"memory.max": "max", "memory.high": 300 * MIB, "memory.current": 0}})
    assert memory_limit(tmp_path) == MemoryLimit(300 * MIB, 300 * MIB, "/a")


@pytest.mark.parametrize("limited", ["", "docker", "docker/12ab"])
def test_memory_of_every_enclosing_group_v1(tmp_path, limited):
    none = {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 5}
    files = {"memory.limit_in_bytes": 420 * MIB, "memory.usage_in_bytes": 420 * MIB}
    files["memory.stat"] = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {100 * MIB}\ntotal_active_file {MIB}"
    v1(tmp_path, "memory", "/docker/12ab", {"": none, "docker": none, "docker/12ab": none} | {limited: files})
    assert memory_limit(tmp_path) == MemoryLimit(420 * MIB, 101 * MIB, f"/{limited}")


def test_a_container_that_sees_the_host_s_path_of_its_group(tmp_path):
    """Without a namespace of its own: the mount shows the container's group at its top, a group within it below."""
    files = {"memory.max": 50 * MIB, "memory.current": 0}
    v2(
        tmp_path,
        "/docker/12ab/job",
        {"job": files, "": {"memory.max": 90 * MIB, "memory.current": 0}},
        top="/docker/12ab",
    )
    assert memory_limit(tmp_path) == MemoryLimit(50 * MIB, 50 * MIB, "/job")
    plant(tmp_path, {"proc/self/cgroup": "0::/docker/34cd\n", "sys/fs/cgroup/job/memory.max": "max\n"})
    assert memory_limit(tmp_path) == MemoryLimit(90 * MIB, 90 * MIB, "/")


@pytest.mark.parametrize("own", ["/../..", "/../34cd"])
def test_a_group_outside_of_what_the_container_sees(tmp_path, own):
    v2(tmp_path, own, {"": {"memory.max": 90 * MIB, "memory.current": 0}})
    plant(tmp_path, {"sys/fs/34cd/memory.max": "5\n"})
    assert memory_limit(tmp_path) == MemoryLimit(90 * MIB, 90 * MIB, "/")


def test_both_versions_at_once_and_mounts_in_unusual_places(tmp_path):
    v1(tmp_path, "cpu,cpuacct", "/one", {"one": {"cpu.cfs_quota_us": 150000, "cpu.cfs_period_us": 100000}})
    plant(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/one\n0::/two\n",
            "proc/self/mountinfo": "35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
            r"36 31 0:33 / /mnt/my\040groups rw - cgroup2 none rw" + "\nnonsense\n",
            "mnt/my groups/two/memory.max": f"{7 * MIB}\n",
            "mnt/my groups/two/cpu.max": "max 100000\n",
        },
    )
    assert memory_limit(tmp_path) == MemoryLimit(7 * MIB, 7 * MIB, "/two")
    assert processor_quota(tmp_path) == Quota(1.5, "/one")


@pytest.mark.parametrize("text", ["max\n", "rubbish", "", "-5\n", f"{2**62}\n", "\xff"])
def test_what_is_no_limit(tmp_path, text):
    v2(tmp_path, "/a", {"a": {"memory.current": 5}})
    plant(tmp_path, {"sys/fs/cgroup/a/memory.max": text, "sys/fs/cgroup/a/cpu.max": text})
    assert memory_limit(tmp_path) is None
    assert processor_quota(tmp_path) is None


@pytest.mark.parametrize("text", ["max 100000", "-1 100000", "50000", "0 100000", "5 0", "a b"])
def test_what_is_no_quota(tmp_path, text):
    v2(tmp_path, "/", {"": {"cpu.max": text}})
    assert processor_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(10_000, 1), (100_000, 1), (100_001, 2), (250_000, 3), (900_000, 4)])
@pytest.mark.parametrize("group", ["", "a", "a/b"])
def test_usable_cores_are_the_quota_rounded_up(tmp_path, monkeypatch, quota, cores, group):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    v2(tmp_path, "/a/b", {"a": {"cpu.max": "max 100000"}, group: {"cpu.max": f"{quota} 100000"}})
    assert usable_cores(tmp_path) == cores
    why = find_cores(tmp_path).why
    assert why.startswith("of 16: ")
    assert (f"/{group} has a quota" in why) == (cores < 4)
    assert ("is bound to them" in why) == (cores == 4)


def test_usable_cores_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert find_cores(tmp_path) == machine.Cores(16)
    v1(tmp_path, "cpu", "/a", {"a": {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000}})
    assert find_cores(tmp_path) == machine.Cores(16)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


def test_doctor_says_what_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    v2(
        tmp_path,
        "/a\x1b[31m",
        {"": {"cpu.max": "50000 100000", "memory.max": 420_000_000, "memory.current": 20_000_000}},
    )
    plant(tmp_path, {"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n"})
    details = [finding.detail for finding in check_machine(read_machine(tmp_path))]
    assert ", 1 usable core of 16: the control group / has a quota of 0.5 processors, " in details[1]
    assert details[2].endswith(" 7.63 GiB free; the control group / allows 401 MiB, 381 MiB of it left")


def test_the_budget_of_a_container(tmp_path):
    """Others on the machine cannot grow into what a group has left: the margin for them is smaller."""
    plant(tmp_path, {"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n"})
    v2(tmp_path, "/a", {"a": {"memory.max": 420 * MIB, "memory.current": 20 * MIB}})
    found = budget_of(None, "cpu", tmp_path)
    assert found.bytes == 400 * MIB - 40 * MIB
    assert "control group /a" in found.source
    plant(tmp_path, {"sys/fs/cgroup/a/memory.current": f"{320 * MIB}\n"})
    assert budget_of(None, "cpu", tmp_path).bytes == 100 * MIB - LEAST_MARGIN_OF_GROUP
    assert "of the 420 MiB that there are" in budget_of("1GiB", "cpu", tmp_path).source
    plant(tmp_path, {"sys/fs/cgroup/a/memory.max": f"{100 * 2**30}\n"})  # wider than the machine
    assert budget_of(None, "cpu", tmp_path).bytes == 8000000 * 1024 * 9 // 10


@contextmanager
def real_group(kind):
    """A new control group with one in it; gives the outer one. kind: memory or cpu."""
    roots = [Path("/sys/fs/cgroup") / kind, Path("/sys/fs/cgroup")]
    for root in roots:
        needed = {"memory": ("memory.limit_in_bytes", "memory.max"), "cpu": ("cpu.cfs_quota_us", "cpu.max")}[kind]
        outer = root / f"edgereel-test-{os.getpid()}"
        try:
            (outer / "inner").mkdir(parents=True)
        except OSError:
            continue
        try:
            if any((outer / name).exists() for name in needed):
                yield outer
                return
        finally:
            for _ in range(50):  # until the kernel has seen its processes end
                try:
                    (outer / "inner").rmdir()
                    outer.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)
    pytest.skip(
        f"no control group for {kind} can be made here: that takes root, and a hierarchy that can be written to"
    )


def run_in(group, *arguments):
    """Run a command of edgereel in the inner one of a pair of groups."""
    command = [sys.executable, "-m", "edgereel", *arguments]
    joining = f"echo $$ > '{group}/inner/cgroup.procs' && exec \"$@\""
    return subprocess.run(["sh", "-c", joining, "sh", *command], capture_output=True, text=True, timeout=600)


def test_a_real_memory_limit_of_an_enclosing_group(tmp_path):
    with real_group("memory") as group:
        limit = next(path for name in ("memory.limit_in_bytes", "memory.max") if (path := group / name).exists())
        limit.write_text(str(420 * MIB))
        small = ["--size", "64x64", "--frames", "5", "--steps", "1"]
        done = run_in(group, "generate", PROMPT, "-o", str(tmp_path / "a.mp4"), *small, "--json")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "a.mp4").exists()
        found = run_in(group, "doctor")
        assert f"{group.name} allows 420 MiB" in re.sub(r"\s+", " ", found.stdout), found.stdout


def test_a_real_quota_of_an_enclosing_group(tmp_path):
    with real_group("cpu") as group:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text("100000 100000")
        else:
            (group / "cpu.cfs_quota_us").write_text("100000")
        found = run_in(group, "doctor")
        assert ", 1 usable core" in re.sub(r"\s+", " ", found.stdout), found.stdout
        assert (machine.usable_cores() == 1) or f"{group.name} has a quota of 1 processors" in re.sub(
            r"\s+", " ", found.stdout
        )
