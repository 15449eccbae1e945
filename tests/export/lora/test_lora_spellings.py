"""LoRA files in every spelling that trainers use: fused as the arithmetic says, or refused by the part not understood."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from helpers import lora_files
from helpers.lora_spellings import DOTTED, FLAT, MODULES, PAIRS, PLACES, spellings
from helpers.tiny_wan import tiny_transformer
from safetensors.torch import save_file

from edgereel.core.errors import CheckpointError, UsageError
from edgereel.export import Lora
from edgereel.export.families.wan.lora import NAMINGS
from edgereel.export.lora.fuse import check_lora, experts_of

SPELLINGS = list(spellings(48))
SCALE = 0.7


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(41)
    return tiny_transformer()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(42)


def check(model: torch.nn.Module, file: Path | str, expert: int | None = None, **options):
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return check_lora(Lora(Path(file), **options), shapes, NAMINGS, expert)


def fused(model: torch.nn.Module, file: Path | str, scale: float = 1.0, **options) -> dict[str, torch.Tensor]:
    """Return the changes to the weights that the file makes, by parameter; all that do not change are left out."""
    checked = check(model, file, scale=scale, **options)
    other = copy.deepcopy(model)
    checked.fuse(other)
    changes = {name: parameter - model.get_parameter(name) for name, parameter in other.named_parameters()}
    return {name: change.detach() for name, change in changes.items() if change.any()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert float((found[name] - change).norm() / change.norm()) < 1e-6, name


def test_the_generator_has_every_part():
    assert {spelling.wrapper for spelling in SPELLINGS} == {*DOTTED, *FLAT}
    assert {spelling.pair for spelling in SPELLINGS} == set(PAIRS)
    assert {spelling.place for spelling in SPELLINGS} == set(PLACES)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_every_spelling_fuses_as_the_arithmetic_says(spelling, model, tmp_path):
    file, expected = spelling.write(tmp_path, model)
    assert_close(fused(model, file, SCALE), {name: SCALE * change for name, change in expected.items()})
    said = check(model, file).strength
    assert ("no alpha found: fused at 1" in said) == (spelling.place == "nowhere")


STRANGE = ("unet.", "vace_", "blocks_of.", "text_model.", "lora_te1_", "transformer.student.", "lora_unet_vace_")


@pytest.mark.parametrize("beginning", STRANGE)
def test_a_beginning_that_is_not_known_is_named_and_not_skipped(beginning, model, tmp_path):
    stem = "blocks_0_attn1_to_q" if beginning.startswith("lora_") else "blocks.0.attn1.to_q"
    names = {part: f"{beginning}{stem}.lora_{part}.weight" for part in "AB"}
    save_file({names["A"]: torch.ones(4, 24), names["B"]: torch.ones(24, 4)}, tmp_path / "x.safetensors")
    for partial in (False, True):
        with pytest.raises(CheckpointError, match="what stands in front of the layers is not understood") as caught:
            check(model, tmp_path / "x.safetensors", partial=partial)
        assert re.search(rf"'(transformer\.)?{re.escape(beginning)}'", str(caught.value)), str(caught.value)


def write_pairs(path: Path, keys: dict[str, tuple[int, int]], **others: torch.Tensor) -> dict[str, torch.Tensor]:
    """Write random pairs of rank 4 for stems with these (out, in), and other tensors; return up · down by stem."""
    tensors, products = dict(others), {}
    for stem, (out, into) in keys.items():
        down, up = torch.randn(4, into), torch.randn(out, 4)
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        products[stem] = up @ down
    save_file(tensors, path)
    return products


def test_what_does_not_fit_is_left_out_and_listed_where_that_was_asked_for(model, tmp_path):
    """Image layers, a text encoder's, leftovers of training, a wider patch embedding: rows 26 and 27."""
    good, image = "diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.cross_attn.k_img"
    path = tmp_path / "x.safetensors"
    leftovers = {
        "scaled_fp8": torch.zeros(2),
        "global_step": torch.tensor(7),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0),
        "diffusion_model.vace_blocks.0.self_attn.q.diff_b": torch.zeros(24),
        "diffusion_model.patch_embedding.diff": torch.zeros(24, 36, 1, 2, 2),
        "diffusion_model.img_emb.proj.1.diff_b": torch.zeros(5),
    }
    products = write_pairs(path, {good: (24, 24), image: (24, 24)}, **leftovers)
    with pytest.raises(CheckpointError, match=r"keys match nothing in this model.*; (to leave out|what stands)"):
        check(model, path)
    checked = check(model, path, partial=True)
    assert_close(fused(model, path, partial=True), {"blocks.0.attn1.to_q.weight": products[good]})
    pair = [f"{image}.lora_{part}.weight" for part in ("down", "up")]
    assert sorted(checked.left_out) == sorted([*leftovers, *pair])
    record = checked.record("denoiser")
    assert (record.left_out, sorted(record.left_out_keys)) == (8, sorted(checked.left_out))
    assert any("8 of its tensors" in note and image in note for note in record.notes())


