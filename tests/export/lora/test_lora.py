"""LoRAs fused at export, against diffusers' own loading and fusing; and the files that cannot be fused."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from helpers import lora_files
from helpers.tiny_wan import write_tiny_wan

from edgereel import cli
from edgereel.bundle.reader import open_bundle
from edgereel.export import Lora
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.families.wan.lora import original_name
from edgereel.export.graphs import DataFile, save_graph
from edgereel.export.parity import relative_difference
from edgereel.runtime.describe import describe

LIMIT = 1e-4
SCALE = 0.7
GUARD = 1e-2
"""A scale off by a fifth moves the output by at least this, a hundred times the limit."""

pytestmark = pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("lora") / "checkpoint", seed=21, vae_levels=2)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(22)


def transformer(checkpoint: Path, name: str = "transformer") -> WanTransformer3DModel:
    return WanTransformer3DModel.from_pretrained(checkpoint / name, torch_dtype=torch.float32)


def denoiser(checkpoint: Path, *loras: Lora, name: str = "denoiser"):
    """Return the exporter's denoiser of that name with these LoRAs."""
    family = open_family(open_checkpoint(checkpoint))
    family.add_loras(loras)
    return next(part for part in family.parts if part.name == name)


def inputs_for(model) -> dict[str, np.ndarray]:
    return {
        "latents": torch.randn(2, model.config.in_channels, 3, 4, 6).numpy(),
        "timestep": (torch.rand(2) * 1000).numpy(),
        "prompt_embeds": torch.randn(2, 5, model.config.text_dim).numpy(),
    }


