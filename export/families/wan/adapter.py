"""The Wan family (diffusers' WanPipeline and WanImageToVideoPipeline): which components make it up, how they must fit.

What clips may begin with is in conditioning/; the networks are in modules.py, decoder.py, encoder.py and
image_encoder.py, the graphs made of them in parts.py and *_part.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from ....bundle.manifest import Defaults, LatentGeometry, Recipe, TextRules
from ....core.errors import CheckpointError, brief
from ...checkpoint import OVERRIDES_NAME, WAY_OUT, Checkpoint, Component, ComponentLayout
from ...layout import INDEX_NAME, read_json
from ...lora.fuse import experts_of as experts_of_lora
from ...request import FusedAs, Lora, TinyDecoderFile
from ...schedulers import SCHEDULERS, Schedule, read_schedule
from ...tokenizer import check_token_ids, pad_token_id, unknown_token_id
from ..base import Facts, ModelPart
from .conditioning.conditions import IMAGE_TO_VIDEO, VACE, Conditions, conditions_of, streaming_facts
from .conditioning.part import ConditionedDenoiserPart
from .conditioning.vace import VaceDenoiserPart
from .encoder_part import EncoderPart
from .image_encoder import image_encoder_of
from .parts import DecoderPart, DenoiserPart, TextEncoderPart
from .published.defaults import recommended
from .published.experts import experts_of
from .published.layouts import INDEX_SETTINGS, TEXT_ENCODER, TRANSFORMER, VACE_TRANSFORMER, VAE
from .tiny.part import TinyDecoderPart

MAX_TOKENS = 512  # WanPipeline's


class WanAdapter:
    """A checkpoint of a Wan pipeline. Construction checks every configuration and every tensor's name and shape."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        _check_index(checkpoint)
        encoder = TextEncoderPart(
            "text_encoder", checkpoint.component("text_encoder", "UMT5EncoderModel", TEXT_ENCODER)
        )
        decoder = DecoderPart("decoder", checkpoint.component("vae", "AutoencoderKLWan", VAE))
        images = image_encoder_of(checkpoint)
        self._experts = experts_of(checkpoint)
        kind, layout, of_kind = _denoiser_kind(checkpoint)
        components = [checkpoint.component(expert.component, kind, layout) for expert in self._experts]
        self._conditions = conditions_of(
            checkpoint, components[0].config, decoder.config, None if images is None else images.tokens
        )
        denoisers = [
            _denoiser(of_kind, _nth("denoiser", index), component, expert.levels, self._conditions)
            for index, (component, expert) in enumerate(zip(components, self._experts, strict=True))
        ]
        for denoiser in denoisers:
            _check_fit(denoiser, encoder, decoder, self._conditions)
        self._denoisers = denoisers
        of_pictures: list[ModelPart] = []
        if self._conditions.encodes or checkpoint.encoder:
            of_pictures.append(EncoderPart("encoder", decoder.component))
        if images is not None and self._conditions.denoiser.images is not None:
            of_pictures.append(images)
        self._decoder = decoder
        self.parts: Sequence[ModelPart] = [encoder, *denoisers, *of_pictures, decoder]
        self.facts = self._facts(encoder, decoder)

    def add_loras(self, loras: Sequence[Lora], fused_as: FusedAs = "fp32") -> None:
        """Check LoRAs against the denoisers they are for and note them; raise UsageError or CheckpointError."""
        places = [expert.place for expert in self._experts]
        for lora in loras:
            for place in experts_of_lora(lora, places):
                denoiser = self._denoisers[0 if len(places) == 1 else place - 1]
                self.facts.loras.append(denoiser.add_lora(lora, None if len(places) == 1 else place, fused_as))

    def add_tiny_decoder(self, given: TinyDecoderFile) -> None:
        """Make a decoder of the TAEHV family the last part; raise CheckpointError where it does not fit the latents."""
        tiny = TinyDecoderPart(given, self.facts.latent, self._decoder.config, self._checkpoint.notes)
        self._checkpoint.opened.append(tiny.component)
        self.parts = [*self.parts, tiny]

    def _facts(self, encoder: TextEncoderPart, decoder: DecoderPart) -> Facts:
        denoiser = self._denoisers[0]
        tokenizer = self._checkpoint.folder / "tokenizer" / "tokenizer.json"
        overrides = self._checkpoint.overrides
        formats = {key: value for key, value in streaming_facts(self._checkpoint).items() if key == "formats"}
        check_token_ids(tokenizer, encoder.config.vocab_size)
        schedule = self._schedule()
        config = denoiser.config
        advice = recommended(
            config.num_attention_heads * config.attention_head_dim,
            decoder.config.z_dim,
            None if schedule is None else schedule.shift,
            experts=len(self._denoisers),
            takes_images=config.in_channels != decoder.config.z_dim,
            timestep_each=self._checkpoint.index.get("expand_timesteps") is True,
        )
        step = decoder.spatial_scale * max(config.patch_size[1:])
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
                recipes=self._recipes(schedule, advice.steps, advice.guidance, advice.source),
                defaults=Defaults.model_validate(
                    advice.size(step, config.rope_max_seq_len) | formats | dict(overrides.get("defaults", {}))
                ),
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

    def _schedule(self) -> Schedule | None:
        """Return what the scheduler says, None where it is not needed: other recipes are given, and it says nothing usable."""
        checkpoint = self._checkpoint
        if checkpoint.overrides.get("recipes") is not None:
            return None
        path = checkpoint.folder / "scheduler" / "scheduler_config.json"
        entry = checkpoint.index.get("scheduler")
        listed = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        try:
            return read_schedule(path, read_json(path), listed, checkpoint.shift)
        except CheckpointError as error:
            if checkpoint.recipe is None:
                raise
            checkpoint.notes.append(f"only the recipe {checkpoint.recipe} is kept: {error}")
            return None

    def _recipes(self, schedule: Schedule | None, steps: int, guidance: dict[str, Any], source: str) -> list[Recipe]:
        """Return the checkpoint's own recipes or, without, its scheduler's sampler first and the other one second."""
        given = self._checkpoint.overrides.get("recipes")
        if given is not None:
            return [Recipe.model_validate(recipe) for recipe in given]
        if schedule is None:
            return []
        common = {
            "steps": steps,
            "shift": schedule.shift,
            **guidance,
            "train_timesteps": schedule.train_timesteps,
            "source": source,
        }
        known = sorted(scheduler.sampler for scheduler in SCHEDULERS.values())
        samplers = [schedule.sampler, *(other for other in known if other != schedule.sampler)]
        return [Recipe.model_validate({"name": sampler, "sampler": sampler, **common}) for sampler in samplers]


