"""What people have that is right already and has to stay so: rows 48 to 57."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_wan import tiny_transformer, write_tiny_wan
from safetensors.torch import load_file, save_file

from edgereel.core.errors import CheckpointError, UsageError
from edgereel.export import Lora
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.families.wan.lora import NAMINGS
from edgereel.export.lora.fuse import check_lora

DENOISER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("whole") / "checkpoint", seed=81, depth=1, vae_levels=2)


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def parts(folder: Path):
    checkpoint = open_checkpoint(folder)
    family = open_family(checkpoint)
    checkpoint.check_alive()
    return {part.name: part for part in family.parts}


def weights(folder: Path, name: str = "denoiser") -> dict[str, torch.Tensor]:
    return parts(folder)[name].load().state_dict()


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def drop(path: Path, *keys: str, **changes) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: value for key, value in (data | changes).items() if key not in keys}))


def test_numbers_of_several_types_in_one_file(whole, copied):
    """Row 50: each tensor counts as the float32 that it is."""
    kinds = {"patch_embedding": torch.float16, "norm": torch.float32, "ffn": torch.float64}
    path = copied / DENOISER
    tensors = {
        name: tensor.to(next((kind for mark, kind in kinds.items() if mark in name), torch.bfloat16))
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path)
    assert same(weights(copied), {name: tensor.float() for name, tensor in tensors.items()})


def test_links_into_a_cache(whole, tmp_path):
    """Row 53: a snapshot of huggingface_hub's cache."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in whole.rglob("*") if path.is_file())):
        link = tmp_path / "snapshot" / file.relative_to(whole)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        link.symlink_to(blobs / str(number))
    assert same(weights(tmp_path / "snapshot"), weights(whole))


def test_an_index_goes_before_a_whole_file_and_may_not_be_stale(whole, copied, tmp_path):
    """Row 54."""
    folder = copied / "transformer"
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "part.safetensors")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "part.safetensors")}))
    assert same(weights(copied), {name: tensor + 1 for name, tensor in tensors.items()})
    (folder / "part.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"part\.safetensors: shard is missing"):
        parts(copied)


def test_old_configurations_leave_keys_out(whole, copied):
    """Row 55: what diffusers' classes take where a key is missing."""
    drop(copied / "vae/config.json", "is_residual", "patch_size", "decoder_base_dim", "in_channels", "out_channels")
    drop(copied / "transformer/config.json", "eps", "qk_norm", "image_dim", "added_kv_proj_dim", "pos_embed_seq_len")
    drop(copied / "model_index.json", "boundary_ratio", "expand_timesteps", "transformer_2")
    assert same(weights(copied), weights(whole))
    assert same(weights(copied, "decoder"), weights(whole, "decoder"))


@pytest.mark.parametrize("config", [{"cross_attn_norm": False}, {"patch_size": (1, 1, 1)}], ids=str)
def test_other_shapes_of_denoiser(config, copied):
    torch.manual_seed(82)
    model = tiny_transformer(depth=1, **config)
    shutil.rmtree(copied / "transformer")
    model.save_pretrained(copied / "transformer")
    assert same(weights(copied), dict(model.state_dict()))


@pytest.mark.parametrize("case", ["no configuration", "no padding named"])
def test_tokenizers_that_say_little(case, copied):
    """Row 56."""
    path = copied / "tokenizer" / "tokenizer_config.json"
    if case == "no configuration":
        path.unlink()
    else:
        drop(path, pad_token=None)
    assert open_family(open_checkpoint(copied)).facts.text.pad_token_id == 0


KEY = "transformer.blocks.0.attn1.to_q"


@pytest.mark.parametrize("scale", [1.0, -0.7])
@pytest.mark.parametrize(
    ("kind", "alpha"),
    [
        (torch.float16, torch.tensor(2.5, dtype=torch.float16)),
        (torch.float64, torch.tensor(2.5, dtype=torch.float64)),
        (torch.float32, torch.tensor(0.0)),
    ],
    ids=["float16", "float64", "alpha 0"],
)
def test_pairs_and_alphas_of_other_types_and_scales_below_zero(kind, alpha, scale, tmp_path):
    """Row 52."""
    torch.manual_seed(83)
    model = tiny_transformer(depth=1)
    before = model.get_parameter("blocks.0.attn1.to_q.weight").detach().clone()
    down, up = torch.randn(4, 24).to(kind), torch.randn(24, 4).to(kind)
    save_file(
        {f"{KEY}.lora_A.weight": down, f"{KEY}.lora_B.weight": up, f"{KEY}.alpha": alpha}, tmp_path / "x.safetensors"
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    check_lora(Lora(tmp_path / "x.safetensors", scale), shapes, NAMINGS).fuse(model)
    change = scale * float(alpha) / 4 * (up.float() @ down.float())
    torch.testing.assert_close(model.get_parameter("blocks.0.attn1.to_q.weight").detach(), before + change)


@pytest.mark.parametrize("text", ["x.safetensors:0,8", "x.safetensors:80%", "x.safetensors:high", "x.safetensors:all"])
def test_shell_habits(text):
    """Row 57."""
    with pytest.raises(UsageError, match=r"is not a number; write FILE\[:SCALE\]\[:partial\]\[@2\]"):
        Lora.of(text)