def test_a_layer_of_another_shape_is_named_with_the_way_to_leave_it_out(model, tmp_path):
    write_pairs(tmp_path / "x.safetensors", {"blocks.0.attn1.to_q": (24, 24), "blocks.0.attn1.to_k": (24, 48)})
    with pytest.raises(CheckpointError, match=r"wrong shape for blocks\.0\.attn1\.to_k\.weight .*:partial"):
        check(model, tmp_path / "x.safetensors")
    assert list(fused(model, tmp_path / "x.safetensors", partial=True)) == ["blocks.0.attn1.to_q.weight"]


def test_another_models_file_is_refused_whole_even_in_part(model, tmp_path):
    write_pairs(tmp_path / "x.safetensors", {"transformer.single_blocks.0.linear1": (24, 24)})
    write_pairs(tmp_path / "y.safetensors", {"transformer.blocks.0.attn1.to_q": (48, 48)})
    for name, message in (("x", "is it a LoRA for another model"), ("y", "not one of its layers fits")):
        with pytest.raises(CheckpointError, match=message):
            check(model, tmp_path / f"{name}.safetensors", partial=True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("transformer.", "transformer_2."),
        ("high_noise_model.", "low_noise_model."),
        ("diffusion_model.high_noise.", "diffusion_model.low_noise."),
        ("pipe.dit.", "pipe.dit2."),
    ],
)
def test_both_experts_in_one_file(first, second, model, tmp_path):
    stems = {f"{begin}blocks.0.attn1.to_q": (24, 24) for begin in (first, second)}
    path = tmp_path / "x.safetensors"
    products = list(write_pairs(path, stems).values())
    assert experts_of(Lora(path), [1, 2]) == [1, 2]
    for place, product in zip((1, 2), products, strict=True):
        checked = check(model, path, place)
        other = copy.deepcopy(model)
        checked.fuse(other)
        name = "blocks.0.attn1.to_q.weight"
        change = (other.get_parameter(name) - model.get_parameter(name)).detach()
        assert float((change - product).norm() / product.norm()) < 1e-6
    with pytest.raises(CheckpointError, match="holds LoRAs for two denoisers, and this checkpoint has one"):
        check(model, path)
    with pytest.raises(UsageError, match="say themselves that they are for denoiser 1 and 2; leave out @2"):
        experts_of(Lora(path, 1.0, 2), [1, 2])


def test_a_file_that_names_the_second_expert_goes_there(model, tmp_path):
    path = tmp_path / "x.safetensors"
    write_pairs(path, {"transformer_2.blocks.0.attn1.to_q": (24, 24)})
    assert experts_of(Lora(path), [1, 2]) == experts_of(Lora(path, 1.0, 2), [1, 2]) == [2]
    write_pairs(path, {"transformer.blocks.0.attn1.to_q": (24, 24)})
    assert experts_of(Lora(path), [1, 2]) == [1]
    assert experts_of(Lora(path, 1.0, 2), [1, 2]) == [2]
    assert experts_of(Lora(path), [2]) == experts_of(Lora(path, 1.0, 2), [2]) == [2]


