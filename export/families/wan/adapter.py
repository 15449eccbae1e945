"""The Wan family (diffusers' WanPipeline and WanImageToVideoPipeline): which components make it up, how they must fit.

What clips may begin with is in conditions.py; the networks are in modules.py, conditioned.py, decoder.py, encoder.py and
image_encoder.py, the graphs made of them in parts.py and *_part.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from ....bundle.manifest import Defaults, LatentGeometry, Recipe, TextRules
from ....core.errors import CheckpointError, UsageError, brief
from ...checkpoint import OVERRIDES_NAME, Checkpoint, Component
from ...layout import INDEX_NAME, read_json
from ...request import Lora
from ...tokenizer import pad_token_id, unknown_token_id
from ..base import Facts, ModelPart
from .conditioned_part import ConditionedDenoiserPart
from .conditions import IMAGE_TO_VIDEO, Conditions, conditions_of, streaming_facts
from .encoder_part import EncoderPart
from .image_encoder import image_encoder_of
from .parts import DecoderPart, DenoiserPart, TextEncoderPart

MAX_TOKENS = 512  # this and the next two: WanPipeline's defaults
STEPS, GUIDANCE = 50, 5.0
DEFAULTS = {"width": 832, "height": 480, "frames": 81, "fps": 16}
SAMPLER_OF_SCHEDULER = {"UniPCMultistepScheduler": "unipc", "FlowMatchEulerDiscreteScheduler": "euler"}


class WanAdapter:
    """A checkpoint of a Wan pipeline. Construction checks every configuration and every tensor's name and shape."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        encoder = TextEncoderPart("text_encoder", checkpoint.component("text_encoder", "UMT5EncoderModel"))
        decoder = DecoderPart("decoder", checkpoint.component("vae", "AutoencoderKLWan"))
        names = ["transformer"]
        boundary = checkpoint.index.get("boundary_ratio")
        if boundary is not None:
            names.append("transformer_2")
        images = image_encoder_of(checkpoint)
        components = [checkpoint.component(name, "WanTransformer3DModel") for name in names]
        self._conditions = conditions_of(
            checkpoint, components[0].config, decoder.config, None if images is None else images.tokens
        )
        denoisers = [
            _denoiser("denoiser" if index == 0 else f"denoiser_{index + 1}", component, levels, self._conditions)
            for index, (component, levels) in enumerate(
                zip(components, _noise_levels(checkpoint, boundary), strict=True)
            )
        ]
        for denoiser in denoisers:
            _check_fit(denoiser, encoder, decoder, self._conditions)
        self._denoisers = denoisers
        of_pictures: list[ModelPart] = []
        if self._conditions.encodes or checkpoint.encoder:
            of_pictures.append(EncoderPart("encoder", decoder.component))
        if images is not None and self._conditions.denoiser.images is not None:
            of_pictures.append(images)
        self.parts: Sequence[ModelPart] = [encoder, *denoisers, *of_pictures, decoder]
        self.facts = self._facts(encoder, decoder)

    def add_loras(self, loras: Sequence[Lora]) -> None:
        """Check LoRAs against the denoisers they are for and note them; raise UsageError or CheckpointError."""
        for lora in loras:
            if lora.expert > len(self._denoisers):
                raise UsageError(f"{lora.path}: this checkpoint has one denoiser; leave out @{lora.expert}")
            self.facts.loras.append(self._denoisers[lora.expert - 1].add_lora(lora))

    def _facts(self, encoder: TextEncoderPart, decoder: DecoderPart) -> Facts:
        denoiser = self._denoisers[0]
        tokenizer = self._checkpoint.folder / "tokenizer" / "tokenizer.json"
        overrides = self._checkpoint.overrides
        formats = {key: value for key, value in streaming_facts(self._checkpoint).items() if key == "formats"}
        try:
            return Facts(
                text=TextRules(
                    max_tokens=overrides.get("max_tokens", MAX_TOKENS),
                    pad_token_id=pad_token_id(tokenizer, encoder.config.pad_token_id or 0),
                    unknown_token_id=unknown_token_id(tokenizer),
                    cleaning=["fix_text", "html_unescape", "collapse_whitespace"],
                ),
                latent=LatentGeometry(
                    channels=decoder.config.z_dim,
                    temporal_scale=decoder.temporal_scale,
                    spatial_scale=decoder.spatial_scale,
                    patch=list(denoiser.config.patch_size),
                    max_patches=denoiser.config.rope_max_seq_len,
                ),
                recipes=self._recipes(),
                defaults=Defaults.model_validate(DEFAULTS | formats | dict(overrides.get("defaults", {}))),
                tokenizer=tokenizer,
                denoisers=len(self._denoisers),
                quality=dict(overrides.get("quality", {})),
                held=self._conditions.held,
                condition=self._conditions.condition,
                stream=self._conditions.stream,
            )
        except (ValidationError, TypeError, ValueError) as error:
            path = self._checkpoint.folder / OVERRIDES_NAME
            raise CheckpointError(f"{path}: cannot go into the manifest: {brief(error)}") from error

    def _recipes(self) -> list[Recipe]:
        """Return the checkpoint's own recipes or, without, its scheduler's sampler first and the other one second."""
        given = self._checkpoint.overrides.get("recipes")
        if given is not None:
            return [Recipe.model_validate(recipe) for recipe in given]
        path = self._checkpoint.folder / "scheduler" / "scheduler_config.json"
        config = read_json(path)
        kind = str(config.get("_class_name"))
        if kind not in SAMPLER_OF_SCHEDULER:
            raise CheckpointError(f"{path}: unknown scheduler {kind}; known: {', '.join(SAMPLER_OF_SCHEDULER)}")
        prediction = config.get("prediction_type", "flow_prediction")
        if prediction != "flow_prediction":
            raise CheckpointError(f"{path}: prediction_type is {prediction}; only flow_prediction can be exported")
        common = {
            "steps": STEPS,
            "shift": float(config.get("flow_shift" if "flow_shift" in config else "shift", 1.0)),
            "guidance": GUIDANCE,
            "train_timesteps": config.get("num_train_timesteps", 1000),
            "source": "diffusers WanPipeline",
        }
        own = SAMPLER_OF_SCHEDULER[kind]
        samplers = [own, *(other for other in sorted(SAMPLER_OF_SCHEDULER.values()) if other != own)]
        return [Recipe.model_validate({"name": sampler, "sampler": sampler, **common}) for sampler in samplers]


