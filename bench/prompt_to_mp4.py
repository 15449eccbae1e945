"""`python -m edgereel.bench.prompt_to_mp4`: from process start to finished MP4, by stage, beside diffusers and the teacher.

Every contender makes the same clip in a fresh process, taking turns; medians are reported. edgereel runs the built-in student
with a prompt it has not seen and with one it has, and the teacher that the student was distilled from; diffusers runs the
student, from the same weights at the same noise levels. Before a time is believed, diffusers' frames are compared with
ours, from the same noise. Installed size is the sum of all files of the packages that each needs, dependencies included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from ..errors import EdgereelError
from ..runtime.noise import NoiseSource
from ..runtime.recipes import schedule_of
from ..runtime.reel import load

OURS = ["numpy", "tokenizers", "av", "pydantic", "platformdirs", "typer", "rich", "ftfy", "onnxruntime", "onnx"]
THEIRS = ["torch", "diffusers", "transformers", "accelerate", "ftfy", "av"]
STAGES = ("start", "open", "text", "denoise", "decode", "encode")
SAME_FRAMES_DB = 60.0

# Stages as edgereel counts them; what is before the first is start. Frames go to a file where one is asked for.
DIFFUSERS_PROGRAM = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import av, numpy as np, torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
order = json.loads(sys.argv[1])
seconds, last = {}, time.perf_counter()
def done(stage):
    global last
    seconds[stage], last = time.perf_counter() - last, time.perf_counter()
student = WanTransformer3DModel.from_pretrained(order["student"])
pipeline = WanPipeline.from_pretrained(order["checkpoint"], transformer=student).to(torch.float32)
pipeline.set_progress_bar_config(disable=True)
scheduler = pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
set_timesteps = scheduler.set_timesteps
scheduler.set_timesteps = lambda _, device=None: set_timesteps(
    sigmas=order["sigmas"], timesteps=order["timesteps"], device=device)
done("open")
size = {"width": order["width"], "height": order["height"], "num_frames": order["frames"]}
with torch.no_grad():
    embeddings, _ = pipeline.encode_prompt(order["prompt"], do_classifier_free_guidance=False,
        max_sequence_length=order["max_tokens"])
    done("text")
    latents = pipeline(prompt_embeds=embeddings, **size, num_inference_steps=len(order["sigmas"]), guidance_scale=1.0,
        latents=torch.from_numpy(np.load(order["noise"])), output_type="latent").frames
    done("denoise")
    shape = (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(pipeline.vae.config[name]).view(shape) for name in ("latents_mean", "latents_std"))
    video = pipeline.video_processor.postprocess_video(pipeline.vae.decode(latents * std + mean).sample, output_type="np")[0]
    done("decode")
frames = np.round(video * 255).astype(np.uint8)
with av.open(order["output"], "w") as container:
    stream = container.add_stream("libx264", rate=order["fps"])
    stream.width, stream.height, stream.pix_fmt = order["width"], order["height"], "yuv420p"
    for picture in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode(None))
done("encode")
if order.get("save_frames"):
    np.save(order["save_frames"], frames)
print(json.dumps(seconds))
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


def measure(checkpoint: Path, student: Path, bundle: Path | None, prompt: str, runs: int) -> dict[str, Any]:
    """Return each contender's median seconds by stage and in all, and what edgereel and diffusers weigh installed.

    Raises EdgereelError where diffusers' frames are not ours.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teacher = folder / "teacher.reel"
        export = [sys.executable, "-m", "edgereel", "export", str(checkpoint), "-o", str(teacher)]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        order, frames = _order(bundle, checkpoint, student, prompt, folder)
        psnr = _compare(order, frames, folder)
        ours = [sys.executable, "-m", "edgereel", "generate", prompt, "--json", "-o", str(folder / "ours.mp4")]
        chosen = [] if bundle is None else ["--bundle", str(bundle)]
        contenders = {
            "edgereel, student": [*ours, *chosen, "--no-cache"],
            "edgereel, student, prompt seen before": [*ours, *chosen],
            "edgereel, teacher": [*ours, "--bundle", str(teacher), "--no-cache"],
            "diffusers, student": [sys.executable, "-c", DIFFUSERS_PROGRAM, json.dumps(order)],
        }
        environment = {**os.environ, "EDGEREEL_CACHE": str(folder / "cache")}
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for _ in track(range(runs + 1), description="taking turns", transient=True):
            for name, command in contenders.items():
                turns[name].append(_stages(command, environment))
    # The first turn fills the file cache and ours, and is not counted.
    medians = {
        name: {stage: statistics.median(turn[stage] for turn in each[1:]) for stage in (*STAGES, "total")}
        for name, each in turns.items()
    }
    sizes = {"edgereel": installed_bytes(OURS), "diffusers": installed_bytes(THEIRS)}
    return {"runs": runs, "frames_psnr_db": psnr, "seconds": medians, "installed_bytes": sizes}


