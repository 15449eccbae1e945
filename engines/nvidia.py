"""Which NVIDIA GPU is there, asked of its driver's own tool: no CUDA is loaded and the device is not touched."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..core import machine
from ..core.machine import Gpu, find_gpus, read_machine

NO_GPU = "no NVIDIA GPU is found (if there is one, install NVIDIA's driver until this lists it): nvidia-smi"
Capability = tuple[int, int]
"""Compute capability, (8, 9) for 8.9."""

# Where the GPU is a part of the processor, nvidia-smi may not tell the compute capability or not be there at all.
_JETSONS: Mapping[str, Capability] = {"Thor": (11, 0), "Orin": (8, 7), "Xavier": (7, 2)}


@lru_cache(maxsize=1)
def nvidia_gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return this machine's NVIDIA GPUs and what went wrong ("" if nothing), asked once for each process."""
    gpus, problem = find_gpus()
    return with_jetson(tuple(gpus), read_machine().model), problem


def is_jetson() -> bool:
    """Whether this is one of NVIDIA's Jetson boards."""
    return platform.machine() == "aarch64" and "jetson" in machine.read_machine().model.lower()


def is_thor() -> bool:
    """Whether this is a Jetson board whose packages are those of Arm servers: Thor, with JetPack 7."""
    return is_jetson() and "thor" in machine.read_machine().model.lower()


def shares_memory() -> bool:
    """Whether the first GPU's memory is the machine's, of which nvidia-smi tells no amount."""
    gpus, _ = nvidia_gpus()
    return bool(gpus) and gpus[0].memory is None


def with_jetson(gpus: tuple[Gpu, ...], model: str) -> tuple[Gpu, ...]:
    """Return the GPUs with what the model of the computer (machine.Machine.model) tells where nvidia-smi does not."""
    known = next((capability for name, capability in _JETSONS.items() if name in model), None)
    if known is None:
        return gpus
    text = f"{known[0]}.{known[1]}"
    if not gpus:
        return (Gpu(model, None, text, "not known"),)
    return tuple(gpu if capability_of(gpu) else Gpu(gpu.name, gpu.memory, text, gpu.driver) for gpu in gpus)


def capability_of(gpu: Gpu) -> Capability | None:
    """Return a GPU's compute capability, None where the driver does not tell."""
    found = re.fullmatch(r"(\d+)\.(\d+)", gpu.compute_capability.strip())
    return (int(found[1]), int(found[2])) if found else None


def no_fitting_gpu(fits: Callable[[Capability], bool], needed: str) -> str | None:
    """Return in one line why no GPU of this machine will do, None where one will.

    fits: whether a compute capability will do; one that is not known may. needed: those that do, in words.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return "the environment variable CUDA_VISIBLE_DEVICES hides all GPUs: unset CUDA_VISIBLE_DEVICES"
    gpus, problem = nvidia_gpus()
    if problem and not gpus:
        return f"{problem}: nvidia-smi"
    if not gpus:
        return NO_GPU
    known = [(gpu, capability_of(gpu)) for gpu in gpus]
    if any(capability is None or fits(capability) for _, capability in known):
        return None
    listed = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus)
    return f"it runs on GPUs of compute capability {needed}, and there is {listed}"
