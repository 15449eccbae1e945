"""What all engines made of ONNX Runtime share: importing it, a graph's interface, what runs where, what went wrong."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ...core.errors import Cancelled, EdgereelError, EngineError, MissingExtraError, OutOfMemory, brief, one_line
from ...core.interrupts import interrupts_wait
from ..graphs.operators import declared_names
from ..graphs.read import read_graph
from ..options import GraphSpecs, TensorInfo
from ..stopping import run_stoppable

Result = TypeVar("Result")

STATE = "state_"
"""What the names of inputs and outputs begin with that one run hands on to the next."""
LONGEST_QUOTE = 500
"""Characters of ONNX Runtime's messages that are quoted in ours: what matters may stand at their end."""
# ONNX Runtime has no kind of error for want of memory: the arena, the C++ library, CUDA and its libraries each say it in words.
_WANT_OF_MEMORY = (
    "failed to allocate",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "out_of_memory",
    "is smaller than requested bytes",
    "status_alloc_failed",
)
_QUIET = 4
"""The severity from which on ONNX Runtime writes to stderr: what it says of errors is in those that it raises."""
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class AssignedNode:
    """A node of an opened graph and the provider that runs it."""

    provider: str
    op_type: str
    name: str


def import_onnxruntime(package: str, extra: str, engine: str) -> Any:
    """Return the module onnxruntime. package, extra: what brings it for this engine.

    Raises MissingExtraError where it is not installed, EngineError where it cannot be loaded.
    """
    try:
        with interrupts_wait():
            import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise EngineError(f"onnxruntime is installed but lacks a module it needs: {error}") from error
        raise MissingExtraError(package, extra, f"the {engine} engine") from error
    except ImportError as error:
        raise EngineError(f"onnxruntime is installed but cannot be loaded: {brief(error, LONGEST_QUOTE)}") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left of the folder where one of two onnxruntimes was uninstalled still imports, as an empty package.
        raise EngineError("onnxruntime is installed but most of it is missing: edgereel doctor says how to repair it")
    # The environment switches reports off as edgereel is imported; a program may have imported onnxruntime before.
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def session_settings(onnxruntime: Any, graph_path: Path, threads: int, entries: Mapping[str, str]) -> Any:
    """Return onnxruntime.SessionOptions for a graph, with more configuration entries if an engine has any."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _QUIET
    # With it the whole run's memory is held twice from the second run on: as the first run's blocks, and as one for the plan.
    settings.enable_mem_pattern = False
    common = {
        "session.record_ep_graph_assignment_info": "1",
        "session.intra_op.allow_spinning": "0" if threads == 1 else "1",
        # Idle workers that spin between calls take cores away from the video encoder and everyone else.
        "session.force_spinning_stop": "1",
        # A lowered graph is opened from memory; its weights are where the canonical one has them.
        "session.model_external_initializers_file_folder_path": _folder_in_utf8(graph_path.resolve().parent),
    }
    for entry, value in {**common, **entries}.items():
        settings.add_session_config_entry(entry, value)
    return settings


def keep_order_of_use(onnxruntime: Any, settings: Any, model: str | bytes) -> None:
    """Let a graph that hands a state on, such as a decoder's, make it where it can be made, not at the very end.

    By default a decoder's next state is cut out last of all, so that everything it is made of stays till then: 21.4 GiB instead
    of 15.4 for Wan at 832x480. A denoiser takes a little more in this order (2.9 GiB instead of 2.3 for two blocks).
    """
    content = model if isinstance(model, bytes) else read_graph(Path(model))
    if any(name.startswith(STATE) for name in declared_names(content)):
        settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED


def open_stoppable(settings: Any, open_it: Callable[[], Result]) -> Result:
    """Return what `open_it` opens with these onnxruntime.SessionOptions; ctrl-C ends it, see stopping.run_stoppable."""

    def stop() -> None:
        if hasattr(settings, "set_load_cancellation_flag"):  # older releases open to the end
            settings.set_load_cancellation_flag(True)

    return run_stoppable(open_it, stop)


def model_to_open(graph_path: Path, lowered: bytes | None) -> str | bytes:
    """Return what onnxruntime.InferenceSession is to open: the lowered graph, or the canonical one where there is none."""
    if lowered is not None:
        return lowered
    return str(graph_path) if _is_utf8(graph_path) else read_graph(graph_path)


def _is_utf8(path: Path) -> bool:
    """Return whether a path is text: names on Linux are bytes, and Python writes those that are not UTF-8 in its own way."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _folder_in_utf8(folder: Path) -> str:
    """Return a path to a folder that ONNX Runtime's bindings can take. Raises EngineError where there is none."""
    if _is_utf8(folder):
        return str(folder)
    try:
        information = folder.stat()
        path = _open_folder(folder, information.st_dev, information.st_ino).path
        if os.path.samestat(os.stat(path), information):
            return path
    except OSError:
        pass
    raise EngineError(f"ONNX Runtime cannot read from {one_line(folder)}: its name is not UTF-8, rename the folder")


