"""The encoder as a stream of pictures, beside diffusers' encoding of the whole film."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from helpers.exported_parts import Arrays, Run, exported, relative
from helpers.tiny_wan import randomize, tiny_vae

from edgereel.core.errors import CheckpointError
from edgereel.export.checkpoint import Component
from edgereel.export.families.wan.encoder_part import EncoderPart
from edgereel.export.layout import read_json

LIMIT = 1e-5
KINDS: dict[str, dict[str, Any]] = {
    "Wan 2.1": {"channels": 4, "patch": None, "residual": False, "levels": 3, "res_blocks": 1},
    "Wan 2.1, as deep": {"channels": 3, "patch": None, "residual": False, "levels": 4, "res_blocks": 2},
    "Wan 2.2": {"channels": 6, "patch": 2, "residual": True, "levels": 3, "res_blocks": 1},
    "Wan 2.2, as deep": {"channels": 5, "patch": 2, "residual": True, "levels": 4, "res_blocks": 2},
}
SLOW = [kind for kind in KINDS if "deep" in kind]


class Encoder:
    def __init__(self, folder: Path, kind: dict[str, Any]) -> None:
        torch.manual_seed(len(str(kind)))
        vae = tiny_vae(**kind)
        randomize(vae)
        vae.save_pretrained(folder / "vae")
        self.vae: Any = vae.eval()
        self.part = EncoderPart("encoder", Component(folder / "vae", read_json(folder / "vae" / "config.json")))
        graphs = exported(self.part, folder / "graphs")
        self.first, self.later = graphs["encoder_first"], graphs["encoder_next"]

    def film(self, batch: int, later: int, rows: int, columns: int) -> Any:
        scale = self.part.spatial_scale
        return torch.rand(batch, 3, 1 + later * self.part.temporal_scale, rows * scale, columns * scale) * 2 - 1

    @torch.no_grad()
    def whole(self, film: Any) -> Any:
        """Return diffusers' latents, normalised as its pipelines normalise them."""
        mean, std = (torch.tensor(self.vae.config[f"latents_{key}"]).view(1, -1, 1, 1, 1) for key in ("mean", "std"))
        return (self.vae.encode(film).latent_dist.mode() - mean) / std

    def streamed(self, film: Any, later: Run | None = None) -> tuple[Any, list[Arrays]]:
        """Return the latents of a film encoded piece by piece, and the states after each piece."""
        pieces = torch.split(film[:, :, 1:], self.part.temporal_scale, dim=2)
        outputs = self.first({"pictures": film[:, :, :1].numpy()})
        latents, states = [outputs.pop("latent")], [outputs]
        for piece in pieces:
            given = {name.removesuffix("_next"): state for name, state in states[-1].items()}
            outputs = (later or self.later)({"pictures": piece.numpy(), **given})
            latents.append(outputs.pop("latent"))
            states.append(outputs)
        return np.concatenate(latents, axis=2), states


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=pytest.mark.full if kind in SLOW else ()) for kind in KINDS]
)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(tmp_path_factory.mktemp("encoder"), KINDS[request.param])


def test_a_film_encoded_piece_by_piece_equals_the_whole(encoder: Encoder) -> None:
    for size in ((1, 3, 2, 3), (2, 1, 3, 1), (1, 6, 1, 2)):
        film = encoder.film(*size)
        latents, _ = encoder.streamed(film)
        assert relative(latents, encoder.whole(film)) < LIMIT


def test_a_picture_alone_is_the_first_latent_frame_of_any_film(encoder: Encoder) -> None:
    film = encoder.film(1, 2, 2, 2)
    latents, _ = encoder.streamed(film)
    assert relative(latents[:, :, :1], encoder.whole(film[:, :, :1])) < LIMIT


def test_the_state_does_not_grow(encoder: Encoder) -> None:
    _, states = encoder.streamed(encoder.film(1, 5, 2, 2))
    sizes = [sum(state.nbytes for state in of_piece.values()) for of_piece in states]
    assert len(set(sizes)) == 1


def test_a_state_that_is_not_handed_on_is_noticed(encoder: Encoder) -> None:
    film = encoder.film(1, 2, 2, 2)

    def forgetful(inputs: Arrays) -> Arrays:
        return encoder.later({name: array * (name == "pictures") for name, array in inputs.items()})

    latents, _ = encoder.streamed(film, forgetful)
    assert relative(latents, encoder.whole(film)) > 100 * LIMIT


def test_an_encoder_with_attention_in_its_levels_is_refused(tmp_path: Path) -> None:
    vae = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True],
                           attn_scales=[1.0], scale_factor_temporal=2, scale_factor_spatial=2,
                           latents_mean=[0.0] * 4, latents_std=[1.0] * 4)  # fmt: skip
    vae.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json: attn_scales is \[1\.0\]"):
        EncoderPart("encoder", Component(tmp_path, read_json(tmp_path / "config.json")))