LOKR = {
    "whole": {"w1": (2, 3), "w2": (12, 8)},
    "second low-rank": {"w1": (2, 3), "w2_a": (12, 2), "w2_b": (2, 8)},
    "first low-rank": {"w1_a": (2, 4), "w1_b": (4, 3), "w2": (12, 8)},
    "both low-rank": {"w1_a": (2, 2), "w1_b": (2, 3), "w2_a": (12, 2), "w2_b": (2, 8)},
}


@pytest.mark.parametrize("wrapper", ["lycoris_blocks_0_self_attn_q", "transformer.blocks.0.attn1.to_q"])
@pytest.mark.parametrize("kind", LOKR)
def test_lokr(kind, wrapper, model, tmp_path):
    """w1 ⊗ w2, times alpha / rank where a factor has a rank: LyCORIS gives whole ones an alpha that means nothing."""
    parts = {name: torch.randn(shape) for name, shape in LOKR[kind].items()}
    tensors = {f"{wrapper}.lokr_{name}": part for name, part in parts.items()}
    save_file({**tensors, f"{wrapper}.alpha": torch.tensor(3.0)}, tmp_path / "x.safetensors")
    w1 = parts["w1"] if "w1" in parts else parts["w1_a"] @ parts["w1_b"]
    w2 = parts["w2"] if "w2" in parts else parts["w2_a"] @ parts["w2_b"]
    rank = next((parts[key].shape[0] for key in ("w2_b", "w1_b") if key in parts), 3)
    expected = {"blocks.0.attn1.to_q.weight": 3 / rank * torch.kron(w1, w2)}
    assert_close(fused(model, tmp_path / "x.safetensors"), expected)


def test_lokr_of_peft(model, tmp_path):
    """Against PEFT's own arithmetic, which divides by the configured rank even where both factors are whole."""
    peft = pytest.importorskip("peft")
    config = peft.LoKrConfig(r=6, alpha=9, target_modules=["to_q", "net.2"], decompose_both=False, init_weights=False)
    other = peft.get_peft_model(copy.deepcopy(model), config)
    other.save_pretrained(tmp_path)
    merged = other.merge_and_unload()
    found = fused(model, tmp_path / "adapter_model.safetensors")
    expected = {
        name: (merged.get_parameter(name) - parameter).detach()
        for name, parameter in model.named_parameters()
        if name.endswith(("to_q.weight", "net.2.weight"))
    }
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert float((found[name] - change).norm() / change.norm()) < 1e-5  # differences of sums in float32


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64, torch.bfloat16])
def test_types_that_pairs_are_stored_in(kind, model, tmp_path):
    down, up = torch.randn(4, 24).to(kind), torch.randn(24, 4).to(kind)
    name = "transformer.blocks.0.attn1.to_q"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "x.safetensors")
    expected = {"blocks.0.attn1.to_q.weight": up.float() @ down.float()}
    assert_close(fused(model, tmp_path / "x.safetensors"), expected)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int64, torch.float16])
def test_types_that_alpha_is_stored_in_and_layers_without_rank(kind, model, tmp_path):
    """Row 32: rank-adaptive extraction leaves layers of rank 0, which change nothing."""
    none, some = "transformer.blocks.0.attn1.to_k", "transformer.blocks.0.attn1.to_q"
    down, up = torch.randn(4, 24), torch.randn(24, 4)
    tensors = {
        f"{some}.lora_A.weight": down, f"{some}.lora_B.weight": up, f"{some}.alpha": torch.tensor(2, dtype=kind),
        f"{none}.lora_A.weight": torch.zeros(0, 24), f"{none}.lora_B.weight": torch.zeros(24, 0),
        f"{none}.alpha": torch.tensor(2, dtype=kind),
    }  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors")
    assert_close(fused(model, tmp_path / "x.safetensors"), {"blocks.0.attn1.to_q.weight": 0.5 * (up @ down)})


def test_a_gguf_is_not_called_damaged(model, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(
        CheckpointError, match="is a GGUF file, quantized for other programs; edgereel reads LoRAs from"
    ):
        check(model, tmp_path / "x.safetensors")


def test_modules_are_those_of_the_model(model):
    assert set(MODULES) <= {name for name, _ in model.named_modules()}
    assert lora_files.original(MODULES[0]) == "blocks.0.self_attn.q"
