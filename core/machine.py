"""What the machine is made of, as far as it tells: processor, memory, NVIDIA GPUs. Nothing here raises."""

from __future__ import annotations

import contextlib
import ctypes
import operator
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .container import MemoryLimit, memory_limit, processor_quota, whole_processors
from .errors import UsageError, brief, one_line
from .system_files import read_text

# By the names that Linux gives in /proc/cpuinfo, x86 first, then Arm.
_INSTRUCTION_SETS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "AMX": {"amx_tile"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "NEON": {"asimd", "neon"},
    "dot product": {"asimddp"},
    "i8mm": {"i8mm"},
    "fp16": {"asimdhp"},
    "SVE": {"sve"},
}

THREADS_PER_CORE = 4
"""More threads than so many for each of the machine's cores are refused."""
_M_MMAP_THRESHOLD = -3
"""The name that mallopt(3) has for it in malloc.h."""
NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,compute_cap,driver_version",
    "--format=csv,noheader,nounits",
)
NVIDIA_SMI_FREE = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Machine:
    """Operating system, processor and memory. Sizes in bytes, None where the system does not tell.

    cores: those that this process may use; cores_why: what makes them fewer than there are, "" for nothing.
    instruction_sets: those that matter for matrix products, None where the system does not tell. model: of the whole
    computer, where it has a name, as single-board computers do. memory_limit: what a container allows, None for all.
    """

    system: str
    processor: str
    cores: int
    instruction_sets: tuple[str, ...] | None
    memory: int | None
    free_memory: int | None
    model: str = ""
    cores_why: str = ""
    memory_limit: MemoryLimit | None = None


