"""The ways of computing one denoiser step that `denoiser_step` compares, each in a process that steps when it is told to.

`python -m edgereel.tools.step_bench.step_contenders NAME FOLDER THREADS` speaks the language of bench/contenders/protocol.py,
with `open`, answered by what runs, and `step`, answered by its seconds and the processor's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...bench.contenders.protocol import serve_pipes
from ...core.errors import EngineError, brief
from ...engines import EngineOptions, Tensor, get_engine
from ...engines.openvino.engine import cpu_settings, import_openvino
from .step_model import denoiser_of, random_inputs

Step = Callable[[], Any]
"""Computes the step and returns the prediction as a float32 array."""
CANONICAL: dict[str, Any] = {"lower": False}
LOWERED: dict[str, Any] = {}
INT8: dict[str, Any] = {"activations": "dynamic"}
"""Options of edgereel's engine, beside the threads, for each of its ways."""


def _ours(folder: Path, threads: int, bundle: str, options: dict[str, Any]) -> tuple[Step, str]:
    session = get_engine("cpu").open(denoiser_of(folder, bundle), EngineOptions(threads, **options))
    inputs = {name: Tensor.from_numpy(array) for name, array in random_inputs().items()}
    report = session.report
    return lambda: session.run(inputs)["prediction"].numpy(), f"{report.precision}, lowered: {report.rewrites}"


def _diffusers(folder: Path, threads: int, dtype_name: str) -> tuple[Step, str]:
    """Return diffusers' module, eager."""
    import torch
    from diffusers import WanTransformer3DModel

    torch.set_num_threads(threads)
    dtype = getattr(torch, dtype_name)
    module = WanTransformer3DModel.from_pretrained(folder / "checkpoint" / "transformer", torch_dtype=dtype).eval()
    inputs = {name: torch.from_numpy(array) for name, array in random_inputs().items()}
    latents, embeds = inputs["latents"].to(dtype), inputs["prompt_embeds"].to(dtype)

    def step() -> Any:
        with torch.inference_mode():
            return module(latents, inputs["timestep"], embeds, return_dict=False)[0].float().numpy()

    return step, f"{dtype_name}, torch {torch.__version__}"


def _openvino(folder: Path, threads: int, bundle: str, precision: str) -> tuple[Step, str]:
    """Return OpenVINO on the canonical graph; of int8 weights, with activations quantized by token."""
    openvino = import_openvino()
    core, settings = openvino.Core(), cpu_settings(precision, threads, bundle == "int8")
    compiled = core.compile_model(core.read_model(denoiser_of(folder, bundle)), "CPU", settings)
    inputs = random_inputs()
    runs_in = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return lambda: compiled(inputs)[0], f"{runs_in}, openvino {openvino.__version__.split('-')[0]}"


CONTENDERS: dict[str, tuple[str, Callable[[Path, int], tuple[Step, str]]]] = {
    "canonical": ("edgereel float32, canonical", partial(_ours, bundle="step", options=CANONICAL)),
    "lowered": ("edgereel float32, lowered", partial(_ours, bundle="step", options=LOWERED)),
    "int8": ("edgereel int8 dynamic, lowered", partial(_ours, bundle="int8", options=INT8)),
    "diffusers": ("diffusers float32", partial(_diffusers, dtype_name="float32")),
    "diffusers-bf16": ("diffusers bfloat16", partial(_diffusers, dtype_name="bfloat16")),
    "openvino": ("OpenVINO float32", partial(_openvino, bundle="step", precision="f32")),
    "openvino-bf16": ("OpenVINO bfloat16", partial(_openvino, bundle="step", precision="bf16")),
    "openvino-int8": ("OpenVINO int8 weights, bfloat16", partial(_openvino, bundle="int8", precision="bf16")),
}
"""By short name: name in the table, and what opens it."""


class StepWorker:
    """Opens one contender and steps."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self._name, self._folder, self._threads = name, folder, threads
        self._step: Step = lambda: None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """See protocol.Worker. Raises EngineError for a peer that is missing or refuses."""
        if request["do"] == "open":
            try:
                self._step, runs = CONTENDERS[self._name][1](self._folder, self._threads)
                np.save(self._folder / f"{self._name}.npy", self._step())
            except Exception as error:  # whatever a peer raises
                raise EngineError(f"{type(error).__name__}: {brief(error)}") from error
            return {"runs": runs}
        wall, processor = time.perf_counter(), time.process_time()
        self._step()
        return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}

    def close(self) -> None:
        """See protocol.Worker."""


if __name__ == "__main__":
    serve_pipes(lambda _: StepWorker(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
