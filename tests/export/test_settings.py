"""Every setting that diffusers obeys is implemented, known not to matter, or refused by name: rows 5, 7, 13, 25, 39, 42-44."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from helpers.tiny_wan import write_tiny_wan

from edgereel.bundle.manifest import Recipe
from edgereel.core.errors import CheckpointError
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.schedulers import SCHEDULERS, read_schedule
from edgereel.runtime.sampling.recipes import schedule_of
from edgereel.runtime.sampling.samplers import sample_euler, sample_unipc

PATH = Path("scheduler_config.json")
CLASSES = {
    "UniPCMultistepScheduler": UniPCMultistepScheduler,
    "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
}
BASE: dict[str, dict[str, Any]] = {
    "UniPCMultistepScheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
}
UNIPC, EULER = BASE
STEPS = 8

REFUSED = [
    (UNIPC, {"use_karras_sigmas": True}),
    (UNIPC, {"use_exponential_sigmas": True}),
    (UNIPC, {"use_beta_sigmas": True}),
    (UNIPC, {"use_flow_sigmas": False}),
    (UNIPC, {"final_sigmas_type": "sigma_min"}),
    (UNIPC, {"shift_terminal": 0.1}),
    (UNIPC, {"thresholding": True}),
    (UNIPC, {"solver_order": 3}),
    (UNIPC, {"solver_order": 1}),
    (UNIPC, {"disable_corrector": [0]}),
    (UNIPC, {"solver_type": "bh1"}),
    (UNIPC, {"predict_x0": False}),
    (UNIPC, {"lower_order_final": False}),
    (UNIPC, {"use_dynamic_shifting": True}),
    (UNIPC, {"prediction_type": "epsilon"}),
    (UNIPC, {"a_setting_of_tomorrow": 1}),
    (EULER, {"use_karras_sigmas": True}),
    (EULER, {"use_exponential_sigmas": True}),
    (EULER, {"use_beta_sigmas": True}),
    (EULER, {"shift_terminal": 0.1}),
    (EULER, {"stochastic_sampling": True}),
    (EULER, {"invert_sigmas": True}),
    (EULER, {"use_dynamic_shifting": True}),
    (EULER, {"a_setting_of_tomorrow": 1}),
]
WITHOUT_EFFECT = [
    (UNIPC, {"timestep_spacing": "trailing"}),
    (UNIPC, {"timestep_spacing": "leading", "steps_offset": 1}),
    (UNIPC, {"solver_type": "midpoint"}),
    (UNIPC, {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.03}),
    (UNIPC, {"rescale_betas_zero_snr": True}),
    (UNIPC, {"sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.5}),
    (UNIPC, {"time_shift_type": "exponential"}),
    (UNIPC, {"sigma_min": 0.1, "sigma_max": 0.9}),
    (UNIPC, {"num_train_timesteps": 500}),
    (UNIPC, {"flow_shift": 5.0}),
    (EULER, {"base_shift": 0.9, "max_shift": 2.0, "base_image_seq_len": 100, "max_image_seq_len": 200}),
    (EULER, {"time_shift_type": "linear"}),
    (EULER, {"shift": 5.0, "num_train_timesteps": 500}),
]


def named(cases: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    return [pytest.param(kind, changes, id=f"{kind[:5]} {changes}") for kind, changes in cases]


def by_diffusers(kind: str, config: dict[str, Any]) -> torch.Tensor:
    """Denoise a vector with a made-up model, the way the pipeline steps."""
    scheduler = CLASSES[kind](**config)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(1)
    latents = start()
    for timestep in scheduler.timesteps:
        latents = scheduler.step(
            velocity(latents, float(timestep)),
            timestep,
            latents,
            return_dict=False,
            **({"generator": generator} if kind == EULER else {}),
        )[0]
    return latents


def by_edgereel(kind: str, config: dict[str, Any]) -> torch.Tensor:
    said = read_schedule(PATH, {"_class_name": kind, **config}, kind)
    recipe = Recipe(
        name="own",
        sampler=said.sampler,
        steps=STEPS,
        shift=said.shift,
        guidance=1,
        train_timesteps=said.train_timesteps,
    )
    sample = {"unipc": sample_unipc, "euler": sample_euler}[said.sampler]

    def model(latents, timestep, _sigma):
        return velocity(torch.from_numpy(np.asarray(latents, np.float32)), float(timestep)).numpy()

    return torch.from_numpy(np.asarray(sample(model, start().numpy(), schedule_of(recipe)), np.float32))


def start() -> torch.Tensor:
    return torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(3))


def velocity(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    return torch.sin(2 * latents + timestep / 300) + 0.3 * latents


@pytest.mark.parametrize(("kind", "changes"), named(WITHOUT_EFFECT))
def test_what_is_accepted_samples_as_diffusers_does(kind, changes):
    config = BASE[kind] | changes
    expected, found = by_diffusers(kind, config), by_edgereel(kind, config)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize(("kind", "changes"), named(REFUSED))
def test_what_is_not_implemented_is_refused_by_name(kind, changes):
    key = next(iter(changes))
    with pytest.raises(CheckpointError, match=rf"scheduler_config\.json: {key} is .*--recipe") as caught:
        read_schedule(PATH, {"_class_name": kind, **BASE[kind], **changes}, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["prediction_type", "use_flow_sigmas"])
def test_a_missing_key_is_what_diffusers_takes_in_its_place(key):
    """UniPC's own defaults are not flow matching's."""
    config = {name: value for name, value in BASE[UNIPC].items() if name != key}
    with pytest.raises(CheckpointError, match=f"{key} is missing, and without it UniPCMultistepScheduler is not"):
        read_schedule(PATH, {"_class_name": UNIPC, **config}, UNIPC)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_setting_of_the_class_is_in_the_table(kind):
    """A release of diffusers with a new setting fails here, not in users' clips."""
    settings = SCHEDULERS[kind].settings
    known = settings.obeyed | settings.idle | set(settings.fixed) | set(settings.needed)
    own = {key for key in CLASSES[kind](**BASE[kind]).config if not key.startswith("_")}
    assert own == known
    read_schedule(PATH, dict(CLASSES[kind](**BASE[kind]).config) | {"_class_name": kind}, kind)


