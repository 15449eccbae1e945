"""LoRAs fused at export, against diffusers' own loading and fusing; and the files that cannot be fused."""

from __future__ import annotations

import hashlib
import json
import pickle
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
from edgereel.core.errors import CheckpointError, UsageError
from edgereel.export import Lora, export_checkpoint
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
        {"name": f"{name}.safetensors", "sha256": hashes[name], "scale": scale, "denoiser": graph}
        for name, scale, graph in (
            ("attention", 0.5, "denoiser"),
            ("kohya", 1.0, "denoiser_2"),
            ("attention", -1.5, "denoiser_2"),
        )
    ]
    manifest = json.loads((experts / "two.reel" / "reel.json").read_text(encoding="utf-8"))
    assert manifest["loras"] == expected
    assert manifest["schema"] == 1
    assert "LoRA         attention.safetensors at scale -1.5, fused into denoiser_2" in describe(bundle)
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


KEY = "transformer.blocks.0.attn1.to_q"


def lora(path: Path, **changes: torch.Tensor | None) -> None:
    """Write a good pair for one layer (24 x 24), with changes; A, B, alpha stand for the keys of that layer."""
    names = {"A": f"{KEY}.lora_A.weight", "B": f"{KEY}.lora_B.weight", "alpha": f"{KEY}.alpha", "diff": f"{KEY}.diff"}
    tensors = {"A": torch.zeros(4, 24), "B": torch.zeros(24, 4)} | changes
    lora_files.save(path, {names.get(key, key): t for key, t in tensors.items() if t is not None})


class _Bomb:
    """Unpickling this ends the process: proof that nobody unpickles."""

    def __reduce__(self):
        return (sys.exit, (99,))


def configured(**config) -> Callable[[Path], object]:
    tensors = {f"{KEY}.lora_A.weight": torch.zeros(4, 24), f"{KEY}.lora_B.weight": torch.zeros(24, 4)}
    return lambda path: lora_files.save(path, tensors, config)


