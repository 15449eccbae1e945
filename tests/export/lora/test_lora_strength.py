"""How strong a LoRA is meant to be is read, wherever it is said, against PEFT's own merge; where nobody says it, we do."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from helpers.tiny_wan import tiny_transformer
from safetensors.torch import save_file

from edgereel.core.errors import CheckpointError
from edgereel.export import Lora
from edgereel.export.families.wan.lora import NAMINGS
from edgereel.export.lora.fuse import CheckedLora, check_lora, fuse_all

pytestmark = pytest.mark.filterwarnings("ignore:.*LoRA tensor.*have invalid shape")  # PEFT, of its own biases
KEY = "lora_adapter_metadata"
MODULE = "blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(51)
    return tiny_transformer()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(52)


def check(model, file: Path, expert: int | None = None, **options) -> CheckedLora:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return check_lora(Lora(file, **options), shapes, NAMINGS, expert)


def pairs(prefix: str = "transformer.", rank: int = 8) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}{MODULE}.lora_A.weight": torch.randn(rank, 24),
        f"{prefix}{MODULE}.lora_B.weight": torch.randn(24, rank),
    }


def factor(model, file: Path, expert: int | None = None) -> float:
    return check(model, file, expert).changes[f"{MODULE}.weight"].factor


PEFT_CONFIGS = {
    "alpha over r": {"r": 4, "lora_alpha": 16},
    "rank-stabilised": {"r": 4, "lora_alpha": 16, "use_rslora": True},
    "biases of B": {"r": 4, "lora_alpha": 16, "lora_bias": True},
    "biases of B, rank-stabilised": {"r": 4, "lora_alpha": 16, "lora_bias": True, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 6,
        "rank_pattern": {"blocks.1.attn1.to_q": 2},
        "alpha_pattern": {"blocks.1.attn1.to_q": 5},
    },
}


@pytest.mark.parametrize("how", ["diffusers", "PEFT"])
@pytest.mark.parametrize("case", PEFT_CONFIGS)
@torch.no_grad()
def test_fused_weights_are_what_peft_merges(case, how, model, tmp_path):
    """Rows 1 and 4: as diffusers' save_lora_adapter writes it (no prefix), and PEFT with adapter_config.json beside it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["to_q", "to_v", "net.2"], init_lora_weights=False, **PEFT_CONFIGS[case])
    other = copy.deepcopy(model)
    if how == "diffusers":
        other.add_adapter(config)
        _off_zero(other)
        other.save_lora_adapter(tmp_path)
        file = tmp_path / "pytorch_lora_weights.safetensors"
        other.fuse_lora()
        other.unload_lora()
        merged = other
    else:
        wrapped = peft.get_peft_model(other, config)
        _off_zero(wrapped)
        wrapped.save_pretrained(tmp_path)
        file = tmp_path / "adapter_model.safetensors"
        merged = wrapped.merge_and_unload()
    checked = check(model, file)
    assert "no alpha" not in checked.strength
    found = copy.deepcopy(model)
    checked.fuse(found)
    for name, parameter in model.named_parameters():
        change = merged.get_parameter(name) - parameter
        difference = found.get_parameter(name) - merged.get_parameter(name)
        assert float(difference.norm()) <= 1e-6 * float(parameter.norm() + change.norm()), name
    moved = [name for name, parameter in model.named_parameters() if not found.get_parameter(name).equal(parameter)]
    assert len(moved) == (2 * 5 if "B" in case else 5) * 2


