"""Stand-ins for CUDA's libraries, made for one build of ONNX Runtime's CUDA provider out of the names that it asks for.

`build` downloads onnxruntime-gpu and CUDA's headers (260 MB and 3 MB, once), and leaves in a folder `site/`, the unpacked
wheel, and `libraries/`, the stand-ins. Needs g++ and readelf.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

from gpu_stand_ins.libraries import source_of

HERE = Path(__file__).parent
PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
_HEADERS = {12: "nvidia-cuda-runtime-cu12", 13: "nvidia-cuda-runtime"}
_COMMON_HEADERS = "nvidia-cuda-crt"
# By what their functions' names begin with; the first that fits.
_OF = (
    ("cudart", r"_*cuda[A-Z]"),
    ("cublasLt", r"cublasLt"),
    ("cublas", r"cublas"),
    ("cudnn", r"cudnn"),
    ("curand", r"curand"),
    ("cufft", r"cufft"),
    ("nvrtc", r"nvrtc"),
    ("cuda", r"cu[A-Z]"),
)


def build(version: str, folder: Path) -> Path:
    """Return FOLDER/VERSION, made if it is not there. Raises CalledProcessError where something cannot be had or compiled."""
    place = folder / version
    if (place / "done").exists():
        return place
    site, libraries = place / "site", place / "libraries"
    libraries.mkdir(parents=True, exist_ok=True)
    _unpack(_download(f"onnxruntime-gpu=={version}", place), site)
    provider = site / PROVIDER
    needed = re.findall(r"NEEDED.*\[lib(\w+)\.so\.(\d+)\]", _readelf("-d", provider))
    majors = {name: int(major) for name, major in needed}
    functions = _functions(provider)
    headers = place / "headers"
    for package in (_HEADERS[majors["cudart"]], _COMMON_HEADERS):
        _unpack(_download(package, place), headers)
    # Both packages have an `include/`: they are looked through one after the other.
    include = sorted(
        {path.parent for path in headers.rglob("cuda_runtime_api.h")}
        | {path.parent.parent for path in headers.rglob("crt/host_defines.h")}
    )
    wanted = {name: major for name, major in majors.items() if any(name == each for each, _ in _OF)}
    wanted |= {"cuda": 1, "cudnn": 9}  # the driver, and what is loaded by name when the first convolution is made
    for name, major in wanted.items():
        sources = [libraries / f"{name}.cpp"]
        written: set[str] = set()
        if name == "cudart":
            sources.append(HERE / "cudart.cpp")
            written = set(re.findall(r"EXPORT [^;{]*?\b(\w+)\(", sources[1].read_text()))
        sources[0].write_text(source_of(name, functions[name] - written))
        _compile(name, major, sources, libraries, include)
    (place / "done").touch()
    return place


def _functions(provider: Path) -> dict[str, set[str]]:
    """Return what the provider asks of each library: what the loader must find, and cuDNN's functions, which it looks up."""
    names = re.findall(r" UND (\w+)", _readelf("-W", "--dyn-syms", provider))
    names += {text.decode() for text in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", provider.read_bytes())}
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        library = next((library for library, pattern in _OF if re.match(pattern, name)), None)
        if library is not None:
            found[library].add(name)
    return found


def _compile(name: str, major: int, sources: list[Path], libraries: Path, include: list[Path]) -> None:
    soname = f"lib{name}.so.{major}"
    versions = libraries / f"{name}.versions"
    versions.write_text(f"{soname} {{ global: *; }};\n")
    _run(
        *("g++", "-shared", "-fPIC", "-O1", "-w", *(f"-I{each}" for each in include), *sources),
        *(f"-Wl,-soname,{soname}", f"-Wl,--version-script={versions}", "-o", str(libraries / soname)),
    )


def _download(requirement: str, folder: Path) -> Path:
    target = folder / "wheels"
    target.mkdir(exist_ok=True)
    before = set(target.iterdir())
    _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(target), requirement)
    name = re.split(r"[=<>]", requirement)[0].replace("-", "_")
    made = sorted(path for path in target.iterdir() if path.name.startswith(f"{name}-") or path not in before)
    return made[-1]


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def _readelf(*arguments: object) -> str:
    return _run("readelf", *map(str, arguments))


def _run(*command: object) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
