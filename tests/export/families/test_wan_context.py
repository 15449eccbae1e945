"""A denoiser with a context, called chunk by chunk, beside one block-causal pass over everything, written here in torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.block_causal import block_causal
from helpers.exported_parts import Run, exported, relative
from helpers.tiny_wan import tiny_transformer

from edgereel.core.errors import CheckpointError
from edgereel.demo.growing.context import Context, denoise
from edgereel.export.checkpoint import Component
from edgereel.export.families.wan.conditioning.denoiser import Conditioning
from edgereel.export.families.wan.conditioning.part import ConditionedDenoiserPart
from edgereel.export.layout import read_json

LIMIT = 1e-5
DEPTH, HEADS, CHANNELS = 2, 2, 4
NAMES = [f"context_{index:02}" for index in range(2 * DEPTH)]


class Exported:
    """A transformer as diffusers has it and as a graph. patch: in height and width."""

    def __init__(self, folder: Path, patch: int, kept: Any = "float32") -> None:
        torch.manual_seed(patch)
        self.model: Any = tiny_transformer(DEPTH, HEADS, CHANNELS, patch_size=(1, patch, patch))
        self.model.eval().save_pretrained(folder / "transformer")
        component = Component(folder / "transformer", read_json(folder / "transformer" / "config.json"))
        part = ConditionedDenoiserPart("denoiser", component, {}, Conditioning(levels=True, context=kept))
        self.run: Run = exported(part, folder / "graphs")["denoiser"]
        self.patch, self.kept = patch, np.dtype(kept)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("context"), 2)


class Film:
    """Clean latents in chunks, noise for the last, a prompt, and a context that grows as the chunks are remembered."""

    def __init__(
        self, exported: Exported, sizes: Sequence[int], batch: int = 1, side: tuple[int, int] = (4, 6)
    ) -> None:
        self.exported, self.sizes = exported, list(sizes)
        self.latents = torch.randn(batch, CHANNELS, sum(sizes), *side)
        self.text = torch.randn(batch, 7, 32)
        self.patches = side[0] * side[1] // exported.patch**2
        self.begins = [0, *itertools.accumulate(sizes)]

    def chunk(self, index: int) -> slice:
        return slice(self.begins[index], self.begins[index + 1])

    def empty(self) -> dict[str, Any]:
        shape = (len(self.text), 0, self.patches, HEADS * 12)
        return {"context_positions": np.zeros(0, np.int64)} | {
            name: np.zeros(shape, self.exported.kept) for name in NAMES
        }

    def call(self, latents: Any, level: float, positions: Any, context: dict[str, Any], text: Any = None) -> Any:
        return self.exported.run(
            {
                "latents": np.asarray(latents),
                "timestep": np.full(latents.shape[:1] + latents.shape[2:3], level, np.float32),
                "prompt_embeds": np.asarray(self.text if text is None else text),
                "positions": np.asarray(positions, np.int64),
                **context,
            }
        )

    def remember(self, context: dict[str, Any], index: int, text: Any = None) -> dict[str, Any]:
        """Return the context with a clean chunk behind it."""
        positions = np.arange(self.begins[index], self.begins[index + 1])
        made = self.call(self.latents[:, :, self.chunk(index)], 0.0, positions, context, text)
        joined = {name: np.concatenate([context[name], made[f"{name}_new"]], axis=1) for name in NAMES}
        return joined | {"context_positions": np.concatenate([context["context_positions"], positions])}

    def roll(self, count: int, text: Any = None) -> dict[str, Any]:
        context = self.empty()
        for index in range(count):
            context = self.remember(context, index, text)
        return context


def expected(film: Film, noisy: Any, last: int, level: float, forgotten: Sequence[int] = (), text: Any = None) -> Any:
    """Return the prediction for chunk `last` of noise, in sight of the clean chunks before but the forgotten frames."""
    before, behind = film.begins[last], film.begins[last + 1]
    of_frame = torch.tensor([index for index, size in enumerate(film.sizes) for _ in range(size)])[:behind]
    visible = of_frame[:, None] >= of_frame[None, :]
    visible[before:, list(forgotten)] = False
    latents = torch.cat([film.latents[:, :, :before], noisy], dim=2)
    levels = torch.tensor([0.0] * before + [level] * (behind - before))
    everything = block_causal(film.exported.model, latents, levels, film.text if text is None else text, visible)
    return everything[:, :, before:]


@pytest.mark.parametrize("sizes", [(3, 3, 3), (1, 2, 2, 2), (4,)])
def test_chunk_by_chunk_equals_one_block_causal_pass(wan: Exported, sizes: tuple[int, ...]) -> None:
    film = Film(wan, sizes)
    for last in range(len(sizes)):
        noisy = torch.randn_like(film.latents[:, :, film.chunk(last)])
        positions = range(film.begins[last], film.begins[last + 1])
        made = film.call(noisy, 750.0, positions, film.roll(last))["prediction"]
        assert relative(made, expected(film, noisy, last, 750.0)) < LIMIT


def test_order_in_the_ring_and_equal_shifts_do_not_matter(wan: Exported) -> None:
    film = Film(wan, (2, 2, 2))
    noisy, context = torch.randn_like(film.latents[:, :, :2]), film.roll(2)
    right = expected(film, noisy, 2, 500.0)
    order = np.random.default_rng().permutation(4)
    ring = {name: tensor[order] if tensor.ndim == 1 else tensor[:, order] for name, tensor in context.items()}
    assert relative(film.call(noisy, 500.0, (4, 5), ring)["prediction"], right) < LIMIT
    ring["context_positions"] = ring["context_positions"] + 9
    assert relative(film.call(noisy, 500.0, (13, 14), ring)["prediction"], right) < LIMIT
    assert relative(film.call(noisy, 500.0, (12, 13), ring)["prediction"], right) > 100 * LIMIT


def test_frames_that_left_the_window_are_as_if_masked(wan: Exported) -> None:
    """What they left in other frames' keys stays, as in every rolling context."""
    film = Film(wan, (1, 1, 1, 1, 2))
    noisy, context = torch.randn_like(film.latents[:, :, :2]), film.roll(4)
    kept = [0, 3]  # a sink of one, and the newest
    window = {name: tensor[kept] if tensor.ndim == 1 else tensor[:, kept] for name, tensor in context.items()}
    made = film.call(noisy, 250.0, (4, 5), window)["prediction"]
    assert relative(made, expected(film, noisy, 4, 250.0, forgotten=(1, 2))) < LIMIT
    assert relative(made, expected(film, noisy, 4, 250.0)) > 100 * LIMIT