def _check_index(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where `model_index.json` has a setting that is not known. Components are lists."""
    said = {key: value for key, value in checkpoint.index.items() if not isinstance(value, list)}
    INDEX_SETTINGS.check(checkpoint.folder / INDEX_NAME, said, WAY_OUT)


def _denoiser_kind(checkpoint: Checkpoint) -> tuple[str, ComponentLayout, type[ConditionedDenoiserPart]]:
    """Return the class of a checkpoint's denoisers, how they are published, and the part they are where conditioned."""
    if checkpoint.family == VACE:
        return "WanVACETransformer3DModel", VACE_TRANSFORMER, VaceDenoiserPart
    return "WanTransformer3DModel", TRANSFORMER, ConditionedDenoiserPart


def _denoiser(
    kind: type[ConditionedDenoiserPart], name: str, component: Component, levels: dict[str, Any], conditions: Conditions
) -> DenoiserPart:
    if not conditions.denoiser:
        return DenoiserPart(name, component, levels)
    return kind(name, component, levels, conditions.denoiser)


def _nth(name: str, index: int) -> str:
    return name if index == 0 else f"{name}_{index + 1}"


def _check_fit(denoiser: DenoiserPart, encoder: TextEncoderPart, decoder: DecoderPart, conditions: Conditions) -> None:
    """Raise CheckpointError where the components' configurations do not fit together."""
    path = denoiser.component.config_path
    takes_images = conditions.denoiser.images is not None
    if (denoiser.config.image_dim is not None, denoiser.config.added_kv_proj_dim is not None) != (takes_images,) * 2:
        raise CheckpointError(
            f"{path}: image_dim is {denoiser.config.image_dim}, added_kv_proj_dim {denoiser.config.added_kv_proj_dim}: "
            f"of an image-to-video transformer, which goes with {IMAGE_TO_VIDEO} in {INDEX_NAME}"
        )
    condition = conditions.denoiser.condition
    beside = {"vace_in_channels": condition} if isinstance(denoiser, VaceDenoiserPart) else {}
    wanted = {
        "in_channels": decoder.config.z_dim + (0 if beside else condition),
        **beside,
        "out_channels": decoder.config.z_dim,
        "text_dim": encoder.config.d_model,
    }
    for key, value in wanted.items():
        # Without out_channels diffusers takes as many as come in.
        found = denoiser.config.in_channels if denoiser.config[key] is None else denoiser.config[key]
        if found != value:
            raise CheckpointError(f"{path}: {key} is {found}, but the vae and text encoder beside it need {value}")
