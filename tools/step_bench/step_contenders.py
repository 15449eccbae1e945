"""The ways of computing one denoiser step that `denoiser_step` compares, each in a process that steps when it is told to.

`python -m edgereel.tools.step_bench.step_contenders NAME FOLDER THREADS` writes one line of JSON when it is ready and one for every
line it reads. Processes of their own: thread pools and allocators of several libraries in one would disturb one another.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...engines import EngineOptions, Tensor, get_engine
from ...engines.openvino.engine import cpu_settings
from .step_model import CONFIG, LATENTS, denoiser_of, random_inputs

Step = Callable[[], Any]
"""Computes the step and returns the prediction as a float32 array."""


def _ours(graph: Path, options: EngineOptions) -> tuple[Step, str]:
    session = get_engine("cpu").open(graph, options)
    inputs = {name: Tensor.from_numpy(array) for name, array in random_inputs().items()}
    report = session.report
    return lambda: session.run(inputs)["prediction"].numpy(), f"{report.precision}, lowered: {report.rewrites}"


def canonical_float32(folder: Path, threads: int) -> tuple[Step, str]:
    """Return edgereel's canonical graph as it is."""
    return _ours(denoiser_of(folder), EngineOptions(threads, lower=False))


def lowered_float32(folder: Path, threads: int) -> tuple[Step, str]:
    """Return edgereel's lowered graph."""
    return _ours(denoiser_of(folder), EngineOptions(threads))


def lowered_int8(folder: Path, threads: int) -> tuple[Step, str]:
    """Return edgereel's lowered int8 graph, activations quantized as they come."""
    return _ours(denoiser_of(folder, "int8"), EngineOptions(threads, activations="dynamic"))


def _diffusers(folder: Path, threads: int, dtype_name: str) -> tuple[Step, str]:
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


def diffusers_float32(folder: Path, threads: int) -> tuple[Step, str]:
    """Return diffusers' module in float32, eager."""
    return _diffusers(folder, threads, "float32")


def diffusers_bfloat16(folder: Path, threads: int) -> tuple[Step, str]:
    """Return diffusers' module in bfloat16, eager."""
    return _diffusers(folder, threads, "bfloat16")


def _openvino(graph: Path, threads: int, precision: str, by_token: bool = False) -> tuple[Step, str]:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", cpu_settings(precision, threads, by_token))
    inputs = random_inputs()
    runs_in = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return lambda: compiled(inputs)[0], f"{runs_in}, openvino {openvino.__version__.split('-')[0]}"


def openvino_float32(folder: Path, threads: int) -> tuple[Step, str]:
    """Return OpenVINO on the canonical graph in float32."""
    return _openvino(denoiser_of(folder), threads, "f32")


def openvino_bfloat16(folder: Path, threads: int) -> tuple[Step, str]:
    """Return OpenVINO on the canonical graph in bfloat16."""
    return _openvino(denoiser_of(folder), threads, "bf16")


def openvino_int8(folder: Path, threads: int) -> tuple[Step, str]:
    """Return OpenVINO on the int8 graph, activations quantized by token, the rest in bfloat16."""
    return _openvino(denoiser_of(folder, "int8"), threads, "bf16", by_token=True)


CONTENDERS: dict[str, tuple[str, Callable[[Path, int], tuple[Step, str]]]] = {
    "canonical": ("edgereel float32, canonical", canonical_float32),
    "lowered": ("edgereel float32, lowered", lowered_float32),
    "int8": ("edgereel int8 dynamic, lowered", lowered_int8),
    "diffusers": ("diffusers float32", diffusers_float32),
    "diffusers-bf16": ("diffusers bfloat16", diffusers_bfloat16),
    "openvino": ("OpenVINO float32", openvino_float32),
    "openvino-bf16": ("OpenVINO bfloat16", openvino_bfloat16),
    "openvino-int8": ("OpenVINO int8 weights, bfloat16", openvino_int8),
    "float32-peak": ("", lambda _, threads: _plain_product(threads, "float32")),
    "int8-peak": ("", lambda _, threads: _plain_product(threads, "int8")),
}
"""By short name: name in the table ("" for what is no contender) and what opens it."""
PEAK_SHAPE = (4680, 1536, 8960)


def _plain_product(threads: int, precision: str) -> tuple[Step, str]:
    """Return one large matrix product: what ONNX Runtime's kernels reach on this machine at best."""
    import onnx
    import onnxruntime

    rows, inner, columns = PEAK_SHAPE
    random = np.random.default_rng(0)
    types = onnx.TensorProto
    if precision == "float32":
        given, weights = random.random((rows, inner), np.float32), random.random((inner, columns), np.float32)
        node, kinds = onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), (types.FLOAT, types.FLOAT)
    else:
        given = random.integers(0, 256, (rows, inner)).astype(np.uint8)
        weights = random.integers(-127, 128, (inner, columns)).astype(np.int8)
        node, kinds = onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"]), (types.UINT8, types.INT32)
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("x", kinds[0], [rows, inner])],
        [onnx.helper.make_tensor_value_info("y", kinds[1], [rows, columns])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": given})[0], f"onnxruntime {onnxruntime.__version__}"


def operations() -> dict[str, float]:
    """Return the multiplications and additions of one step by kind: `linears` that are quantized, and `attention`."""
    frames, rows, columns = (size // patch for size, patch in zip(LATENTS[2:], CONFIG["patch_size"], strict=True))
    tokens, text = frames * rows * columns, random_inputs()["prompt_embeds"].shape[1]
    width, inner = CONFIG["num_attention_heads"] * CONFIG["attention_head_dim"], CONFIG["ffn_dim"]
    # q, k, v, o of self-attention, q and o of cross-attention, both of the feed-forward; k and v of the text.
    per_token, per_text = 6 * width * width + 2 * width * inner, 2 * width * width
    linears = CONFIG["num_layers"] * (tokens * per_token + text * per_text)
    linears += text * (CONFIG["text_dim"] * width + width * width)
    attention = CONFIG["num_layers"] * 2 * tokens * (tokens + text) * width
    return {"linears": 2.0 * linears, "attention": 2.0 * attention}


def main() -> None:
    """Open a contender, then step once for every line of input."""
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    try:
        step, runs = CONTENDERS[name][1](folder, threads)
        np.save(folder / f"{name}.npy", step())
    except Exception as error:  # a peer that is missing or refuses is reported as such
        print(json.dumps({"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}), flush=True)
        return
    print(json.dumps({"runs": runs}), flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        step()
        figures = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