@dataclass(frozen=True)
class Cores:
    """How many cores this process may use. why: what makes them fewer than there are, "" for nothing."""

    usable: int
    why: str = ""


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU. memory in bytes, None where the driver does not tell (it is shared, or another's)."""

    name: str
    memory: int | None
    compute_capability: str
    driver: str


def read_machine(root: Path = Path("/")) -> Machine:
    """Return what this machine is. root: where Linux keeps proc/ and sys/."""
    processor, instruction_sets = parse_cpuinfo(read_text(root / "proc/cpuinfo") or "")
    memory, free_memory = parse_meminfo(read_text(root / "proc/meminfo") or "")
    if memory is None and hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not processor and sys.platform == "darwin":
        processor = _output(("sysctl", "-n", "machdep.cpu.brand_string")).strip()
    cores = find_cores(root)
    return Machine(
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        processor=one_line(processor or platform.processor() or platform.machine()),
        cores=cores.usable,
        instruction_sets=instruction_sets,
        memory=memory,
        free_memory=free_memory,
        model=one_line((read_text(root / "proc/device-tree/model") or "").strip("\0 \n")),
        cores_why=cores.why,
        memory_limit=memory_limit(root),
    )


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: the least of what find_cores looks at."""
    return find_cores(root).usable


def find_cores(root: Path = Path("/")) -> Cores:
    """Return how many cores this process may use, and what decides.

    That is the least of the machine's cores, those it is bound to, and the time that a container's quota allows, rounded
    up. root: where Linux keeps proc/ and sys/.
    """
    there = machine_cores()
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    quota = processor_quota(root)
    allowed = there if quota is None else whole_processors(quota)
    usable = max(1, min(there, bound, allowed))
    if quota is not None and allowed < min(there, bound):
        group = one_line(quota.group)
        return Cores(usable, f"of {there}: the control group {group} has a quota of {quota.processors:.3g} processors")
    return Cores(usable, f"of {there}: this process is bound to them" if bound < there else "")


def machine_cores() -> int:
    """Return how many cores the machine has, whoever may use them."""
    return os.cpu_count() or 1


def check_threads(threads: object) -> int | None:
    """Return a number of threads that a user asks for as an int, None for None. Raises UsageError where it is none to start.

    More than a few for each core only get into one another's way, and thousands take minutes to start.
    """
    if threads is None:
        return None
    most = THREADS_PER_CORE * machine_cores()
    try:
        count = operator.index(threads)  # type: ignore[arg-type]  # what is no whole number raises
    except TypeError:
        raise UsageError(f"{threads!r} is no number of threads: choose 1 to {most}") from None
    if not 1 <= count <= most:
        raise UsageError(
            f"{count} threads are not possible: choose 1 to {most}, which is {THREADS_PER_CORE} for each of the machine's cores"
        )
    return int(count)


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...] | None]:
    """Return the processor's name ("" if not told) and its instruction sets (None if not told) from /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features"))
    if flags is None:
        return fields.get("model name", ""), None
    known = set(flags.split())
    return fields.get("model name", ""), tuple(name for name, any_of in _INSTRUCTION_SETS.items() if any_of & known)


def parse_meminfo(text: str) -> tuple[int | None, int | None]:
    """Return total and available memory in bytes from /proc/meminfo, None for what it does not tell."""
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        parts = line.replace(":", " ").split()
        if len(parts) >= 2 and parts[1].isdecimal():
            sizes[parts[0]] = int(parts[1]) * 1024
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def free_host_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of system memory that are free, a container's limit counted; None where that is not told."""
    machine = read_machine(root)
    left = None if machine.memory_limit is None else machine.memory_limit.left
    return min((count for count in (machine.free_memory, left) if count is not None), default=None)


def peak_host_memory() -> int | None:
    """Return the most memory that this process has held so far, in bytes; None where the system does not tell."""
    if os.name == "nt":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back_memory() -> None:
    """Have the C library return what was freed to the system: glibc keeps gigabytes of weights' memory for later."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def give_back_large_blocks() -> None:
    """Have the C library return each block of a megabyte or more to the system when it is freed, from now on.

    glibc does so at first, and moves the limit up to 32 MiB as such blocks come and go; what it keeps then lies in pieces.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def find_gpus(command: Sequence[str] = NVIDIA_SMI, timeout: float = 5) -> tuple[list[Gpu], str]:
    """Ask nvidia-smi for the NVIDIA GPUs; return them, and what went wrong ("" if nothing: there may be none).

    timeout: seconds; where the driver hangs, so does nvidia-smi.
    """
    output, problem = _ask_driver(command, timeout)
    return ([], problem) if problem or not output else parse_gpus(output)


def free_gpu_memory(command: Sequence[str] = NVIDIA_SMI_FREE, timeout: float = 5) -> int | None:
    """Return the bytes that are free on the first NVIDIA GPU; None where there is none, or it shares the machine's memory."""
    first = _ask_driver(command, timeout)[0].strip().partition("\n")[0].strip()
    return int(first) * 2**20 if first.isdecimal() else None


def _ask_driver(command: Sequence[str], timeout: float) -> tuple[str, str]:
    """Return what nvidia-smi answers ("" where there is no GPU), and what went wrong."""
    try:
        # Not subprocess.run: after its time limit it waits, and a process that hangs in the driver cannot be killed.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, errors="replace"
        )
    except FileNotFoundError:
        return "", ""
    except OSError as error:
        return "", f"nvidia-smi cannot be started: {brief(error)}"
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if process.stdout is not None:
            process.stdout.close()
        return "", f"nvidia-smi did not answer within {timeout:g} s: the driver hangs"
    if "no devices were found" in output.lower():
        return "", ""
    if process.returncode:
        return "", f"nvidia-smi failed: {one_line(brief(Exception(output))) or f'exit code {process.returncode}'}"
    return output, ""


def gpu_memory_of_process() -> int | None:
    """Return the bytes that this process holds on NVIDIA GPUs now; None where there is none or its driver does not tell."""
    nvml, handles = _nvml()
    try:
        running = [process for handle in handles for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    except Exception:  # an old driver, or one that hides processes
        return None
    held = [process.usedGpuMemory for process in running if process.pid == os.getpid()]
    return sum(held) if held and None not in held else None


@lru_cache(maxsize=1)
def _nvml() -> tuple[Any, list[Any]]:
    """Return NVIDIA's management library, initialised, and the handles of its GPUs; no handles where it cannot be used."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # not installed, or no driver
        return None, []


def parse_gpus(output: str) -> tuple[list[Gpu], str]:
    """Return the GPUs in the answer of NVIDIA_SMI, and what is wrong with it ("" if nothing)."""
    gpus = []
    for line in filter(None, map(str.strip, output.splitlines())):
        parts = [one_line(part.strip()) for part in line.rsplit(",", 3)]
        if len(parts) != 4 or not all(parts):
            return [], f"nvidia-smi gave an answer that cannot be read: {one_line(line[:100])}"
        name, memory, capability, driver = parts
        gpus.append(Gpu(name, int(memory) * 2**20 if memory.isdecimal() else None, capability, driver))
    return gpus, ""


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, errors="replace").stdout
    except (OSError, subprocess.SubprocessError):
        return ""