@pytest.mark.parametrize("shift", [None, 0, -1, "3", True, float("inf")])
def test_a_shift_that_is_none_names_the_file(shift):
    """Row 13."""
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json: flow_shift is .*, not a number above 0"):
        read_schedule(PATH, {"_class_name": UNIPC, **BASE[UNIPC], "flow_shift": shift}, UNIPC)


def test_index_and_scheduler_that_disagree():
    with pytest.raises(CheckpointError, match=f"is a {UNIPC}'s, but model_index.json has a {EULER} as scheduler"):
        read_schedule(PATH, {"_class_name": UNIPC, **BASE[UNIPC]}, EULER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("whole") / "checkpoint", depth=1, vae_levels=2)


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def edit(path: Path, drop: str = "", **changes) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    data.pop(drop, None)
    path.write_text(json.dumps(data | changes), encoding="utf-8")


def facts(folder: Path, **options):
    return open_family(open_checkpoint(folder, **options)).facts


@pytest.mark.parametrize("damage", ["unknown class", "no folder", "karras"])
def test_a_recipe_needs_no_scheduler(damage, copied):
    """Row 25: refused without --recipe, not needed with it."""
    path = copied / "scheduler" / "scheduler_config.json"
    if damage == "unknown class":
        edit(path, _class_name="FlowMatchLCMScheduler")
        edit(copied / "model_index.json", scheduler=["diffusers", "FlowMatchLCMScheduler"])
    elif damage == "no folder":
        shutil.rmtree(copied / "scheduler")
    else:
        edit(path, use_karras_sigmas=True)
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json"):
        facts(copied)
    checkpoint = open_checkpoint(copied, recipe="self-forcing")
    assert open_family(checkpoint).facts.recipes == []
    assert any(note.startswith("only the recipe self-forcing is kept: ") for note in checkpoint.notes)