def run_onnx(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def run_exported(checkpoint: Path, folder: Path, lora: Lora, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Export the denoiser alone and run it."""
    part = denoiser(checkpoint, lora)
    with DataFile(folder / "denoiser.data") as data:
        save_graph(part.graphs(part.load(), torch.float32)[0], folder, data)
    return run_onnx(folder / "denoiser.onnx", inputs)


@torch.no_grad()
def run_torch(model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return model(*(torch.from_numpy(array) for array in inputs.values()), return_dict=False)[0].numpy()


def fused_by_diffusers(checkpoint: Path, file: Path, scale: float):
    pipeline = WanPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="one")
    pipeline.set_adapters(["one"], [scale])
    pipeline.fuse_lora(components=["transformer"])
    return pipeline.transformer


RSLORA = {"r": lora_files.RANK, "lora_alpha": 9, "use_rslora": True}
ALPHAS = {"r": lora_files.RANK, "lora_alpha": 6, "alpha_pattern": {"blocks.1.attn2.to_v": 2, "proj_out": 11}}
STYLES = {
    "peft": (lora_files.peft, None),
    "peft, alphas in the metadata": (lora_files.peft, ALPHAS),
    "peft, rank-stabilised": (lora_files.peft, RSLORA),
    "original names, A and B": (lambda model: lora_files.original_names(model, "lora_A", "lora_B"), None),
    "original names, down and up": (lambda model: lora_files.original_names(model, "lora_down", "lora_up"), None),
    "kohya": (lora_files.kohya, None),
}


@pytest.mark.parametrize("style", STYLES)
def test_exported_denoiser_is_what_diffusers_fuses(style, checkpoint, tmp_path):
    make, config = STYLES[style]
    model = transformer(checkpoint)
    tensors = make(model)
    if config is not None:
        ranks = {
            key.split(".lora_B")[0].removeprefix("transformer."): t.shape[1]
            for key, t in tensors.items()
            if "_B" in key
        }
        config = config | {"rank_pattern": ranks, "target_modules": sorted(ranks)}
    file = lora_files.save(tmp_path / "lora.safetensors", tensors, config)
    inputs = inputs_for(model)
    found = run_exported(checkpoint, tmp_path, Lora(file, SCALE), inputs)
    assert relative_difference(found, run_torch(fused_by_diffusers(checkpoint, file, SCALE), inputs)) < LIMIT
    assert relative_difference(found, run_torch(fused_by_diffusers(checkpoint, file, 1.2 * SCALE), inputs)) > GUARD
    assert relative_difference(found, run_torch(model, inputs)) > GUARD


def test_differences_of_every_kind_are_fused(checkpoint, tmp_path):
    """Against a module fused by hand: diffusers drops these."""
    model = transformer(checkpoint)
    inputs = inputs_for(model)
    tensors = lora_files.differences(model)
    file = lora_files.save(tmp_path / "lora.safetensors", tensors)
    found = run_exported(checkpoint, tmp_path, Lora(file, SCALE), inputs)
    assert relative_difference(found, run_torch(model, inputs)) > GUARD
    lora_files.add_differences(model, tensors, SCALE)
    assert relative_difference(found, run_torch(model, inputs)) < LIMIT
    lora_files.add_differences(model, tensors, 0.2 * SCALE)
    assert relative_difference(found, run_torch(model, inputs)) > GUARD


def respell(tensors: dict[str, torch.Tensor], change: Callable[[str], str]) -> dict[str, torch.Tensor]:
    return {change(key): tensor for key, tensor in tensors.items()}


def flattened(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.flatten(1) for key, tensor in tensors.items()}


SPELLINGS = {
    "no prefix": lambda key: key.removeprefix("transformer."),
    "diffusion_model and diffusers' names": lambda key: key.replace("transformer.", "diffusion_model."),
    "DiffSynth": lambda key: (
        lora_files.original(key.removeprefix("transformer."))
        .replace("lora_A", "lora_A.default")
        .replace("lora_B", "lora_B.default")
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_fuse_alike(spelling, checkpoint, tmp_path):
    """The plain style is compared with diffusers above; these, which diffusers does not read, give the same weights."""
    tensors = lora_files.peft(transformer(checkpoint))
    plain = lora_files.save(tmp_path / "plain.safetensors", tensors)
    other = lora_files.save(tmp_path / "other.safetensors", flattened(respell(tensors, SPELLINGS[spelling])))
    expected, found = (denoiser(checkpoint, Lora(file, SCALE)).load().state_dict() for file in (plain, other))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_original_names_are_those_that_diffusers_converts(checkpoint):
    for name in transformer(checkpoint).state_dict():
        assert list(convert_wan_transformer_to_diffusers({original_name(name): None})) == [name]


def test_integer_alpha(checkpoint, tmp_path):
    tensors = lora_files.kohya(transformer(checkpoint))
    plain = lora_files.save(tmp_path / "plain.safetensors", tensors)
    whole = {key: tensor.long() if key.endswith(".alpha") else tensor for key, tensor in tensors.items()}
    other = lora_files.save(tmp_path / "other.safetensors", whole)
    expected, found = (denoiser(checkpoint, Lora(file)).load().state_dict() for file in (plain, other))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A bfloat16 checkpoint of two experts, and a bundle of it with two LoRAs, one of them in both experts."""
    folder = tmp_path_factory.mktemp("experts")
    torch.manual_seed(23)
    checkpoint = write_tiny_wan(
        folder / "checkpoint", seed=24, depth=1, vae_levels=2, experts=True, dtype=torch.bfloat16
    )
    model = transformer(checkpoint)
    attention = {key: tensor for key, tensor in lora_files.peft(model).items() if "attn" in key}
    lora_files.save(folder / "attention.safetensors", attention)
    lora_files.save(folder / "kohya.safetensors", lora_files.kohya(model))
    loras = ["attention.safetensors:0.5", "kohya.safetensors@2", "attention.safetensors:-1.5@2"]
    arguments = ["edgereel", "export", str(checkpoint), "-o", str(folder / "two.reel"), "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [*arguments, *(part for lora in loras for part in ("--lora", lora))])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    return folder


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
def test_each_expert_takes_its_own(experts):
    pipeline = WanPipeline.from_pretrained(experts / "checkpoint", torch_dtype=torch.float32)
    for adapter, file, second in (("a", "attention", False), ("b", "kohya", True), ("c", "attention", True)):
        name = f"{file}.safetensors"
        pipeline.load_lora_weights(str(experts), weight_name=name, adapter_name=adapter, load_into_transformer_2=second)
    pipeline.transformer.set_adapters(["a"], [0.5])
    pipeline.transformer_2.set_adapters(["b", "c"], [1.0, -1.5])
    pipeline.fuse_lora(components=["transformer", "transformer_2"])
    inputs = inputs_for(pipeline.transformer)
    for graph, model in (("denoiser", pipeline.transformer), ("denoiser_2", pipeline.transformer_2)):
        found = run_onnx(experts / "two.reel" / f"{graph}.onnx", inputs)
        assert relative_difference(found, run_torch(model, inputs)) < LIMIT


def test_what_was_fused_is_on_record(experts):
    bundle = open_bundle(experts / "two.reel")
    hashes = {
        name: hashlib.sha256((experts / f"{name}.safetensors").read_bytes()).hexdigest()
        for name in ("attention", "kohya")
    }
    expected = [
        {"name": f"{name}.safetensors", "sha256": hashes[name], "scale": scale, "denoiser": graph, "strength": strength}
        for name, scale, graph, strength in (
            ("attention", 0.5, "denoiser", "no alpha found: fused at 1"),
            ("kohya", 1.0, "denoiser_2", "alpha from the tensors"),
            ("attention", -1.5, "denoiser_2", "no alpha found: fused at 1"),
        )
    ]
    manifest = json.loads((experts / "two.reel" / "reel.json").read_text(encoding="utf-8"))
    assert manifest["loras"] == expected
    assert manifest["schema"] == 1
    told = describe(bundle)
    assert "LoRA         attention.safetensors at scale -1.5, fused into denoiser_2" in told
    assert "             no alpha found: fused at 1" in told
    card = (experts / "two.reel" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"| kohya.safetensors | 1 | denoiser_2 | {hashes['kohya']} |" in card


def test_fused_weights_are_stored_exactly(experts):
    """Sums are no bfloat16 any more and stay float32; weights that no LoRA touches are bfloat16 as before."""
    loras = [Lora(experts / "kohya.safetensors", 1.0, 2), Lora(experts / "attention.safetensors", -1.5, 2)]
    fused = denoiser(experts / "checkpoint", *loras, name="denoiser_2").load()
    expected = fused.get_parameter("blocks.0.ffn.net.2.weight").numpy()
    types = onnx.TensorProto
    for graph, kind in (("denoiser", types.BFLOAT16), ("denoiser_2", types.FLOAT)):
        weights = onnx.load(experts / "two.reel" / f"{graph}.onnx").graph.initializer
        feed_forward = [weight for weight in weights if sorted(weight.dims) == [24, 64]]
        assert [weight.data_type for weight in feed_forward] == [kind, kind]
    arrays = [onnx.numpy_helper.to_array(weight) for weight in feed_forward]
    assert any(np.array_equal(array, expected) or np.array_equal(array.T, expected) for array in arrays)