def _order(
    bundle: Path | None, checkpoint: Path, student: Path, prompt: str, folder: Path
) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Return what diffusers is to do, and the frames that edgereel makes of the same noise."""
    with load(bundle, cache=False) as reel:
        video = reel.generate(prompt)
        frames = np.stack(list(video))
        manifest, request = reel.bundle.manifest, video.request
    schedule = schedule_of(manifest.recipes[0])
    np.save(folder / "noise.npy", NoiseSource(request.seed).draw(video.latents.shape))
    return {
        "checkpoint": str(checkpoint),
        "student": str(student),
        "noise": str(folder / "noise.npy"),
        "output": str(folder / "theirs.mp4"),
        "prompt": prompt,
        "sigmas": schedule.sigmas[:-1].tolist(),
        "timesteps": schedule.timesteps.tolist(),
        "max_tokens": manifest.text.max_tokens,
        **{key: getattr(request, key) for key in ("width", "height", "frames", "fps")},
    }, frames


def _compare(order: dict[str, Any], frames: np.ndarray[Any, Any], folder: Path) -> float:
    """Return the PSNR in dB of diffusers' frames to ours; raise EdgereelError where they are not the same clip."""
    saved = folder / "theirs.npy"
    subprocess.run(
        [sys.executable, "-c", DIFFUSERS_PROGRAM, json.dumps({**order, "save_frames": str(saved)})],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    error = np.square(np.load(saved).astype(np.float64) - frames).mean()
    psnr = float(10 * np.log10(255**2 / max(error, 1e-6)))
    if psnr < SAME_FRAMES_DB:
        raise EdgereelError(f"diffusers made another clip ({psnr:.1f} dB): its time would say nothing")
    return psnr


def _stages(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a contender and return its seconds by stage and in all."""
    started = time.perf_counter()
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ).stdout
    total = time.perf_counter() - started
    result = json.loads(printed)
    seconds = {stage: float(result.get("seconds", result).get(stage, 0.0)) for stage in STAGES[1:]}
    return {"start": total - sum(seconds.values()), **seconds, "total": total}


def main() -> None:
    """Print a Markdown table, or with --json the figures."""
    demo = Path(__file__).resolve().parent.parent / "demo"
    parser = argparse.ArgumentParser(prog="python -m edgereel.bench.prompt_to_mp4", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=demo / "checkpoint", help="the teacher's checkpoint")
    parser.add_argument("--student", type=Path, default=demo / "student", help="the student's transformer")
    parser.add_argument("--bundle", type=Path, help="the student's bundle; the built-in one if left out")
    parser.add_argument("--prompt", default="a red ball bounces over the ocean")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.checkpoint, arguments.student, arguments.bundle, arguments.prompt, arguments.runs)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print("| seconds | " + " | ".join((*STAGES, "total")) + " |\n|---|" + "---|" * (len(STAGES) + 1))
    for name, seconds in result["seconds"].items():
        print(f"| {name} | " + " | ".join(f"{seconds[stage]:.3f}" for stage in (*STAGES, "total")) + " |")
    sizes = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in result["installed_bytes"].items())
    print(f"\ndiffusers' frames are ours to {result['frames_psnr_db']:.1f} dB; installed: {sizes}")


if __name__ == "__main__":
    main()