def test_after_a_prompt_switch_the_window_made_again_is_that_of_the_new_prompt(wan: Exported) -> None:
    film, other = Film(wan, (2, 2, 2)), torch.randn(1, 5, 32)
    noisy = torch.randn_like(film.latents[:, :, :2])
    right = expected(film, noisy, 2, 750.0, text=other)
    again = film.call(noisy, 750.0, (4, 5), film.roll(2, other), other)["prediction"]
    assert relative(again, right) < LIMIT
    assert relative(film.call(noisy, 750.0, (4, 5), film.roll(2), other)["prediction"], right) > 100 * LIMIT


def test_without_a_context_it_is_the_ordinary_denoiser(wan: Exported) -> None:
    film = Film(wan, (3,), batch=2, side=(6, 4))
    with torch.no_grad():
        ordinary = wan.model(film.latents, torch.tensor([640.0, 640.0]), film.text, return_dict=False)[0]
    made = film.call(film.latents, 640.0, range(3), film.empty())["prediction"]
    assert relative(made, ordinary) < LIMIT


def test_a_noise_level_for_each_frame_equals_diffusers_one_for_each_token(wan: Exported) -> None:
    film = Film(wan, (3,), batch=2)
    levels = torch.tensor([[0.0, 800.0, 800.0], [0.0, 0.0, 30.0]])
    with torch.no_grad():
        of_token = levels.repeat_interleave(film.patches, dim=1)
        right = wan.model(film.latents, of_token, film.text, return_dict=False)[0]
    inputs = {"latents": film.latents, "timestep": levels, "prompt_embeds": film.text, "positions": torch.arange(3)}
    made = wan.run({name: tensor.numpy() for name, tensor in inputs.items()} | film.empty())["prediction"]
    assert relative(made, right) < LIMIT


def test_it_is_what_the_demos_training_computes(tmp_path: Path) -> None:
    """`demo/growing/context.py` counts positions anew in every call, patches are of one value, keys are kept in float16."""
    demo = Exported(tmp_path, 1, "float16")
    film = Film(demo, (2, 1, 2), side=(2, 3))
    context: Context | None = None
    with torch.no_grad():
        for index in range(2):
            chunk = film.latents[:, :, film.chunk(index)]
            _, left = denoise(demo.model, chunk, torch.zeros(1), film.text, context)
            context = left if context is None else context.then(left)
        noisy = torch.randn_like(film.latents[:, :, :2])
        assert context is not None
        right, _ = denoise(demo.model, noisy, torch.full((1,), 900.0), film.text, context)
    made = film.call(noisy, 900.0, (3, 4), film.roll(2))
    assert relative(made["prediction"], right) < 1e-3  # what float16 keeps of a key
    assert made["context_00_new"].dtype == np.float16


def test_patches_of_several_frames_are_refused(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    config: dict[str, Any] = {**tiny_transformer(1, 1, 2).config, "patch_size": (2, 2, 2)}
    WanTransformer3DModel.from_config(config).save_pretrained(tmp_path)
    component = Component(tmp_path, read_json(tmp_path / "config.json"))
    with pytest.raises(CheckpointError, match=r"config\.json: patch_size spans 2 latent frames"):
        ConditionedDenoiserPart("denoiser", component, {}, Conditioning(levels=True, context="float16"))
