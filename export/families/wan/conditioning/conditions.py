"""How clips of a Wan checkpoint begin with pictures and go on: what its denoisers take, and what the manifest says of it.

| checkpoint | denoiser takes | manifest |
|---|---|---|
| `expand_timesteps` (Wan 2.2 TI2V-5B) | a timestep for each latent frame | `held` |
| `WanImageToVideoPipeline` (I2V, first-last frame) | `condition`; Wan 2.1's `image_embeds` too | `condition` |
| `WanVACEPipeline` | `condition`, of two films and a mask | `condition` |
| `stream` in its edgereel.json or streaming.json, or asked for (Self-Forcing, CausVid, LongLive, the demo) | a context | `stream` |
| any other | nothing more | nothing |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from .....bundle.conditioning import Wanted
from .....bundle.manifest import Condition, Held, Stream
from .....core.errors import CheckpointError, brief
from ....checkpoint import OVERRIDES_NAME, Checkpoint
from ....layout import INDEX_NAME, read_json
from .denoiser import CONTEXT_TYPES, UNCONDITIONED, Conditioning, ContextType
from .streams import PUBLISHED_STREAMS

STREAMING_NAME = "streaming.json"
"""Of a folder whose denoiser was trained chunk by chunk: `stream` as the manifest has it, and `formats`."""
IMAGE_TO_VIDEO = "WanImageToVideoPipeline"
VACE = "WanVACEPipeline"
CONTEXT_KEY = "context_type"
DEFAULT_CONTEXT: ContextType = "float16"
"""Beside the manifest's keys of `stream`: float16, which halves the context, or float32."""


@dataclass(frozen=True)
class Conditions:
    """What a checkpoint says. denoiser: what the denoisers take."""

    denoiser: Conditioning = UNCONDITIONED
    held: Held | None = None
    condition: Condition | None = None
    stream: Stream | None = None

    @property
    def encodes(self) -> bool:
        """Whether clips may begin with pictures, so that the encoder is needed."""
        return any(part is not None for part in (self.held, self.condition, self.stream))


def streaming_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return `stream` and `formats` of a checkpoint, as far as it has them; its edgereel.json goes first."""
    path = checkpoint.folder / STREAMING_NAME
    facts = read_json(path) if path.exists() else {}
    return {key: facts[key] for key in ("stream", "formats") if key in facts} | {
        key: checkpoint.overrides[key] for key in ("stream", "formats") if key in checkpoint.overrides
    }


def conditions_of(
    checkpoint: Checkpoint, denoiser: Mapping[str, Any], autoencoder: Mapping[str, Any], picture_tokens: int | None
) -> Conditions:
    """Return how a checkpoint's clips begin and go on.

    denoiser, autoencoder: configurations. picture_tokens: into how many the image encoder turns a picture, None without one.
    Raises CheckpointError for what cannot be meant.
    """
    try:
        if (stream := streaming_facts(checkpoint).get("stream")) is not None:
            return _streaming(checkpoint, stream)
        if checkpoint.index.get("expand_timesteps"):
            held = Held.model_validate({"frames": 1} | dict(checkpoint.overrides.get("held", {})))
            return Conditions(Conditioning(levels=True), held=held)
        if checkpoint.family == VACE:
            return _of_two_films(autoencoder)
        if checkpoint.family == IMAGE_TO_VIDEO:
            return _of_pictures(checkpoint, denoiser, autoencoder, picture_tokens)
    except (ValidationError, TypeError, ValueError) as error:
        path = checkpoint.folder / OVERRIDES_NAME
        raise CheckpointError(f"{path}: cannot go into the manifest: {brief(error)}") from error
    return Conditions()


def _streaming(checkpoint: Checkpoint, given: Any) -> Conditions:
    """Return the conditions of a stream, as the manifest has it or as the name of a published one."""
    if checkpoint.family in (IMAGE_TO_VIDEO, VACE) or checkpoint.index.get("boundary_ratio") is not None:
        raise CheckpointError(
            f"{checkpoint.folder / INDEX_NAME}: a stream needs one denoiser, of words alone; this is another model"
        )
    if isinstance(given, str) and given not in PUBLISHED_STREAMS:
        raise ValueError(f"unknown stream {given!r}: choose from {', '.join(PUBLISHED_STREAMS)}, or describe one")
    if isinstance(given, str):
        return Conditions(Conditioning(levels=True, context=DEFAULT_CONTEXT), stream=PUBLISHED_STREAMS[given])
    described = dict(given)
    kept = described.pop(CONTEXT_KEY, DEFAULT_CONTEXT)
    if kept not in CONTEXT_TYPES:
        raise ValueError(f"{CONTEXT_KEY} is {kept!r}: choose {' or '.join(CONTEXT_TYPES)}")
    return Conditions(Conditioning(levels=True, context=kept), stream=Stream.model_validate(described))


def _of_pictures(
    checkpoint: Checkpoint, denoiser: Mapping[str, Any], autoencoder: Mapping[str, Any], picture_tokens: int | None
) -> Conditions:
    """Return the conditions of an I2V or first-last-frame model: mask, then latents, and Wan 2.1's embeddings of pictures.

    Learned positions of embeddings are for two pictures, the first and the last one. Without embeddings, a last picture
    is one more flag of the mask, as diffusers' pipeline has it.
    """
    in_time = 2 ** sum(map(bool, autoencoder["temperal_downsample"]))
    channels = in_time + autoencoder["z_dim"]
    width, positions = denoiser.get("image_dim"), denoiser.get("pos_embed_seq_len")
    if width is None:
        return Conditions(Conditioning(condition=channels), condition=_pictures_with_mask("optional"))
    if picture_tokens is None:
        raise CheckpointError(
            f"{checkpoint.folder / INDEX_NAME}: no image_encoder, but the transformer takes embeddings of pictures"
        )
    tokens = picture_tokens if positions is None else 2 * picture_tokens
    if positions not in (None, tokens):
        raise CheckpointError(
            f"{checkpoint.folder / 'transformer' / 'config.json'}: pos_embed_seq_len is {positions}, "
            f"but two pictures of the image_encoder make {tokens} embeddings"
        )
    conditioning = Conditioning(condition=channels, images=(tokens, width))
    return Conditions(conditioning, condition=_pictures_with_mask("no" if positions is None else "required"))


def _of_two_films(autoencoder: Mapping[str, Any]) -> Conditions:
    """Return VACE's conditions: known pictures, blanks, and a mask of as many channels as a latent value stands for pixels.

    Pictures of reference, which stand in front of the clip and are cut off at its end, are not among them.
    """
    in_space = 2 ** (len(autoencoder["dim_mult"]) - 1) * (autoencoder.get("patch_size") or 1)
    condition = Condition(
        layout=["latents", "blank", "mask"], mask="pixels", blank="encoded", first="optional", last="optional"
    )
    return Conditions(Conditioning(condition=2 * autoencoder["z_dim"] + in_space**2), condition=condition)


def _pictures_with_mask(last: Wanted) -> Condition:
    return Condition(layout=["mask", "latents"], mask="pictures", blank="encoded", first="required", last=last)
