"""Records of measurements, made of clips' times that are chosen, so that tests know what a report must say."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgereel.bench.contenders.stages import ClipTimes
from edgereel.bench.records.record import (
    BundleFacts,
    ClipSettings,
    EngineFacts,
    MachineLimits,
    Quality,
    Record,
    Row,
    StageResources,
)
from edgereel.bench.rows import compare_in_turns, timing_of

WARM = {"text": 0.002, "denoise": 0.03, "decode": 0.06, "encode": 0.02}
COLD = {"start": 0.8, "open": 0.5, "build": 0.0, **WARM}


def make_clips(stages: dict[str, float], runs: int, seed: int = 0, spread: float = 0.03) -> list[ClipTimes]:
    """Return times that scatter log-normally about these stages, their details made of the same numbers."""
    generator = np.random.default_rng(seed)
    clips = []
    for _ in range(runs):
        times = {
            name: seconds * float(np.exp(spread * generator.standard_normal())) for name, seconds in stages.items()
        }
        step, frame = times.get("denoise", 0.0) / 4, times.get("decode", 0.0) / 5
        clips.append(ClipTimes(sum(times.values()), times, {"denoise_step": [step] * 4, "frame": [frame] * 4}))
    return clips


def make_row(
    name: str = "demo, 4 steps", warm_runs: int = 20, cold_runs: int = 8, scale: float = 1.0, **parts: Any
) -> Row:
    """Return a row with so many runs, all of whose stages take `scale` times the usual; parts: in the place of others."""
    steps = parts.pop("steps", 4)
    settings = ClipSettings(
        width=64, height=48, frames=17, fps=8, steps=steps, recipe=f"{steps}-step", sampler="euler", guidance=[1.0],
        prompts=8, prompts_sha256="ab" * 32, seeds=list(range(8)),
    )  # fmt: skip
    row: dict[str, Any] = {
        "name": name,
        "contender": "edgereel",
        "bundle": BundleFacts(name="demo", digest="cd" * 32, precision="bf16", bytes=12_000_000),
        "engine": EngineFacts(engine="cpu", version="9.9", provider=["P"], precision=["float32"], threads=2),
        "settings": settings,
        "warm": timing_of(make_clips({k: scale * v for k, v in WARM.items()}, warm_runs, seed=1), 17, 8),
        "cold": timing_of(make_clips({k: scale * v for k, v in COLD.items()}, cold_runs, seed=2), 17, 8),
        "quality": Quality(source="bundle", figures={"colour_shown": 0.9, "scene_shown": 0.8, "steps": 4}),
        "stages": {
            "denoise": StageResources(peak_host_bytes=170 * 2**20, flops=2_000_000_000, bytes=200_000_000),
            "decode": StageResources(peak_host_bytes=175 * 2**20, flops=4_000_000_000, bytes=100_000_000),
        },
        "memory_timeline": [(place / 100, 150_000_000 + 100_000 * place) for place in range(50)],
        "memory_stages": [(0.0, "text"), (0.02, "denoise"), (0.2, "decode"), (0.35, "encode")],
    }
    return Row(**{**row, **parts})


def make_record(*rows: Row, **parts: Any) -> Record:
    """Return a record of these rows, compared with the first where there are several; parts: in the place of others."""
    record: dict[str, Any] = {
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 12.5,
        "command": ["edgereel", "bench", "run", "my bundle.reel"],
        "machine": {
            "system": "Linux 6",
            "processor": "Processor X",
            "cores": 2,
            "instruction_sets": ["AVX2"],
            "memory": 8 * 2**30,
        },
        "versions": {"python": "3.11.1", "edgereel": "0.1.0"},
        "limits": MachineLimits(
            flops_per_second={"float32": 160e9, "int8": 500e9}, bytes_per_second=30e9, threads=2, method="products"
        ),
        "rows": list(rows),
        "notes": ["A note."],
    }
    if len(rows) > 1 and all(row.warm is not None and min(row.warm.samples["total"]) > 0 for row in rows):
        turns = {
            row.name: [ClipTimes(total, {}, {}) for total in row.warm.samples["total"]] for row in rows if row.warm
        }
        record["comparisons"] = compare_in_turns(turns)
    return Record(**{**record, **parts})
