"""`python -m edgereel.bench.process_start`: from process start to finished MP4, beside diffusers, and what each weighs.

Both make the same clip from the same weights with the same steps and guidance, each in a fresh process, taking turns;
medians are reported. Installed size is the sum of all files of the packages that each needs, dependencies included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from rich.progress import track

OURS = ["numpy", "tokenizers", "av", "pydantic", "platformdirs", "typer", "rich", "ftfy", "onnxruntime", "onnx"]
THEIRS = ["torch", "diffusers", "transformers", "accelerate", "ftfy", "av"]

DIFFUSERS_PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
import av, numpy as np, torch
from diffusers import WanPipeline
checkpoint, output, prompt, width, height, frames, fps, steps, guidance, tokens = sys.argv[1:]
pipeline = WanPipeline.from_pretrained(checkpoint).to(torch.float32)
pipeline.set_progress_bar_config(disable=True)
video = pipeline(prompt, width=int(width), height=int(height), num_frames=int(frames), num_inference_steps=int(steps),
    guidance_scale=float(guidance), generator=torch.Generator().manual_seed(0), max_sequence_length=int(tokens)).frames[0]
with av.open(output, "w") as container:
    stream = container.add_stream("libx264", rate=int(fps))
    stream.width, stream.height, stream.pix_fmt = int(width), int(height), "yuv420p"
    for picture in video:
        frame = av.VideoFrame.from_ndarray(np.round(picture * 255).astype(np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
"""


def installed_bytes(packages: list[str]) -> int:
    """Return the size of all files of these packages and everything they require, as installed here."""
    from packaging.requirements import Requirement

    waiting, seen, total = list(packages), set[str](), 0
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        paths = [Path(str(file.locate())) for file in found.files or []]
        total += sum(path.stat().st_size for path in paths if path.is_file())
        requirements = [Requirement(text) for text in found.requires or []]
        waiting += [item.name for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""})]
    return total


def measure(checkpoint: Path, reel: Path, prompt: str, runs: int) -> dict[str, Any]:
    """Return median seconds and installed bytes of both; programs take turns so that both see the same machine."""
    manifest = json.loads((reel / "reel.json").read_text())
    defaults, recipe = manifest["defaults"], manifest["recipes"][0]
    with tempfile.TemporaryDirectory() as folder:
        ours = [sys.executable, "-m", "edgereel", "generate", prompt, "--bundle", str(reel), "-o", f"{folder}/ours.mp4"]
        numbers = [defaults[key] for key in ("width", "height", "frames", "fps")]
        numbers += [recipe["steps"], recipe["guidance"], manifest["text"]["max_tokens"]]
        theirs = [
            sys.executable,
            "-c",
            DIFFUSERS_PROGRAM,
            str(checkpoint),
            f"{folder}/theirs.mp4",
            prompt,
            *map(str, numbers),
        ]
        seconds: dict[str, list[float]] = {"edgereel": [], "diffusers": []}
        for _ in track(range(runs + 1), description="taking turns", transient=True):
            seconds["edgereel"].append(_time(ours))
            seconds["diffusers"].append(_time(theirs))
    sizes = {"edgereel": installed_bytes(OURS), "diffusers": installed_bytes(THEIRS)}
    # The first turn fills the file cache and is not counted.
    return {
        name: {"seconds": statistics.median(values[1:]), "runs": values[1:], "installed_bytes": sizes[name]}
        for name, values in seconds.items()
    }


def _time(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print a Markdown table, or with --json the figures."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(prog="python -m edgereel.bench.process_start", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=root / "demo" / "checkpoint")
    parser.add_argument("--bundle", type=Path, default=root / "demo" / "demo.reel")
    parser.add_argument("--prompt", default="a red ball bounces over the ocean")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.checkpoint, arguments.bundle, arguments.prompt, arguments.runs)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print("| | process start to MP4 | installed |\n|---|---|---|")
    for name, figures in result.items():
        print(f"| {name} | {figures['seconds']:.2f} s | {figures['installed_bytes'] / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
