"""Proof that saved graphs compute what the torch modules compute: run in ONNX Runtime, compared, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import torch

from ..bundle.manifest import Parity
from ..core.errors import EngineError, ParityError, brief
from ..core.machine import usable_cores
from .families.base import Array, FrameStream, GraphSource, Trial

LIMITS: dict[Literal["fp32", "fp16"], float] = {"fp32": 1e-4, "fp16": 5e-3}

FOLDED_BYTES = 2**28
"""Size of a data file up to which ONNX Runtime folds constants as it opens a graph: all weights in float32, and packed."""

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Computes a graph's named outputs from its named inputs."""


def relative_difference(found: Array, expected: Array) -> float:
    """Return ‖found - expected‖₂ / ‖expected‖₂, infinite where shapes differ or anything is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all() or not np.isfinite(expected).all():
        return float("inf")
    reference = np.linalg.norm(expected.astype(np.float64))
    difference = np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64))
    return float(difference / reference) if reference > 0 else float(difference)


@contextmanager
def opened(path: Path, data: Path) -> Iterator[Run]:
    """Open a saved graph in ONNX Runtime on the CPU, not lowered: it is the canonical one that is to be proved.

    data: the file of its weights. Where that is large its bfloat16 weights stay memory-mapped until the Cast behind them
    runs, so that a graph can be proved whose float32 weights do not fit into memory. An engine would widen all of them.
    """
    large = data.stat().st_size > FOLDED_BYTES
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = usable_cores()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            settings,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"] if large else [],
        )
    except Exception as error:
        raise EngineError(f"cannot open {path.name} with ONNX Runtime: {brief(error)}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise EngineError(f"running {path.name} failed: {brief(error)}") from error

    yield run


def traced_module(source: GraphSource) -> Run:
    """Return the module that a graph is traced from as something to run.

    ONNX Runtime's CPU provider widens half precision to float32 and drops the rounding on the way, so that a saved fp16
    graph runs there without fp16's errors and overflows. The module, run by torch in half precision, has them.
    """

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            made = source.module(*(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in source.inputs))
        tensors = made if isinstance(made, tuple) else (made,)
        return {name: tensor.numpy() for name, tensor in zip(source.outputs, tensors, strict=True)}

    return run


def graph_differences(run: Run, trials: list[Trial]) -> list[float]:
    """Return the relative difference of a graph on every trial, of the output that differs most."""
    return [_difference(run(trial.inputs), trial) for trial in trials]


def _difference(made: dict[str, Array], trial: Trial) -> float:
    first, *_ = made.values()
    also = [relative_difference(made[name].astype(expected.dtype), expected) for name, expected in trial.also.items()]
    return (
        max(relative_difference(first, trial.expected), *also) if also else relative_difference(first, trial.expected)
    )


def stream_differences(
    first: Run, later: Run, trials: list[Trial], stream: FrameStream
) -> tuple[list[float], list[float]]:
    """Pass every trial piece by piece, states handed on; return the differences of the first and of later pieces."""
    of_first, of_later = [], []
    for trial in trials:
        whole = trial.inputs[stream.whole]
        outputs = first({stream.part: whole[:, :, : stream.first]})
        begin = outputs[stream.made].shape[2]
        of_first.append(relative_difference(outputs[stream.made], trial.expected[:, :, :begin]))
        made = []
        for start in range(stream.first, whole.shape[2], stream.later):
            states = {name.removesuffix("_next"): array for name, array in outputs.items() if name != stream.made}
            outputs = later({stream.part: whole[:, :, start : start + stream.later], **states})
            made.append(outputs[stream.made])
        of_later.append(relative_difference(np.concatenate(made, axis=2), trial.expected[:, :, begin:]))
    return of_first, of_later


def judge(name: str, differences: list[float], trials: list[Trial], limit: float) -> Parity:
    """Return the worst difference as the manifest keeps it; raise ParityError where it is above the limit."""
    worst = max(differences)
    if not all(value <= limit for value in differences):  # NaN is over every limit, and max() can miss it
        each = ", ".join(f"{trial.label}: {value:.1e}" for trial, value in zip(trials, differences, strict=True))
        raise ParityError(
            f"{name}: the exported graph differs from the torch module by {worst:.1e} relative, {limit:.0e} is allowed "
            f"({each}); nothing was written"
        )
    # Two digits are all that means anything, and they keep the file from changing with the order of a sum.
    return Parity(relative=float(f"{worst:.1e}"), limit=limit, shapes=[trial.label for trial in trials])
