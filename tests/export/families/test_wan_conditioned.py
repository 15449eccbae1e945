"""What conditioned checkpoints give to the exporter: which graphs with which inputs, and modules that equal diffusers'."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_wan import write_tiny_wan

from edgereel.core.errors import CheckpointError
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.families.base import Adapter
from edgereel.export.layout import read_json
from edgereel.export.liveness import check_alive, check_trials
from edgereel.export.parity import LIMITS, graph_differences, stream_differences, traced_module

PLAIN = ["latents", "timestep", "prompt_embeds"]
INPUTS: dict[str, tuple[list[str], int]] = {
    "held": (PLAIN, 2),
    "condition": ([*PLAIN, "condition"], 1),
    "embeds": ([*PLAIN, "condition", "image_embeds"], 1),
    "both ends": ([*PLAIN, "condition", "image_embeds"], 1),
    "vace": ([*PLAIN, "condition"], 1),
    "stream": ([*PLAIN, "positions", "context_positions", "context_00", "context_01"], 2),
}
"""By what clips begin with: the denoiser's inputs, and how many axes its timestep has."""


def checkpoint_of(kind: str, folder: Path) -> Path:
    begins = "words" if kind == "stream" else kind
    extra = {"stream": "longlive"} if kind == "stream" else None
    return write_tiny_wan(folder, seed=61, depth=1, begins=begins, vae_levels=3, res_blocks=1, extra=extra)


@pytest.fixture(scope="module", params=INPUTS)
def kind_and_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Adapter]:
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-")) / "checkpoint"
    return request.param, open_family(open_checkpoint(checkpoint_of(request.param, folder)))


def test_graphs_take_what_the_checkpoint_wants(kind_and_family: tuple[str, Adapter]) -> None:
    kind, family = kind_and_family
    parts = {part.name: part for part in family.parts}
    images = ["image_encoder"] if kind in ("embeds", "both ends") else []
    assert list(parts) == ["text_encoder", "denoiser", "encoder", *images, "decoder"]
    names, axes = INPUTS[kind]
    (denoiser,) = parts["denoiser"].graphs(parts["denoiser"].load(), torch.float32)
    assert list(denoiser.inputs) == names
    assert len(denoiser.inputs["timestep"].shape) == axes
    said = (family.facts.held, family.facts.condition, family.facts.stream)
    assert [part is not None for part in said] == [kind == "held", kind not in ("held", "stream"), kind == "stream"]
    if images:
        assert denoiser.inputs["image_embeds"].shape == ["batch", 10 if kind == "both ends" else 5, 16]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_modules_equal_diffusers(kind_and_family: tuple[str, Adapter], precision: Any) -> None:
    compute = torch.float32 if precision == "fp32" else torch.float16
    for part in kind_and_family[1].parts:
        if part.name in ("text_encoder", "decoder"):
            continue  # as of words alone
        module = part.load()
        trials = part.trials(module)
        check_trials(part.name, trials)
        sources = part.graphs(module, compute)
        for source in sources:
            check_alive(part.name, source, trials, precision)
        runs = [traced_module(source) for source in sources]
        if part.streams is None:
            differences = graph_differences(runs[0], trials)
        else:
            differences = [*stream_differences(runs[0], runs[1], trials, part.streams)][1]
        assert max(differences) <= (1e-5 if precision == "fp32" else LIMITS["fp16"]), part.name


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(read_json(path) | changes), encoding="utf-8")


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_family(open_checkpoint(folder))
    assert "\n" not in str(caught.value)


def test_pictures_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    whole = checkpoint_of("both ends", tmp_path / "whole")
    edit(whole / "image_processor" / "preprocessor_config.json", do_center_crop=False)
    refuse(whole, r"preprocessor_config\.json: do_center_crop is False; only True can be exported")
    edit(whole / "image_processor" / "preprocessor_config.json", do_center_crop=True, image_mean=[0.5])
    refuse(whole, r"preprocessor_config\.json: image_mean is \[0\.5\], not a number for each of three colours")
    edit(whole / "image_processor" / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    index = read_json(whole / "model_index.json")
    edit(whole / "model_index.json", image_encoder=[None, None])
    refuse(whole, r"model_index\.json: no image_encoder, but the transformer takes embeddings of pictures")
    edit(whole / "model_index.json", image_encoder=index["image_encoder"], _class_name="WanPipeline")
    refuse(whole, r"config\.json: image_dim is 16.*which goes with WanImageToVideoPipeline")


def test_held_frames_may_be_more_where_the_checkpoint_says_so(tmp_path: Path) -> None:
    folder = checkpoint_of("held", tmp_path / "held")
    checkpoint = open_checkpoint(folder)
    held = open_family(checkpoint).facts.held
    assert held is not None
    assert (held.frames, held.timestep) == (1, 0)
    checkpoint.overrides["held"] = {"frames": 3}
    held = open_family(checkpoint).facts.held
    assert held is not None
    assert held.frames == 3
    checkpoint.overrides["held"] = {"frames": 0}
    with pytest.raises(CheckpointError, match=r"edgereel\.json: cannot go into the manifest: .*frames"):
        open_family(checkpoint)


def test_an_encoder_may_be_asked_for(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_wan(tmp_path / "words", depth=1, vae_levels=3, res_blocks=1))
    names = [[part.name for part in open_family(replace(checkpoint, encoder=wanted)).parts] for wanted in (False, True)]
    assert names == [["text_encoder", "denoiser", "decoder"], ["text_encoder", "denoiser", "encoder", "decoder"]]
