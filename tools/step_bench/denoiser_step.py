"""`python -m edgereel.tools.step_bench.denoiser_step`: one denoiser step at Wan 1.3B width, beside peers.

The peers are diffusers and OpenVINO on the CPU.
Two layers of the published configuration with random weights, 832×480, 9 frames: 4,680 tokens. Every contender is opened
in a process of its own and all take turns, so that each sees the same machine; medians are reported, of elapsed time and
of processor time (which is what counts where other work shares the cores). Then ours is profiled by operator. A peer that
is not installed is reported as not measured; OpenVINO may lie in a folder on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...bench.contenders.process import WorkerProcess
from ...bench.resources.limits import measure_limits
from ...bench.stats.turns import interleave
from ...core.errors import EngineError
from ...core.processes import python_command
from ...engines import EngineOptions, get_engine
from ...engines.costs import graph_costs
from ...engines.lowering.lower import lower_graph
from .step_contenders import CANONICAL, CONTENDERS, INT8, LOWERED
from .step_model import denoiser_of, random_inputs, write_bundle, write_int8_bundle

BASE = "diffusers"


def prepare(folder: Path) -> None:
    """Write checkpoint, canonical graph and int8 graph into a folder, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if denoiser_of(folder, "int8").exists():
        return
    write_bundle(folder)
    write_int8_bundle(folder)


def measure(folder: Path, names: list[str], rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """Return for each contender its median `seconds` and `cpu_seconds`, `all` runs, and what `runs`; or its `error`."""
    command = python_command("edgereel.tools.step_bench.step_contenders")
    results: dict[str, dict[str, Any]] = {}
    figures: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with ExitStack() as stack:
        turns: dict[str, Callable[[], object]] = {}
        for name in names:  # opened one after another: memory and processor are at their busiest here
            try:
                worker = WorkerProcess([*command, name, str(folder), str(threads)])
                stack.callback(worker.kill)
                results[name] = {"runs": worker.request(do="open")["runs"]}
                turns[name] = partial(_step, worker, figures[name])
            except EngineError as error:
                results[name] = {"error": str(error)}
        if turns:
            interleave(turns, rounds, on_turn=lambda number, name, _: print(f"{number}: {name}", file=sys.stderr))
    for name, all_runs in figures.items():
        medians = {key: statistics.median(run[key] for run in all_runs) for key in ("seconds", "cpu_seconds")}
        results[name] |= {**medians, "all": all_runs}
    return results


def _step(worker: WorkerProcess, figures: list[dict[str, Any]]) -> None:
    answer = worker.request(do="step")
    figures.append({key: answer[key] for key in ("seconds", "cpu_seconds")})


def compare(folder: Path, results: dict[str, dict[str, Any]]) -> None:
    """Add to each result how much faster it is than diffusers in float32, and how far its prediction is from that."""
    if "seconds" not in results.get(BASE, {}):
        return
    expected = np.load(folder / f"{BASE}.npy").astype(np.float64)
    for name, result in results.items():
        if "seconds" not in result:
            continue
        found = np.load(folder / f"{name}.npy")
        result["difference"] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        result["faster"] = results[BASE]["cpu_seconds"] / result["cpu_seconds"]


def profile(graph: Path, options: EngineOptions, folder: Path) -> dict[str, tuple[float, int]]:
    """Return milliseconds and number of nodes by operator of one step in ONNX Runtime, the largest first."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads or 0
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / "profile")
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    lowered = lower_graph(graph, options.activations, onnxruntime.__version__).model if options.lower else None
    session = onnxruntime.InferenceSession(lowered or str(graph), settings, providers=["CPUExecutionProvider"])
    for _ in range(2):
        session.run(None, random_inputs())
    path = Path(session.end_profiling())
    kernels = [event for event in json.loads(path.read_text()) if event["name"].endswith("_kernel_time")]
    path.unlink()
    spent: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for event in kernels[len(kernels) // 2 :]:
        milliseconds, count = spent[event["args"]["op_name"]]
        spent[event["args"]["op_name"]] = (milliseconds + event["dur"] / 1e3, count + 1)
    return dict(sorted(spent.items(), key=lambda item: -item[1][0]))


def print_tables(record: dict[str, Any]) -> None:
    """Print what was measured as Markdown."""
    print("| | s | CPU s | × diffusers float32 (CPU s) | difference |\n|---|---|---|---|---|")
    for name, result in record["contenders"].items():
        title = CONTENDERS[name][0]
        if "seconds" not in result:
            print(f"| {title} | not measured: {result['error']} | | | |")
            continue
        faster = f"{result['faster']:.2f} | {result['difference']:.1e}" if "faster" in result else " | "
        print(f"| {title} | {result['seconds']:.2f} | {result['cpu_seconds']:.2f} | {faster} |")
    for name, peak in record["peaks"].items():
        print(f"\n{name}: {peak / 1e12:.3f} TOP a second, in one large product")
    for title, operators in record["profiles"].items():
        total = sum(milliseconds for milliseconds, _ in operators.values())
        print(f"\n{title}, by operator\n\n| operator | nodes | ms | share |\n|---|---|---|---|")
        for operator, (milliseconds, count) in list(operators.items())[:12]:
            print(f"| {operator} | {count} | {milliseconds:.0f} | {milliseconds / total:.1%} |")


def main() -> None:
    """Print Markdown tables, or with --json the figures."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.tools.step_bench.denoiser_step", description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the graphs here (1.3 GB), and take them from here if there")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        prepare(folder)
        results = measure(folder, arguments.contenders, arguments.rounds, arguments.threads)
        compare(folder, results)
        threads = arguments.threads
        profiles = {
            title: profile(denoiser_of(folder, bundle), EngineOptions(threads, **options), folder)
            for title, bundle, options in (
                ("float32, canonical", "step", CANONICAL),
                ("float32, lowered", "step", LOWERED),
                ("int8 dynamic, lowered", "int8", INT8),
            )
        }
        shapes = {name: array.shape for name, array in random_inputs().items()}
        costs = graph_costs(denoiser_of(folder), shapes).by_operator
    record = {
        "threads": threads,
        "operations": {operator: cost.flops for operator, cost in costs.items() if cost.flops},
        "contenders": results,
        "peaks": measure_limits(get_engine("cpu"), threads, int8=True).flops_per_second,
        "profiles": profiles,
    }
    if arguments.json:
        print(json.dumps(record, indent=2))
    else:
        print_tables(record)


if __name__ == "__main__":
    main()