REFUSED_FILES = {
    "second expert without boundary": (
        lambda f: (
            shutil.copytree(f / "transformer", f / "transformer_2"),
            edit(f / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"]),
        ),
        r"transformer_2 is there and boundary_ratio is not.*0\.875 is Wan 2\.2 T2V's",
    ),
    "second expert that the index does not list": (
        lambda f: shutil.copytree(f / "transformer", f / "transformer_2"),
        r"transformer_2 is there and boundary_ratio is not",
    ),
    "setting of the pipeline": (
        lambda f: edit(f / "model_index.json", skip_layers=2),
        r"model_index\.json: skip_layers is no setting",
    ),
    "setting of the transformer": (
        lambda f: edit(f / "transformer/config.json", window=3),
        r"transformer/config\.json: window is no setting of WanTransformer3DModel",
    ),
    "value of the transformer": (
        lambda f: edit(f / "transformer/config.json", qk_norm="layer_norm"),
        r"qk_norm is layer_norm; edgereel implements rms_norm_across_heads",
    ),
    "setting of the VAE": (
        lambda f: edit(f / "vae/config.json", scaling_factor=0.5),
        r"vae/config\.json: scaling_factor is no setting",
    ),
    "setting of the text encoder": (
        lambda f: edit(f / "text_encoder/config.json", rotary=True),
        r"text_encoder/config\.json: rotary is no setting",
    ),
    "another text encoder": (
        lambda f: edit(f / "text_encoder/config.json", model_type="t5"),
        r"model_type is t5; the text_encoder must be a UMT5EncoderModel",
    ),
    "tokenizer that pads on the left": (
        lambda f: edit(f / "tokenizer/tokenizer_config.json", padding_side="left"),
        r"padding_side is 'left'",
    ),
    "another tokenizer": (
        lambda f: edit(
            f / "tokenizer/tokenizer.json",
            model=json.loads((f / "tokenizer/tokenizer.json").read_text())["model"] | {"vocab": {"<unk>": 2, "a": 900}},
        ),
        r"has the id 900, and the text encoder's table 64 rows",
    ),
    "means of another length": (
        lambda f: edit(f / "vae/config.json", latents_mean=[0.0]),
        r"vae/config\.json: latents_mean has 1 numbers for 4 channels",
    ),
    "no deviations": (
        lambda f: edit(f / "vae/config.json", drop="latents_std"),
        r"latents_std has 16 numbers for 4 channels .* a file without them gets the 16 of Wan 2\.1",
    ),
    "a deviation of 0": (lambda f: edit(f / "vae/config.json", latents_std=[1, 1, 0, 1]), r"not above 0"),
    "mean that is no number": (
        lambda f: edit(f / "vae/config.json", latents_mean=[1, 1, "x", 1]),
        r"not finite numbers",
    ),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_contradictions_and_unknown_settings_are_refused_before_any_work(case, copied):
    """Rows 7 and 10, and whatever else is of their kind."""
    damage, message = REFUSED_FILES[case]
    damage(copied)
    with pytest.raises(CheckpointError, match=message) as caught:
        facts(copied)
    assert "\n" not in str(caught.value)


def test_what_does_not_matter_is_accepted_without_noise(copied, caplog):
    """Rows 39, 42, 43 and 44: a published key that diffusers warns of, how weights were stored, a byte order mark."""
    edit(copied / "vae/config.json", clip_output=False)
    edit(copied / "transformer/config.json", dtype="bfloat16", torch_dtype="bfloat16", out_channels=None)
    edit(copied / "text_encoder/config.json", torch_dtype="bfloat16", output_past=True)
    index = copied / "model_index.json"
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    assert facts(copied).denoisers == 1
    assert not caplog.records