class _OpenFolder:
    """A folder that is kept open, and so has a second name."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY)
        self.path = f"/proc/self/fd/{self._descriptor}"

    def __del__(self) -> None:
        os.close(self._descriptor)


@lru_cache(maxsize=16)
def _open_folder(folder: Path, device: int, inode: int) -> _OpenFolder:
    """Segments of a graph are opened again and again, as long as its session is there."""
    return _OpenFolder(folder)


def graph_specs(session: Any) -> GraphSpecs:
    """Return the interface of a graph opened as an onnxruntime.InferenceSession."""
    return GraphSpecs(
        inputs={item.name: TensorInfo(dtype_of(item.type), tuple(item.shape)) for item in session.get_inputs()},
        outputs={item.name: TensorInfo(dtype_of(item.type), tuple(item.shape)) for item in session.get_outputs()},
    )


def dtype_of(onnx_type: str) -> str:
    """Return numpy's name of a type as ONNX Runtime writes it, `tensor(float)`."""
    return _DTYPES.get(onnx_type, onnx_type)


def version_numbers(text: str) -> tuple[int, ...]:
    """Return (major, minor) of a version such as `1.31.1`."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def check_inputs(graph_name: str, specs: GraphSpecs, dtypes: Mapping[str, str]) -> None:
    """Raise EngineError where an input is missing or unknown, or has another type than the graph takes."""
    if set(dtypes) != set(specs.inputs):
        missing = sorted(set(specs.inputs) - set(dtypes))
        unknown = sorted(set(dtypes) - set(specs.inputs))
        raise EngineError(f"{graph_name}: missing inputs {missing}, unknown inputs {unknown}")
    for name, dtype in dtypes.items():
        expected = specs.inputs[name].dtype
        if dtype != expected:
            raise EngineError(f"{graph_name}: input {name} is {dtype}, the graph takes {expected}")


def assigned_nodes(session: Any) -> list[AssignedNode] | None:
    """Return each node of a session and where it runs; None where ONNX Runtime is too old to tell.

    The session must have been opened with the entries of `session_settings`.
    """
    try:
        parts = session.get_provider_graph_assignment_info()
    except (AttributeError, RuntimeError):
        return None
    return [AssignedNode(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]


def count_by_provider(nodes: Iterable[AssignedNode]) -> dict[str, int]:
    """Return the number of nodes that each provider runs."""
    return dict(Counter(node.provider for node in nodes))


class Runs:
    """The runs of one session that are under way."""

    def __init__(self, onnxruntime: Any, graph_name: str) -> None:
        self._onnxruntime = onnxruntime
        self._graph_name = graph_name
        self._under_way: list[Any] = []

    def run(self, work: Callable[[Any], Result], entries: Mapping[str, str] | None = None) -> Result:
        """Return what `work` does with the onnxruntime.RunOptions it is given, which have these entries.

        Raises Cancelled where `stop` was called meanwhile, EngineError or OutOfMemory where the run fails; see also
        stopping.run_stoppable.
        """
        options = self._onnxruntime.RunOptions()
        options.log_severity_level = _QUIET
        for entry, value in (entries or {}).items():
            options.add_run_config_entry(entry, value)

        def explained() -> Result:
            try:
                return work(options)
            except EdgereelError:
                raise
            except Exception as error:
                if options.terminate:
                    raise Cancelled(f"running {self._graph_name} was stopped") from error
                raise failure(f"running {self._graph_name} failed", error) from error

        self._under_way.append(options)
        try:
            return run_stoppable(explained, lambda: setattr(options, "terminate", True))
        finally:
            self._under_way.remove(options)

    def stop(self) -> None:
        """End them: ONNX Runtime looks between two nodes whether it is to go on."""
        for options in list(self._under_way):
            options.terminate = True


def failure(what: str, error: Exception) -> EngineError:
    """Return the error to raise where ONNX Runtime raised one: OutOfMemory where it says that memory did not suffice."""
    quoted = brief(error, LONGEST_QUOTE) or type(error).__name__
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _WANT_OF_MEMORY):
        return OutOfMemory(f"{what}, there is not enough memory: {quoted}")
    return EngineError(f"{what}: {quoted}")