def _noise_levels(checkpoint: Checkpoint, boundary: Any) -> list[dict[str, Any]]:
    """Return each denoiser's range of sigma: all, or `transformer` above the boundary and `transformer_2` below."""
    if boundary is None:
        return [{}]
    if not isinstance(boundary, int | float) or not 0 < boundary < 1:
        raise CheckpointError(f"{checkpoint.folder / INDEX_NAME}: boundary_ratio is {boundary!r}, not between 0 and 1")
    return [
        {"sigma_low": float(boundary), "sigma_high": 1.0},
        {"sigma_low": 0.0, "sigma_high": float(boundary)},
    ]


def _denoiser(name: str, component: Component, levels: dict[str, Any], conditions: Conditions) -> DenoiserPart:
    if not conditions.denoiser:
        return DenoiserPart(name, component, levels)
    return ConditionedDenoiserPart(name, component, levels, conditions.denoiser)


def _check_fit(denoiser: DenoiserPart, encoder: TextEncoderPart, decoder: DecoderPart, conditions: Conditions) -> None:
    """Raise CheckpointError where the components' configurations do not fit together."""
    path = denoiser.component.folder / "config.json"
    takes_images = conditions.denoiser.images is not None
    if (denoiser.config.image_dim is not None, denoiser.config.added_kv_proj_dim is not None) != (takes_images,) * 2:
        raise CheckpointError(
            f"{path}: image_dim is {denoiser.config.image_dim}, added_kv_proj_dim {denoiser.config.added_kv_proj_dim}: "
            f"of an image-to-video transformer, which goes with {IMAGE_TO_VIDEO} in {INDEX_NAME}"
        )
    wanted = {
        "in_channels": decoder.config.z_dim + conditions.denoiser.condition,
        "out_channels": decoder.config.z_dim,
        "text_dim": encoder.config.d_model,
    }
    for key, value in wanted.items():
        if denoiser.config[key] != value:
            raise CheckpointError(
                f"{path}: {key} is {denoiser.config[key]}, but the vae and text encoder beside it need {value}"
            )
