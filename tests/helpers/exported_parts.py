"""Export one part of a checkpoint alone: seconds less than a whole bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from edgereel.export.families.base import ModelPart
from edgereel.export.graphs import DataFile, save_graph

Arrays = dict[str, np.ndarray[Any, Any]]
Run = Callable[[Arrays], Arrays]


def exported(part: ModelPart, folder: Path) -> dict[str, Run]:
    """Write a part's graphs into a folder, unproved, and return them by name, opened in ONNX Runtime."""
    folder.mkdir(parents=True, exist_ok=True)
    with DataFile(folder / f"{part.name}.data") as data:
        sources = part.graphs(part.load(), torch.float32)
        for source in sources:
            save_graph(source, folder, data)
    return {source.name: _opened(folder / f"{source.name}.onnx") for source in sources}


def _opened(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def relative(found: Any, expected: Any) -> float:
    """Return ‖found - expected‖ / ‖expected‖."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
