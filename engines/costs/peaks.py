"""How many FLOPs a second a machine can do: products of square matrices, run by an engine as it would run a bundle's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from ...core.errors import MissingExtraError
from ...core.interrupts import interrupts_wait, temporary_folder
from ..base import Engine, Session, Tensor
from ..options import EngineOptions

_LEAST, _LARGEST = 512, 8192
_ENOUGH = 0.05  # seconds that a product should take, so that starting it does not count
CHAIN = 4  # products in a row, so that carrying the first input to a device and the last output back counts little


def product_peak(engine: Engine, threads: int | None, kind: str, budget: float) -> float:
    """Return FLOPs a second of products large enough, the fastest of those that so many seconds allow.

    kind: float32, or int8 with activations that are quantized as they come. Raises EngineError, MissingExtraError without onnx.
    """
    started, side = time.perf_counter(), _LEAST
    options = EngineOptions(threads=threads, activations="dynamic" if kind == "int8" else "float", keep=False)
    while True:
        x = Tensor.from_numpy(np.random.default_rng(0).standard_normal((side, side), dtype=np.float32))
        with temporary_folder("edgereel-peak-") as folder:
            path = folder / "product.onnx"
            path.write_bytes(product_graph(side, kind))
            with engine.open(path, options) as session:
                run = partial(_run_product, session, x)
                run()
                fastest = fastest_of(run, 0.0)
                if fastest >= _ENOUGH or side >= _LARGEST:
                    left = budget - (time.perf_counter() - started)
                    return 2 * CHAIN * side**3 / min(fastest, fastest_of(run, left))
        side *= 2


def _run_product(session: Session, x: Tensor) -> object:
    return session.run({"x": x})["y"].numpy()


def fastest_of(run: Callable[[], object], budget: float) -> float:
    """Return the seconds of the fastest of the runs that so many seconds allow, at least of one."""
    started, fastest = time.perf_counter(), math.inf
    while True:
        begun = time.perf_counter()
        run()
        ended = time.perf_counter()
        fastest = min(fastest, ended - begun)
        if ended - started >= budget:
            return fastest


def product_graph(side: int, kind: str) -> bytes:
    """Return a graph `y = x W W …` in float32, or with W as int8 with a scale for each column; raise MissingExtraError."""
    try:
        with interrupts_wait():
            from onnx import TensorProto, helper, numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "cpu", "measuring the machine's limits") from error
    generator = np.random.default_rng(1)
    names = ["x", *(f"x{index}" for index in range(1, CHAIN)), "y"]
    weights, nodes = [], []
    if kind == "int8":
        values = generator.integers(-127, 128, (side, side), dtype=np.int8)
        scale = np.full(side, 1 / (73 * math.sqrt(side)), np.float32)  # 73: the spread of the values
        weights.append(numpy_helper.from_array(scale, "scale"))
        for made in names[1:]:  # weights of their own: ONNX Runtime may rewrite those of each product by their name
            weights.append(numpy_helper.from_array(values, f"quantized.{made}"))
            given = [f"quantized.{made}", "scale"]
            nodes.append(helper.make_node("DequantizeLinear", given, [f"weight.{made}"], axis=1))
    else:
        spread = generator.standard_normal((side, side), dtype=np.float32) * np.float32(1 / math.sqrt(side))
        weights += [numpy_helper.from_array(spread, f"weight.{made}") for made in names[1:]]
    nodes += [
        helper.make_node("MatMul", [given, f"weight.{made}"], [made], name=f"product.{made}")
        for given, made in pairwise(names)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in ("x", "y"))
    model = helper.make_model(
        helper.make_graph(nodes, "product", [x], [y], weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    content: bytes = model.SerializeToString()
    return content


def numpy_peak(budget: float) -> float:
    """Return FLOPs a second of numpy's float32 product, with all its threads."""
    side = 1024
    x = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    return 2 * side**3 / fastest_of(lambda: x @ x, budget)