ZERO = torch.zeros(24, 24)
REFUSED = {
    "no file": (lambda p: None, "no such LoRA file"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "pickle in disguise": (lambda p: p.write_bytes(pickle.dumps(_Bomb())), "not a whole safetensors file"),
    "truncated": (lambda p: (lora(p), p.write_bytes(p.read_bytes()[:-8])), "not a whole safetensors file"),
    "empty": (lambda p: lora_files.save(p, {}), "holds no tensors"),
    "unknown keys": (
        lambda p: lora(p, **{f"blocks.{index}.attn9.to_q.lora_A.weight": ZERO for index in range(7)}),
        r"7 of 9 keys match nothing in this model: blocks\.0\.attn9\.to_q\.lora_A\.weight, .* and 2 more; is it a LoRA "
        "for another model",
    ),
    "deeper model": (
        lambda p: lora(p, **{"transformer.blocks.2.attn1.to_q.diff_b": ZERO}),
        "1 of 3 keys match nothing",
    ),
    "image-to-video": (
        lambda p: lora(p, **{"diffusion_model.blocks.0.cross_attn.k_img.diff_b": ZERO}),
        "1 of 3 keys match nothing",
    ),
    "second expert's prefix": (
        lambda p: lora(p, **{"transformer_2.proj_out.diff_b": ZERO}),
        "1 of 3 keys match nothing",
    ),
    "namings mixed": (
        lambda p: lora(p, **{"diffusion_model.blocks.0.cross_attn.q.diff_b": torch.zeros(24)}),
        "1 of 3 keys match nothing",
    ),
    "DoRA": (lambda p: lora(p, **{f"{KEY}.dora_scale": ZERO}), "DoRA is not supported"),
    "LoHa": (lambda p: lora(p, A=None, B=None, **{f"{KEY}.hada_w1_a": ZERO}), "LoHa is not supported"),
    "ranks disagree": (lambda p: lora(p, A=torch.zeros(8, 24)), r"ranks disagree: .*lora_A.* \[8, 24\], .*\[24, 4\]"),
    "no rank": (lambda p: lora(p, A=torch.zeros(0, 24), B=torch.zeros(24, 0)), "ranks disagree"),
    "vector": (lambda p: lora(p, A=torch.zeros(24)), "ranks disagree"),
    "wider model": (
        lambda p: lora(p, A=torch.zeros(4, 48), B=torch.zeros(48, 4)),
        r"wrong shape for blocks\.0\.attn1\.to_q\.weight \[24, 24\] .*\[4, 48\].*another model",
    ),
    "difference of another shape": (lambda p: lora(p, A=None, B=None, diff=torch.zeros(24)), "wrong shape"),
    "LoRA of a norm": (
        lambda p: lora(
            p, **{f"blocks.0.norm2.lora_{part}.weight": torch.zeros(s) for part, s in (("A", (4, 24)), ("B", (24, 4)))}
        ),
        r"wrong shape for blocks\.0\.norm2",
    ),
    "A without B": (lambda p: lora(p, B=None), r"to_q\.lora_A\.weight has no lora_B"),
    "B without A": (lambda p: lora(p, A=None), r"to_q\.lora_B\.weight has no lora_A"),
    "alpha alone": (lambda p: lora(p, A=None, B=None, alpha=torch.tensor(1.0)), "has no lora_A"),
    "alpha with many values": (lambda p: lora(p, alpha=torch.ones(2)), "not one number"),
    "twice": (
        lambda p: lora(p, **{f"{KEY}.lora_down.weight": torch.zeros(4, 24)}),
        r"lora_A\.weight and .*lora_down\.weight are the same part",
    ),
    "difference and LoRA": (lambda p: lora(p, diff=ZERO), "both a full difference and a LoRA"),
    "NaN": (lambda p: lora(p, A=torch.full((4, 24), torch.nan)), "not finite"),
    "infinite alpha": (lambda p: lora(p, alpha=torch.tensor(torch.inf)), "not finite"),
    "integers": (lambda p: lora(p, A=torch.zeros(4, 24, dtype=torch.int8)), "is I8"),
    "configuration is a list": (
        lambda p: configured(lora_alpha=[3])(p),
        r"lora_adapter_metadata has alpha \[3\] for blocks\.0\.attn1\.to_q",
    ),
    "configuration of another file": (
        lambda p: configured(lora_alpha=1, alpha_pattern={r".*\.to_[qk]": 2})(p),
        "no module of the file",
    ),
    "alpha pattern is a number": (lambda p: configured(alpha_pattern=3)(p), "alpha_pattern that is no object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_fused(case, checkpoint, tmp_path):
    damage, message = REFUSED[case]
    file = tmp_path / "file.safetensors"
    damage(file)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=message) as caught:
        export_checkpoint(checkpoint, tmp_path / "x.reel", loras=[file])
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_pickled_lora(checkpoint, tmp_path):
    (tmp_path / "lora.pt").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(CheckpointError, match="pickled weights can run code"):
        export_checkpoint(checkpoint, tmp_path / "x.reel", loras=[tmp_path / "lora.pt"])


def test_overflow(checkpoint, tmp_path):
    file = lora_files.save(tmp_path / "lora.safetensors", lora_files.kohya(transformer(checkpoint)))
    with pytest.raises(CheckpointError, match=r"overflows at scale 1e\+39"):
        denoiser(checkpoint, Lora(file, 1e39)).load()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", Lora(Path("a.safetensors"))),
        ("a.safetensors:0.8", Lora(Path("a.safetensors"), 0.8)),
        ("a.safetensors:-2e-1@2", Lora(Path("a.safetensors"), -0.2, 2)),
        ("a.safetensors@2", Lora(Path("a.safetensors"), 1.0, 2)),
        ("a.safetensors@1", Lora(Path("a.safetensors"))),
        (r"C:\loras\a.safetensors", Lora(Path(r"C:\loras\a.safetensors"))),
        (r"C:\loras\a.safetensors:3@2", Lora(Path(r"C:\loras\a.safetensors"), 3.0, 2)),
        ("C:a.safetensors", Lora(Path("C:a.safetensors"))),
        (Path("a:1"), Lora(Path("a:1"))),
        ("there:2@2", Lora(Path("there:2@2"))),
    ],
)
def test_what_is_asked_for(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there:2@2").touch()
    assert Lora.of(text) == Lora.of(expected) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.safetensors:strong", r"scale 'strong' is not a number; write FILE\[:SCALE\]"),
        ("a.safetensors:", "scale '' is not a number"),
        ("a.safetensors:nan", "not a finite number"),
        ("a.safetensors:inf@2", "not a finite number"),
        ("a.safetensors@3", "there is no denoiser 3"),
        ("a.safetensors@0", "there is no denoiser 0"),
        ("good.safetensors@2", "this checkpoint has one denoiser; leave out @2"),
    ],
)
def test_what_cannot_be_asked_for(text, message, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lora(Path("good.safetensors"))
    with pytest.raises(UsageError, match=message):
        export_checkpoint(checkpoint, Path("x.reel"), loras=[text])
    assert not Path("x.reel").exists()
