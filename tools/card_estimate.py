"""What a clip would take on an NVIDIA card, estimated from counted FLOPs and bytes; nothing runs, and no card is needed.

    python -m edgereel.tools.card_estimate NAME.reel --size 832x480 --frames 81 --steps 4

Each operator of the graph that the `cuda` engine would run takes the longer of its arithmetic and its traffic: FLOPs by the
rate that products of its kind reach, bytes by the card's bandwidth. `before` leaves out what lowering has learnt since 0.2.0's
first releases: see `BEFORE`. A bundle with fewer blocks than the model has is scaled with --blocks-of.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgereel.bundle.geometry import latent_shape
from edgereel.bundle.reader import open_bundle
from edgereel.cli.options import parse_size
from edgereel.engines.costs import GraphCosts, graph_costs
from edgereel.engines.lowering.lower import lower_for_target
from edgereel.engines.lowering.targets import parse_target
from edgereel.runtime.memory.shapes import input_shapes

_ATTENTION = ("Attention", "MultiHeadAttention")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_STEPS_BEFORE = 2
"""More steps' worth of kernels that recording a CUDA graph cost a clip."""
_PICTURES_BEFORE = 0.05
"""Seconds a call that numpy took to make pictures of frames while the card waited, measured."""


@dataclass(frozen=True)
class Card:
    """FLOPs a second that linears, attention and convolutions reach, and bytes a second. plain: without tensor cores."""

    linears: float = 130e12
    attention: float = 105e12
    convolutions: float = 100e12
    plain: float = 30e12
    bandwidth: float = 1e12


def estimate(costs: GraphCosts, card: Card, *, tensor_cores: bool = True) -> dict[str, float]:
    """Return seconds of a run, by what they go into: attention, linears, convolutions, and all that only moves bytes."""
    spent = {"attention": 0.0, "linears": 0.0, "convolutions": 0.0, "the rest": 0.0}
    for name, each in costs.by_operator.items():
        kind = "attention" if name in _ATTENTION else "convolutions" if name in _CONVOLUTIONS else "linears"
        rate = {"attention": card.attention, "linears": card.linears}.get(
            kind, card.convolutions if tensor_cores else card.plain
        )
        seconds = max(each.flops / rate, each.bytes / card.bandwidth)
        spent[kind if each.flops else "the rest"] += seconds
    return spent


def count(reel: Path, name: str, latents: tuple[int, ...], *, now: bool) -> GraphCosts:
    """Return the costs of a graph as the `cuda` engine runs it. now: False for the lowering without modulation and half norms."""
    bundle = open_bundle(reel)
    target = parse_target("cuda")
    target = replace(target, folds_modulation=True) if now else replace(target, half_inside=())
    path = bundle.path(bundle.manifest.roles.graphs()[name].file)
    pictures = now and name.startswith("decoder")
    model = lower_for_target(path, target, "float16", keep=False, pictures=pictures).model
    assert model is not None
    return graph_costs(model, input_shapes(bundle.manifest, name, latents), "float16", keep=False)


def rows(reel: Path, size: tuple[int, int], frames: int, steps: int, blocks: float, card: Card) -> list[dict[str, Any]]:
    """Return a row for each stage: milliseconds before and after, and the counts they come from. blocks: factor, see above."""
    manifest = open_bundle(reel).manifest
    latents = latent_shape(manifest.latent, *size, frames)
    found = []
    for name, now in (("denoiser", False), ("denoiser", True)):
        costs = count(reel, name, latents, now=now)
        spent = {kind: blocks * seconds for kind, seconds in estimate(costs, card).items()}
        runs = steps if now else steps + _STEPS_BEFORE
        found.append(_row("denoise", now, runs, spent, costs, blocks))
    calls = latents[2]
    for now in (False, True):
        first, after = (count(reel, name, latents, now=now) for name in ("decoder_first", "decoder_next"))
        each = estimate(after, card, tensor_cores=now)
        spent = {
            kind: each[kind] + (estimate(first, card, tensor_cores=now)[kind] - each[kind]) / calls for kind in each
        }
        if not now:
            # In float32 the state was twice as large, and was converted on the way in and out.
            spent["the rest"] += 3 * after.input_bytes / card.bandwidth + _PICTURES_BEFORE
        found.append(_row("decode", now, calls, spent, after, 1))
    return found


def _row(stage: str, now: bool, runs: int, spent: dict[str, float], costs: GraphCosts, blocks: float) -> dict[str, Any]:
    nodes = sum(each.count for each in costs.by_operator.values())
    return {
        "stage": stage,
        "lowering": "now" if now else "before",
        "runs": runs,
        "ms_a_run": {kind: round(1e3 * seconds, 1) for kind, seconds in spent.items()},
        "ms": round(1e3 * runs * sum(spent.values())),
        "tflop_a_run": round(blocks * costs.flops / 1e12, 1),
        "gb_a_run": round(blocks * costs.bytes_moved / 1e9, 1),
        "nodes": round(blocks * nodes),
        "activation_gib": round(costs.activation_bytes / 2**30, 2),
    }


def main() -> int:
    """Print the estimates that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reel", type=Path)
    parser.add_argument("--size", default="832x480", type=parse_size)
    parser.add_argument("--frames", default=81, type=int)
    parser.add_argument("--steps", default=4, type=int)
    parser.add_argument("--blocks-of", nargs=2, type=int, metavar=("HAS", "MODEL"), default=(1, 1))
    parser.add_argument("--bandwidth", type=float, default=Card.bandwidth, help="bytes a second")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    has, model = asked.blocks_of
    found = rows(
        asked.reel, asked.size, asked.frames, asked.steps, model / has, replace(Card(), bandwidth=asked.bandwidth)
    )
    if asked.json:
        print(json.dumps(found))
        return 0
    print("estimates, from counts; nothing was run")
    for row in found:
        parts = ", ".join(f"{kind} {each:g}" for kind, each in row["ms_a_run"].items() if each)
        print(
            f"{row['stage']:<8} {row['lowering']:<6} {row['ms']:>6} ms: {row['runs']} runs of {parts} ms; "
            f"{row['tflop_a_run']:g} TFLOP, {row['gb_a_run']:g} GB, {row['nodes']} nodes, {row['activation_gib']:g} GiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