def _off_zero(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and name.endswith("bias"):
                parameter.normal_()


HEADERS = {
    "lora_alpha and r": {"lora_alpha": "2", "r": "8"},
    "alpha and rank": {"alpha": "2.0", "rank": "8"},
    "network_alpha": {"network_alpha": "2"},
    "prefixed": {"transformer.lora_alpha": "2", "transformer.r": "8"},
    "JSON": {"lora_config": json.dumps({"lora_alpha": 2, "r": 8})},
    "JSON of PEFT": {"peft_config": json.dumps({"peft_type": "LORA", "lora_alpha": 2, "r": 8})},
    "said twice, agreeing": {"alpha": "2", "lora_alpha": "2.0"},
    "metadata": {KEY: json.dumps({"transformer.lora_alpha": 2, "transformer.r": 8})},
    "metadata without prefix": {KEY: json.dumps({"lora_alpha": 2, "r": 8})},
    "metadata of two components": {KEY: json.dumps({"text_encoder.lora_alpha": 9, "transformer.lora_alpha": 2})},
}


@pytest.mark.parametrize("case", HEADERS)
def test_an_alpha_in_the_header(case, model, tmp_path):
    """Row 2: alpha 2, rank 8."""
    save_file(pairs(), tmp_path / "x.safetensors", HEADERS[case])
    assert factor(model, tmp_path / "x.safetensors") == 0.25


UNSAID = {
    "nothing": (None, ""),
    "kohya's note": ({"ss_network_alpha": "2", "ss_network_dim": "8"}, "ss_network_alpha 2 is not relied on"),
    "disagreeing": ({"alpha": "2", "lora_alpha": "16"}, "alphas that disagree"),
    "of another rank": ({"alpha": "2", "rank": "16"}, "an alpha for rank 16; the ranks are 8"),
    "another component's": ({"text_encoder.lora_alpha": "2"}, ""),
    "no number": ({"lora_alpha": "strong"}, ""),
}


@pytest.mark.parametrize("case", UNSAID)
def test_where_no_alpha_can_be_relied_on_that_is_said(case, model, tmp_path):
    header, more = UNSAID[case]
    save_file(pairs(), tmp_path / "x.safetensors", header)
    checked = check(model, tmp_path / "x.safetensors")
    assert checked.changes[f"{MODULE}.weight"].factor == 1
    notes = checked.record("denoiser").notes()
    assert len(notes) == 1
    assert notes[0].startswith("x.safetensors: no alpha found: fused at 1")
    assert more in notes[0]


def test_a_configuration_beside_several_files_may_be_anothers(model, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 2, "r": 8}')
    save_file(pairs(), tmp_path / "x.safetensors")
    assert factor(model, tmp_path / "x.safetensors") == 0.25
    save_file(pairs(), tmp_path / "y.safetensors")
    assert "adapter_config.json beside it may be another file's" in check(model, tmp_path / "x.safetensors").strength


def test_some_layers_without_alpha(model, tmp_path):
    more = {key.replace("to_q", "to_k"): tensor for key, tensor in pairs().items()}
    tensors = {**pairs(), **more, f"transformer.{MODULE}.alpha": torch.tensor(2.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    checked = check(model, tmp_path / "x.safetensors")
    assert checked.strength == "alpha from the tensors; no alpha found: fused at 1 in 1 of 2 layers"
    assert [change.factor for change in checked.changes.values()] == [1.0, 0.25]


@pytest.mark.parametrize("prefix", ["unet", "transformer_2", "text_encoder"])
def test_a_configuration_of_another_component_is_refused(prefix, model, tmp_path):
    """Row 1: it used to be read as none."""
    save_file(pairs(), tmp_path / "x.safetensors", {KEY: json.dumps({f"{prefix}.lora_alpha": 2, f"{prefix}.r": 8})})
    with pytest.raises(CheckpointError, match=rf"lora_adapter_metadata is for {prefix}, not for the transformer"):
        check(model, tmp_path / "x.safetensors")


def test_each_expert_has_its_own_configuration(model, tmp_path):
    said = {"transformer.lora_alpha": 2, "transformer.r": 8, "transformer_2.lora_alpha": 4, "transformer_2.r": 8}
    path = tmp_path / "x.safetensors"
    save_file({**pairs(), **pairs("transformer_2.")}, path, {KEY: json.dumps(said)})
    assert [factor(model, path, expert) for expert in (1, 2)] == [0.25, 0.5]


def test_a_tensor_and_a_configuration_that_disagree(model, tmp_path):
    tensors = {**pairs(), f"transformer.{MODULE}.alpha": torch.tensor(4.0)}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {KEY: json.dumps({"lora_alpha": 2, "r": 8})})
    with pytest.raises(CheckpointError, match=r"alpha is 4, but lora_adapter_metadata has alpha 2 for blocks\.0"):
        check(model, path)
    save_file(tensors, path, {KEY: json.dumps({"lora_alpha": 4, "r": 8})})
    assert factor(model, path) == 0.5


def test_a_bias_without_its_pair(model, tmp_path):
    tensors = {**pairs(), "transformer.blocks.0.attn1.to_k.lora_B.bias": torch.ones(24)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"to_k\.lora_B\.bias has no lora_B \(lora_up\) beside it"):
        check(model, tmp_path / "x.safetensors")


def test_sums_are_rounded_once_where_they_are_to_be_stored_as_bfloat16(model, tmp_path):
    """Row 40: two LoRAs, one rounding; biases stay as they are."""
    paths = [tmp_path / "one" / "x.safetensors", tmp_path / "two" / "x.safetensors"]
    for path in paths:
        path.parent.mkdir()
        save_file({**pairs(), f"transformer.{MODULE}.diff_b": torch.randn(24)}, path)
    loras = [check(model, path) for path in paths]
    exact, rounded = copy.deepcopy(model), copy.deepcopy(model)
    fuse_all(loras, exact, "fp32")
    fuse_all(loras, rounded, "bf16")
    weight, bias = (f"{MODULE}.{kind}" for kind in ("weight", "bias"))
    assert rounded.get_parameter(weight).equal(exact.get_parameter(weight).bfloat16().float())
    assert not rounded.get_parameter(weight).equal(exact.get_parameter(weight))
    assert rounded.get_parameter(bias).equal(exact.get_parameter(bias))
