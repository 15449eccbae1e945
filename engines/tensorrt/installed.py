"""Whether TensorRT can be used on this machine, found out without touching a GPU."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from typing import Any

from ...core import machine
from ...core.errors import EngineError, MissingExtraError, brief
from ...core.interrupts import interrupts_wait
from ..nvidia import NO_GPU, is_jetson, is_thor, with_jetson
from .device_memory import import_cudart
from .versions import Features, features_of, parse_version, supports_card

_INSTALL = 'pip install "edgereel[tensorrt]"'
# The extra leaves it out on Arm, for the sake of Jetson boards; NVIDIA's packages for Arm servers are of CUDA 13 alone.
_INSTALL_ON_ARM = 'pip install "edgereel[tensorrt]" tensorrt-cu13'
_INSTALL_ON_JETSON = (
    "sudo apt install python3-libnvinfer, and use a virtual environment made with --system-site-packages"
)
_LONGEST_QUOTE = 300
_CUDA_13_DRIVER = 580
"""The first series of NVIDIA's drivers that runs CUDA 13; those before end in `cudaErrorInsufficientDriver`."""


def import_tensorrt() -> Any:
    """Return NVIDIA's tensorrt. No device is touched.

    Raises EngineError with the command that installs it where it is missing, is a placeholder, or cannot be loaded.
    """
    try:
        with interrupts_wait():
            import tensorrt
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise EngineError(f"tensorrt lacks a part of it, {error.name}: {install_command()}") from error
        raise EngineError(f"the tensorrt engine needs tensorrt, which is not installed: {install_command()}") from error
    except (ImportError, OSError, RuntimeError) as error:
        text = brief(error, _LONGEST_QUOTE)
        raise EngineError(f"tensorrt is installed but cannot be loaded ({text}): {install_command()}") from error
    # PyPI's first packages of that name hold nothing, and what an uninstalled one leaves behind still imports.
    if not hasattr(tensorrt, "Builder") or not hasattr(tensorrt, "OnnxParser"):
        raise EngineError(f"tensorrt is installed as a placeholder without its libraries: {install_command()}")
    return tensorrt


def install_command() -> str:
    """Return the command that installs tensorrt on this machine; on Jetson boards before Thor it comes with JetPack."""
    if platform.machine() != "aarch64":
        return _INSTALL
    return _INSTALL_ON_ARM if is_thor() or not is_jetson() else _INSTALL_ON_JETSON


def find_card() -> machine.Gpu:
    """Return the first NVIDIA GPU; of a Jetson board whose nvidia-smi does not tell, what is known of it.

    Raises EngineError where there is none, or the driver does not answer.
    """
    gpus, problem = machine.find_gpus()
    known = with_jetson(tuple(gpus), machine.read_machine().model)
    if known:
        return known[0]
    raise EngineError(f"{problem}: nvidia-smi" if problem else NO_GPU)


def require_card(features: Features, card: machine.Gpu, version: str) -> None:
    """Raise EngineError where a card is too old for a version of TensorRT."""
    if not supports_card(features, card.compute_capability):
        needed = ".".join(map(str, features.compute_capability))
        raise EngineError(
            f"TensorRT {version} needs a card of compute capability {needed}, {card.name} has "
            f"{card.compute_capability}: run with --engine cpu"
        )


def require_driver(card: machine.Gpu) -> None:
    """Raise EngineError where the installed cuda-python is too new for the card's driver, as far as both tell."""
    driver = re.match(r"\d+", card.driver)
    bindings = _cuda_python_version()
    if driver and int(driver[0]) < _CUDA_13_DRIVER and bindings.partition(".")[0] == "13":
        raise EngineError(
            f"cuda-python {bindings} needs NVIDIA's driver {_CUDA_13_DRIVER} or newer, and this one is {card.driver}: "
            'pip install "cuda-python<13"'
        )


def _cuda_python_version() -> str:
    for package in ("cuda-bindings", "cuda-python"):  # from 12.6 on the first is what the second consists of
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def why_unavailable() -> str | None:
    """Return in one line what is missing and the command for it, None where nothing is."""
    try:
        card = find_card()
        trt = import_tensorrt()
        require_card(features_of(parse_version(trt.__version__)), card, trt.__version__)
        import_cudart()
        require_driver(card)
    except (EngineError, MissingExtraError) as error:
        return str(error)
    return None
