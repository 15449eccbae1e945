"""The LTX-Video family (diffusers' LTXPipeline and LTXConditionPipeline): how its components fit, and what the manifest says."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from ....bundle.manifest import Defaults, LatentGeometry, Recipe, TextRules
from ....core.errors import CheckpointError, UsageError, brief
from ...checkpoint import OVERRIDES_NAME, WAY_OUT, Checkpoint
from ...layout import INDEX_NAME
from ...lora.fuse import experts_of
from ...request import FusedAs, Lora, TinyDecoderFile
from ...tokenizer import check_token_ids, pad_token_id, unknown_token_id
from ..base import Facts, ModelPart
from .layouts import INDEX_SETTINGS, TEXT_ENCODER, TRANSFORMER, VAE, take_vae_of_file
from .own_recipes import own_recipes
from .parts import MOST_LATENTS, DecoderPart, DenoiserPart, TextEncoderPart

MAX_TOKENS = {"LTXPipeline": 128, "LTXConditionPipeline": 256}
DEFAULTS = {"width": 704, "height": 512, "frames": 161, "fps": 25}  # both pipelines' defaults, as MAX_TOKENS


class LtxAdapter:
    """An LTX-Video checkpoint. Construction checks every configuration and every tensor's name and shape."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        said = {key: value for key, value in checkpoint.index.items() if not isinstance(value, list)}
        INDEX_SETTINGS.check(checkpoint.folder / INDEX_NAME, said, WAY_OUT)
        take_vae_of_file(checkpoint)
        of_pictures = checkpoint.family == "LTXConditionPipeline"
        encoder = TextEncoderPart(
            "text_encoder", checkpoint.component("text_encoder", "T5EncoderModel", TEXT_ENCODER), masked=of_pictures
        )
        decoder = DecoderPart("decoder", checkpoint.component("vae", "AutoencoderKLLTXVideo", VAE))
        self._denoiser = DenoiserPart(
            "denoiser",
            checkpoint.component("transformer", "LTXVideoTransformer3DModel", TRANSFORMER),
            (decoder.temporal_scale, decoder.spatial_scale),
            first_frame_is_short=of_pictures,
        )
        _check_fit(self._denoiser, encoder, decoder)
        self.parts: Sequence[ModelPart] = [encoder, self._denoiser, decoder]
        self.facts = self._facts(encoder, decoder)

    def add_loras(self, loras: Sequence[Lora], fused_as: FusedAs = "fp32") -> None:
        """Check LoRAs against the denoiser and note them; raise UsageError or CheckpointError."""
        for lora in loras:
            experts_of(lora, [1])
            self.facts.loras.append(self._denoiser.add_lora(lora, None, fused_as))

    def add_tiny_decoder(self, given: TinyDecoderFile) -> None:
        """Raise UsageError: those that are published are for the latents of LTX-2, whose shapes are the same."""
        raise UsageError(
            f"--tiny-decoder {given.path}: none is published for LTX-Video's latents (taeltx_2 is for LTX-2's); leave it out"
        )

    def _facts(self, encoder: TextEncoderPart, decoder: DecoderPart) -> Facts:
        checkpoint = self._checkpoint
        tokenizer = checkpoint.folder / "tokenizer" / "tokenizer.json"
        overrides = checkpoint.overrides
        check_token_ids(tokenizer, encoder.config.vocab_size)
        given = overrides.get("recipes")
        try:
            return Facts(
                text=TextRules(
                    max_tokens=overrides.get("max_tokens", MAX_TOKENS[checkpoint.family]),
                    pad_token_id=pad_token_id(tokenizer, encoder.config.pad_token_id or 0),
                    unknown_token_id=unknown_token_id(tokenizer),
                    trim=True,
                ),
                latent=LatentGeometry(
                    channels=decoder.config.latent_channels,
                    temporal_scale=decoder.temporal_scale,
                    spatial_scale=decoder.spatial_scale,
                    patch=[1, 1, 1],
                    max_patches=MOST_LATENTS,
                ),
                recipes=own_recipes(checkpoint) if given is None else [Recipe.model_validate(each) for each in given],
                defaults=Defaults.model_validate(DEFAULTS | dict(overrides.get("defaults", {}))),
                tokenizer=tokenizer,
                quality=dict(overrides.get("quality", {})),
            )
        except (ValidationError, TypeError, ValueError) as error:
            path = checkpoint.folder / OVERRIDES_NAME
            raise CheckpointError(f"{path}: cannot go into the manifest: {brief(error)}") from error


def _check_fit(denoiser: DenoiserPart, encoder: TextEncoderPart, decoder: DecoderPart) -> None:
    """Raise CheckpointError where the components' configurations do not fit together."""
    path = denoiser.component.config_path
    config = denoiser.config
    wanted = {
        "in_channels": decoder.config.latent_channels,
        "out_channels": decoder.config.latent_channels,
        "caption_channels": encoder.config.d_model,
        "cross_attention_dim": config.num_attention_heads * config.attention_head_dim,
        "patch_size": 1,
        "patch_size_t": 1,
    }
    for key, value in wanted.items():
        if config[key] != value:
            raise CheckpointError(
                f"{path}: {key} is {config[key]}, but the vae, the text encoder and the width beside it need {value}"
            )
