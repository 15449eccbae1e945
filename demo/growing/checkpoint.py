"""Write what the growth reached: teacher and student as diffusers reads them, the tiny decoder beside, in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

from ..clips import prompt_words
from ..training.checkpoint import few_step_recipes, forget_origin, write_json, write_layout
from ..training.run_folder import RunFolder
from . import student as distillation
from .decoders import TINY_STAGE, open_full_decoder, open_tiny_decoder
from .presets import Growth
from .teacher import STAGE as TEACHER_STAGE
from .teacher import open_teacher
from .tiny_decoder import GROW, PATCH, WIDTHS

STUDENT_STEPS = (4, 1, 2, 8)


def write_grown(growth: Growth, run: RunFolder, folder: Path) -> None:
    """Write `checkpoint`, and `student` and `tiny_decoder` where they were trained, into a folder.

    Raises RuntimeError where the run holds no trained denoiser yet.
    """
    if run.load(TEACHER_STAGE) is None:
        raise RuntimeError(f"{run.folder} holds no trained denoiser yet: train the stage `{TEACHER_STAGE}` first")
    models = open_teacher(growth, run)
    if (state := run.load(distillation.STAGE)) is not None:
        student = WanTransformer3DModel.from_config(models.transformer.config)
        student.load_state_dict(state["average"])
        student.eval().to(torch.bfloat16).save_pretrained(folder / "student")
        recipes = few_step_recipes(STUDENT_STEPS, growth.sampling_shift, "edgereel demo, demo/growing/student.py")
        origin = "distilled from the demo's teacher by trajectory regression along its own films (demo/growing)"
        write_json(folder / "student" / "edgereel.json", {"origin": origin, "recipes": recipes})
    if run.load(TINY_STAGE) is not None:
        tiny = open_tiny_decoder(growth, run)
        (folder / "tiny_decoder").mkdir(parents=True, exist_ok=True)
        weights = {name: value.to(torch.bfloat16).contiguous() for name, value in tiny.state_dict().items()}
        save_file(weights, folder / "tiny_decoder" / "diffusion_pytorch_model.safetensors")
        shape = {"widths": WIDTHS, "grow": GROW, "patch": PATCH, "channels": models.transformer.config.in_channels}
        write_json(folder / "tiny_decoder" / "config.json", shape)
    vae = open_full_decoder(growth, run)
    write_layout(folder / "checkpoint", models, vae, growth.sampling_shift, growth.max_tokens, _labels(growth))
    write_json(folder / "checkpoint" / "streaming.json", _streaming(growth))
    forget_origin(folder)


def _labels(growth: Growth) -> dict[str, Any]:
    recipe = {
        "steps": 30, "guidance": growth.guidance, "source": "edgereel demo training", "shift": growth.sampling_shift
    }  # fmt: skip
    width, height = growth.formats[0]
    return {
        "name": "edgereel demo",
        "license": "Apache-2.0",
        "origin": f"trained on procedural clips, then films (demo/training, demo/growing, preset {growth.name})",
        "max_tokens": growth.max_tokens,
        **prompt_words(),
        "defaults": {"width": width, "height": height, "frames": 17, "fps": 8},
        "recipes": [{"name": "unipc", "sampler": "unipc", **recipe}, {"name": "euler", "sampler": "euler", **recipe}],
    }


def _streaming(growth: Growth) -> dict[str, Any]:
    """Return the formats and how chunks follow one another: what a context graph's manifest needs."""
    names = ("square", "wide", "tall")
    return {
        "formats": {name: list(size) for name, size in zip(names, growth.formats, strict=False)},
        "stream": {
            "chunk": growth.chunk, "first_chunk": growth.chunk, "window": growth.chunk, "sink": 0,
            "positions": "window", "remember_timestep": 0, "negative_context": "shared", "context_type": "float32",
        },
    }  # fmt: skip
