"""Write what was trained in diffusers' own Wan layout, weights in bfloat16: a checkpoint, or a student's transformer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler

from ..clips import prompt_words
from .denoiser import LATENTS_STAGE, Models, build_models, load_vae
from .denoiser import STAGE as DENOISER_STAGE
from .distill import SHARE_OF_STEPS, student_levels
from .distill import STAGE as STUDENT_STAGE
from .presets import Preset
from .run_folder import RunFolder
from .tokenizer import END, PAD, UNKNOWN, build_tokenizer

_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": PAD,
    "eos_token": END,
    "unk_token": UNKNOWN,
    "clean_up_tokenization_spaces": False,
}
_DISTILLATION = "edgereel demo, demo/training/distill.py"
_MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "boundary_ratio": None,
    "expand_timesteps": False,
}


def write_checkpoint(preset: Preset, run: RunFolder, folder: Path) -> None:
    """Write the run's averaged weights and everything `diffusers.WanPipeline.from_pretrained` needs.

    `edgereel.json` beside them carries what the layout has no place for: name, licence, recipes, defaults.
    """
    state = run.load(DENOISER_STAGE)
    if state is None or run.load(LATENTS_STAGE) is None:
        raise RuntimeError(f"{run.folder} holds no trained denoiser yet")
    models = build_models(preset)
    models.joined().load_state_dict(state["average"])
    write_layout(folder, models, load_vae(preset, run), preset.recipe["shift"], preset.max_tokens, _labels(preset))


def write_layout(folder: Path, models: Models, vae: Any, shift: float, max_tokens: int, labels: dict[str, Any]) -> None:
    """Write models in bfloat16 as `diffusers.WanPipeline` reads them, and labels as its `edgereel.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    vae.to(torch.bfloat16).save_pretrained(folder / "vae")
    models.transformer.eval().to(torch.bfloat16).save_pretrained(folder / "transformer")
    models.text_encoder.eval().to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=1000
    )
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir(exist_ok=True)
    build_tokenizer().save(str(folder / "tokenizer" / "tokenizer.json"))
    write_json(folder / "tokenizer" / "tokenizer_config.json", {**_TOKENIZER_CONFIG, "model_max_length": max_tokens})
    write_json(folder / "model_index.json", _MODEL_INDEX)
    write_json(folder / "edgereel.json", labels)


def write_student(preset: Preset, run: RunFolder, folder: Path) -> None:
    """Write the student's averaged transformer, to be exported in the place of its teacher's, and its recipe."""
    state = run.load(STUDENT_STAGE)
    if state is None:
        raise RuntimeError(f"{run.folder} holds no trained student yet")
    transformer = build_models(preset).transformer
    transformer.load_state_dict(state["average"])
    transformer.eval().to(torch.bfloat16).save_pretrained(folder)
    recipes = few_step_recipes((4, *sorted(set(SHARE_OF_STEPS) - {4})), preset.recipe["shift"], _DISTILLATION)
    origin = f"distilled from the demo's teacher by trajectory regression (demo/training, preset {preset.name})"
    write_json(folder / "edgereel.json", {"origin": origin, "recipes": recipes})


def few_step_recipes(numbers: Sequence[int], shift: float, source: str) -> list[dict[str, Any]]:
    """Return a student's recipes, its default first, for so many steps each."""
    recipes = []
    for steps in numbers:
        sigmas, timesteps = student_levels(steps, shift)
        levels = {"steps": steps, "sigmas": sigmas, "timesteps": timesteps}
        recipes.append({"name": f"{steps}-step", "sampler": "euler", **levels, "guidance": 1.0, "source": source})
    return recipes


def _labels(preset: Preset) -> dict[str, Any]:
    recipe = {"steps": 30, "guidance": 4.0, "source": "edgereel demo training", **preset.recipe}
    return {
        "name": "edgereel demo",
        "license": "Apache-2.0",
        "origin": f"trained from scratch on procedural clips (demo/training, preset {preset.name})",
        "max_tokens": preset.max_tokens,
        **prompt_words(),
        "defaults": {"width": preset.width, "height": preset.height, "frames": preset.frames, "fps": preset.fps},
        "recipes": [
            {"name": "unipc", "sampler": "unipc", **recipe},
            {"name": "euler", "sampler": "euler", **recipe},
        ],
    }


def forget_origin(folder: Path) -> None:
    """Take out of the configurations below a folder where a model was read from: a path of the training machine."""
    for path in folder.rglob("config.json"):
        data = json.loads(path.read_text())
        if data.pop("_name_or_path", None) is not None:
            write_json(path, data)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write data for people to read."""
    path.write_text(json.dumps(data, indent=2) + "\n")
