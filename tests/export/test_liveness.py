"""A proof shows that a graph is its module; these show that the module is alive: row 9 and its kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tiny_wan import write_tiny_wan
from safetensors.torch import load_file, save_file

from edgereel.core.errors import CheckpointError, ParityError
from edgereel.export import export_checkpoint
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.liveness import check_alive, check_trials

DENOISER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
ENCODER = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("whole") / "checkpoint", seed=61, depth=2, vae_levels=2)


def retensor(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def zero(path: Path, share: float) -> None:
    """Overwrite the last share of the data with zeros, as a download that was never finished leaves it."""
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    kept = header + int((len(data) - header) * (1 - share))
    path.write_bytes(data[:kept] + bytes(len(data) - kept))


def split_table(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.embed_tokens.weight"] = torch.zeros_like(tensors["shared.weight"])


DEAD_FILES = {
    "all zeros": (lambda f: zero(f / DENOISER, 1.0), r"diffusion_pytorch_model\.safetensors: tensor .* is all zeros"),
    "zeros at the end": (lambda f: zero(f / DENOISER, 0.4), r"safetensors: tensor blocks\.1\.\S+ is all zeros"),
    "one matrix of zeros": (
        lambda f: retensor(f / DENOISER, lambda t: t["blocks.1.attn2.to_v.weight"].zero_()),
        r"tensor blocks\.1\.attn2\.to_v\.weight is all zeros",
    ),
    "not a number": (
        lambda f: retensor(f / DENOISER, lambda t: t["blocks.0.attn1.to_q.bias"].fill_(torch.nan)),
        r"tensor blocks\.0\.attn1\.to_q\.bias has values that are not finite",
    ),
    "infinite": (
        lambda f: retensor(f / VAE, lambda t: t["decoder.conv_in.weight"][0].fill_(torch.inf)),
        r"vae/\S+: tensor decoder\.conv_in\.weight has values that are not finite",
    ),
    "two tables": (
        lambda f: retensor(f / ENCODER, split_table),
        r"shared\.weight and encoder\.embed_tokens\.weight are one table under two names and differ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DEAD_FILES)
def test_dead_weights_are_named_before_anything_is_traced(case, whole, tmp_path, monkeypatch):
    damage, message = DEAD_FILES[case]
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    damage(folder)
    monkeypatch.setattr("edgereel.export.bundle.save_graph", lambda *_: pytest.fail("traced"))
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(folder, tmp_path / "x.reel")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_table_under_both_names_is_one(whole, tmp_path):
    """Row 49: as long as they agree."""
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    retensor(folder / ENCODER, lambda t: t.update({"encoder.embed_tokens.weight": t["shared.weight"].clone()}))
    checkpoint = open_checkpoint(folder)
    open_family(checkpoint)
    checkpoint.check_alive()


def test_zero_vectors_and_rows_are_alive(whole, tmp_path):
    """Biases are zeros in many models, and so are rows of tables that nothing looks up."""
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    retensor(folder / DENOISER, lambda t: [t[name].zero_() for name in t if name.endswith("bias")])
    retensor(folder / ENCODER, lambda t: t["shared.weight"][50:].zero_())
    checkpoint = open_checkpoint(folder)
    open_family(checkpoint)
    checkpoint.check_alive()


def part(folder: Path, name: str):
    return next(part for part in open_family(open_checkpoint(folder)).parts if part.name == name)


@pytest.fixture(scope="module")
def parts(whole):
    return {part.name: part for part in open_family(open_checkpoint(whole)).parts}


def test_a_living_model_passes(parts):
    for name, alive in parts.items():
        module = alive.load()
        trials = alive.trials(module)
        check_trials(name, trials)
        for source in alive.graphs(module, torch.float32):
            check_alive(name, source, trials, "fp32")


def _without_prompt(module) -> None:
    for block in module.blocks:
        block.attn2.to_out[0].weight.zero_()


def _without_time(module) -> None:
    module.condition_embedder.time_proj.weight.zero_()
    module.condition_embedder.time_embedder.linear_2.weight.zero_()


def _without_latents(module) -> None:
    module.patch_embedding.weight.zero_()


def _without_words(module) -> None:
    module.shared.weight.copy_(module.shared.weight[:1].expand_as(module.shared.weight))


DEAD = {
    "prompt": ("denoiser", _without_prompt, "does not depend on its input prompt_embeds"),
    "timestep": ("denoiser", _without_time, "does not depend on its input timestep"),
    "latents": ("denoiser", _without_latents, "does not depend on its input latents"),
    "output": ("denoiser", lambda m: (m.proj_out.weight.zero_(), m.proj_out.bias.zero_()), "computes is 0 everywhere"),
    "words": ("text_encoder", _without_words, "does not depend on its input input_ids"),
    "pictures": ("decoder", lambda m: m.post_quant_conv.weight.zero_(), "does not depend on its input latent"),
    "overflow": ("denoiser", lambda m: m.proj_out.bias.fill_(torch.inf), "is not finite"),
}


@pytest.mark.parametrize("case", DEAD)
@torch.no_grad()
def test_a_module_that_does_without_an_input_is_refused(case, parts):
    name, kill, message = DEAD[case]
    module = parts[name].load()
    kill(module)

    def prove() -> None:
        trials = parts[name].trials(module)
        check_trials(name, trials)
        for source in parts[name].graphs(module, torch.float32):
            check_alive(name, source, trials, "fp32")

    with pytest.raises(ParityError, match=f"{name}: .*{message}"):
        prove()


@torch.no_grad()
def test_overflow_in_half_precision_is_called_by_its_name(parts):
    module = parts["denoiser"].load()
    module.proj_out.weight.mul_(1e7)
    trials = parts["denoiser"].trials(module)
    source = parts["denoiser"].graphs(module, torch.float16)[0]
    with pytest.raises(ParityError, match=r"denoiser: overflows in float16.*weight proj_out\.weight.*--precision fp32"):
        check_alive("denoiser", source, trials, "fp16")
