"""TensorRT-RTX's compiler by itself, which needs no card: what would the `rtx` engine make of a graph?

The plugin that the `rtx` engine opens graphs with ships the same compiler and keeps its plan to itself.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.errors import EngineError, brief
from ...core.interrupts import interrupts_wait
from ..tensorrt.building import BuildSettings, make_log, make_plan
from ..tensorrt.versions import features_of
from .facts import CompiledGraph
from .plan_text import read_plan

_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
_INSTALL = "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
_LIKE_TENSORRT = (11, 0)
"""Whose API its bindings have."""


def import_compiler() -> Any:
    """Return the module of TensorRT-RTX's bindings. Raises EngineError with the command that installs it."""
    for name in _MODULES:
        try:
            with interrupts_wait(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(f"TensorRT-RTX is installed but cannot be loaded ({brief(error)}): {_INSTALL}") from error
        if hasattr(module, "Builder"):
            return module
    raise EngineError(f"what the rtx engine would build is told by TensorRT-RTX, which is not installed: {_INSTALL}")


def compile_plan(model: bytes, graph_path: Path, settings: BuildSettings) -> memoryview:
    """Return the plan of a lowered graph: as large as its weights, which a plan that is to be refitted would go without.

    Such a plan this compiler makes only where there is a card. Raises EngineError where it is not installed or refuses the graph.
    """
    trt = import_compiler()
    plan, _, _ = make_plan(trt, make_log(trt), features_of(_LIKE_TENSORRT), model, graph_path, settings, None)
    return memoryview(plan)


def explain_for_card(model: bytes, graph_path: Path, settings: BuildSettings) -> CompiledGraph:
    """Return what the compiler makes of a lowered graph. Raises EngineError."""
    plan = compile_plan(model, graph_path, settings)
    return read_plan(plan, f"TensorRT-RTX {import_compiler().__version__}")
