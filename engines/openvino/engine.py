"""OpenVINO on CPU cores. It reads the bundle's canonical graphs, since it has kernels for their high-level operators.

What it compiles is not kept: it holds all weights once more, and is made in seconds. See ENGINES for its name.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...core.errors import EngineError, MissingExtraError, brief, require_packages
from ...core.interrupts import interrupts_wait, temporary_folder
from ...core.machine import usable_cores
from ...core.offline import openvino_finds_no_reporter
from ..base import Engine, EngineReport, Session
from ..graphs.operators import check_operators, declared_names
from ..graphs.parts import canonical_part
from ..graphs.read import read_graph, reading
from ..options import Compute, EngineOptions, Part, Shapes
from .session import OpenVinoSession, precision_of

EXTRA = "openvino"
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino(Engine):
    """Opens graphs with OpenVINO's CPU plugin.

    fixed_shapes: it is told the shapes of all runs, which its kernels are chosen by.
    """

    name = "openvino"
    fixed_shapes = True

    def __init__(self, compute: Compute = "float32", cache: Path | None = None) -> None:
        """compute: what it calculates in where options do not say: float32, or bfloat16 where the processor has it.

        cache: a folder to keep what is compiled in, None for nowhere.
        """
        self.compute = compute
        self._cache = cache

    def unavailable(self) -> str | None:
        """See Engine.unavailable."""
        try:
            import_openvino()
        except (EngineError, MissingExtraError) as error:
            return str(error)
        return None

    def open(self, graph_path: Path, options: EngineOptions) -> Session:
        """Open a graph; see Engine.open."""
        openvino = import_openvino()
        compute = self._compute(options)
        if options.weight_budget is not None:
            raise EngineError(
                "the openvino engine holds all weights of a graph at once: give it more memory, or use --engine cpu"
            )
        check_operators(read_graph(graph_path), graph_path.name)
        threads = options.threads or usable_cores()
        settings = cpu_settings(PRECISIONS[compute], threads, options.activations == "dynamic")
        started = time.perf_counter()
        with reading(graph_path.name), _model_file(graph_path, options.part) as path:
            try:
                core = openvino.Core()
                if self._cache is not None:
                    core.set_property({"CACHE_DIR": str(self._cache)})
                if options.shapes is None:
                    compiled = core.compile_model(path, "CPU", settings)
                else:
                    model = core.read_model(path)
                    model.reshape(_shapes(options.shapes))
                    compiled = core.compile_model(model, "CPU", settings)
            except Exception as error:  # the library's own, and what its frontend raises
                raise EngineError(f"cannot open {graph_path.name} with OpenVINO: {brief(error)}") from error
            seconds = time.perf_counter() - started
            cached = self._cache is not None and bool(compiled.get_property("LOADED_FROM_CACHE"))
            report = EngineReport(
                self.name,
                "CPU",
                precision_of(compiled),
                f"openvino {_version(openvino)}",
                threads,
                build="cache" if cached else "built",
                build_seconds=0.0 if cached else seconds,
            )
            return OpenVinoSession(compiled, declared_names(read_graph(path)), graph_path.name, report)

    def numerics(self, options: EngineOptions) -> dict[str, str]:
        """Name the version and the type that is calculated in; kernels are chosen by shapes. See Engine.numerics."""
        return {
            "engine": self.name,
            "version": _version(import_openvino()),
            "machine": platform.machine(),
            "compute": self._compute(options),
            "activations": options.activations,
            "shapes": repr(options.shapes),
        }

    def _compute(self, options: EngineOptions) -> Compute:
        compute = options.compute or self.compute
        if compute not in PRECISIONS:
            raise EngineError(f"the openvino engine calculates in {' or '.join(PRECISIONS)}, not in {compute}")
        return compute


def cpu_settings(precision: str, threads: int, by_token: bool = False) -> dict[str, Any]:
    """Return the CPU plugin's settings. precision: as it names them. by_token: quantize activations with a scale for each token.

    The other cores are left alone: contenders take turns, and pinned threads of one would sit where another's are.
    """
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    # A group as long as the row: one scale for each token, as ours.
    return {**settings, "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(2**64 - 1)} if by_token else settings


def import_openvino() -> Any:
    """Return the module, imported so that it reports nothing to its makers.

    Raises MissingExtraError where it is not installed, EngineError where it cannot be loaded.
    """
    require_packages(("openvino",), EXTRA, "the openvino engine")
    try:
        with interrupts_wait(), openvino_finds_no_reporter():
            import openvino
    except ImportError as error:
        raise EngineError(f"openvino is installed but cannot be loaded: {brief(error)}") from error
    return openvino


def _version(openvino: Any) -> str:
    return str(openvino.__version__).split("-")[0]


@contextmanager
def _model_file(graph_path: Path, part: Part | None) -> Iterator[Path]:
    """Give the file of a graph, or of a part of it in a folder of its own, with the weights: OpenVINO follows no links."""
    if part is None:
        yield graph_path
        return
    content = canonical_part(graph_path, part)
    from ..lowering.summary import graph_data_files

    with temporary_folder("edgereel-part-") as folder:
        path = folder / graph_path.name
        path.write_bytes(content)
        for data in graph_data_files(graph_path, content):
            try:
                os.link(data, folder / data.name)
            except OSError:  # another file system
                shutil.copyfile(data, folder / data.name)
        yield path


def _shapes(shapes: Shapes) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes}
