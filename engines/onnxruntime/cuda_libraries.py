"""Are the libraries there that ONNX Runtime's CUDA provider loads? They are looked for by name, and loaded when asked for."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .common import version_numbers

DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
"""The driver's own library, which no Python package brings."""
_NEWEST = (99, 0)
_CUDNN_ATTENTION = (9, 0)
NO_DRIVER = f"the driver's library {DRIVER} is not found (install NVIDIA's driver): nvidia-smi"


def cuda_major(onnxruntime: Any) -> int | None:
    """Return the major version of CUDA that onnxruntime was built with, None where it does not say, as one without CUDA."""
    major = str(getattr(onnxruntime, "cuda_version", None) or "").partition(".")[0]
    return int(major) if major.isdecimal() else None


def lacking_libraries(onnxruntime: Any, card: tuple[int, int] | None = None) -> str | None:
    """Return in one line which libraries of CUDA an onnxruntime of that kind does not find, None where it finds all.

    card: compute capability, None where it is not known.
    """
    major = cuda_major(onnxruntime)
    if major is None:
        return None
    needed = needed_libraries(major, version_numbers(onnxruntime.__version__), card)
    missing = missing_libraries((*needed, DRIVER), Path(onnxruntime.__file__).parents[1])
    if DRIVER in missing:
        return NO_DRIVER
    if missing:
        return f'{", ".join(missing)} of CUDA {major} and cuDNN 9 not found: pip install "onnxruntime-gpu[cuda,cudnn]"'
    return None


def load_libraries(onnxruntime: Any) -> None:
    """Load the CUDA libraries of the nvidia-* packages, where the system's loader does not look."""
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            preload()


def needed_libraries(
    cuda_major: int,
    version: tuple[int, ...] = _NEWEST,
    card: tuple[int, int] | None = None,
    *,
    windows: bool = os.name == "nt",
) -> tuple[str, ...]:
    """Return the names of the CUDA and cuDNN libraries that the provider of an ONNX Runtime loads, beside the driver's.

    version: (major, minor) of ONNX Runtime. Those of the Linux provider are what `readelf -d` lists as needed in 1.26, 1.27,
    1.28 and 1.31; cuDNN is loaded when the first convolution is made. card: cuDNN computes attention on those of compute
    capability 9.0 and newer, with kernels that it compiles then and there, by NVRTC.
    """
    if windows:
        return (
            f"cudart64_{cuda_major}.dll",
            f"cublas64_{cuda_major}.dll",
            f"cublasLt64_{cuda_major}.dll",
            "cudnn64_9.dll",
        )  # NVRTC's name on Windows has the minor version too
    versioned = (f"lib{name}.so.{cuda_major}" for name in ("cudart", "cublas", "cublasLt"))
    older: tuple[str, ...] = ()
    if version < (1, 28):
        older = ("libcufft.so.11",) if cuda_major == 12 else ("libcufft.so.12", "libnvrtc.so.13")
    if card is not None and card >= _CUDNN_ATTENTION and not any("nvrtc" in name for name in older):
        older = (*older, f"libnvrtc.so.{cuda_major}")
    return (*versioned, "libcurand.so.10", "libcudnn.so.9", *older)


def missing_libraries(
    names: Iterable[str],
    site_packages: Path,
    *,
    environment: Mapping[str, str] = os.environ,
    known_to_loader: str | None = None,
) -> list[str]:
    """Return those of the libraries that are in none of the places where they are looked for.

    Those places are the nvidia-* packages in site_packages, which ONNX Runtime loads from by itself, the folders in the
    environment's library path, those of a conda environment, and what the system's loader knows (`ldconfig -p` prints it,
    known_to_loader).
    """
    bundled = {path.name for pattern in _PACKAGED for path in (site_packages / "nvidia").glob(pattern)}
    variable = "PATH" if os.name == "nt" else "LD_LIBRARY_PATH"
    # A conda environment's own libraries are found because its Python was linked to look there.
    folders = [Path(sys.prefix) / "lib", *map(Path, filter(None, environment.get(variable, "").split(os.pathsep)))]
    missing = [
        name for name in names if name not in bundled and not any((folder / name).is_file() for folder in folders)
    ]
    if not missing or os.name == "nt":
        return missing
    known = _ldconfig() if known_to_loader is None else known_to_loader
    listed = {line.split()[0] for line in known.splitlines() if "=>" in line}
    return [name for name in missing if name not in listed]


_PACKAGED = ("*/bin/*.dll", "*/bin/*/*.dll") if os.name == "nt" else ("*/lib/*.so*",)


@lru_cache(maxsize=1)
def _ldconfig() -> str:
    """Return what the loader knows; where it does not tell, nothing but what lies in the places that it always looks in."""
    for program in ("ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"):
        try:
            answer = subprocess.run((program, "-p"), capture_output=True, text=True, timeout=5, errors="replace")
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.returncode == 0:
            return answer.stdout
    if sys.platform != "linux":
        return ""
    places = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")
    return "\n".join(f"{path.name} => {path}" for place in places for path in Path(place).glob("lib*.so.*"))
