"""Checkpoints in the layouts they are published in: the same weights as from diffusers' own, or a refusal that says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.published import BEGINNINGS, FILES, NUMBERS, published
from helpers.tiny_wan import tiny_transformer, write_tiny_wan
from safetensors.torch import load_file, save_file

from edgereel.core.errors import CheckpointError
from edgereel.export import ExportOptions, bundle, export_checkpoint
from edgereel.export.catalogue import open_family
from edgereel.export.checkpoint import open_checkpoint
from edgereel.export.families.wan.encoder_part import EncoderPart

DENOISER = "diffusion_pytorch_model.safetensors"
LAYOUTS = list(published(28))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("whole") / "checkpoint", seed=71, depth=2, vae_levels=2)


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def edit(path: Path, **changes) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | changes), encoding="utf-8")


def rename(path: Path, change) -> None:
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def parts(folder: Path, **replaced: Path):
    checkpoint = open_checkpoint(folder, replaced)
    family = open_family(checkpoint)
    checkpoint.check_alive()
    return {part.name: part for part in family.parts}, checkpoint


def weights(folder: Path, name: str = "denoiser", **replaced: Path) -> dict[str, torch.Tensor]:
    return parts(folder, **replaced)[0][name].load().state_dict()


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_generator_has_every_part():
    assert {layout.beginning for layout in LAYOUTS} == set(BEGINNINGS)
    assert {layout.files for layout in LAYOUTS} == set(FILES)
    assert {layout.numbers for layout in LAYOUTS} == set(NUMBERS)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_denoiser_in_any_layout_loads_as_it_was_saved(layout, whole, tmp_path):
    """Rows 17 to 21 and 23."""
    torch.manual_seed(72)
    model = tiny_transformer(depth=3)
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    place, expected = layout.write(tmp_path / "published", tensors, config)
    assert_equal(weights(whole, transformer=place), expected)


def test_a_distilled_single_file_is_exported_and_proved(whole, tmp_path):
    """Row 17 as far as the graph: authors' names in one file, float8 with scales, beside a checkpoint of diffusers'."""
    torch.manual_seed(73)
    layout = next(layout for layout in LAYOUTS if (layout.files, layout.authors) == ("single file alone", True))
    model = tiny_transformer(depth=1)
    place, _ = layout.write(tmp_path / "published", dict(model.state_dict()), dict(model.config))
    made, checkpoint = parts(whole, transformer=place)
    proved = bundle.ProvedGraphs()
    bundle._export_part(made["denoiser"], tmp_path, "fp32", None, proved)
    assert proved.parity["denoiser"].relative < 1e-5
    told = any("taken off the names of tensors" in note for note in checkpoint.notes)
    assert told == (layout.beginning not in ("", "_orig_mod.", "module."))


SIBLINGS = {"WanVideoToVideoPipeline": None, "WanDMDPipeline": "fastwan"}


@pytest.mark.parametrize("pipeline", SIBLINGS)
def test_sibling_pipelines(pipeline, whole, tmp_path, copied, monkeypatch):
    """Rows 14 and 16: FastWan as published has gates of sparse attention, which diffusers leaves out too."""
    edit(copied / "model_index.json", _class_name=pipeline)
    if pipeline == "WanDMDPipeline":
        path = copied / "transformer" / DENOISER
        gates = {f"blocks.{n}.to_gate_compress.{kind}": torch.ones(24) for n in (0, 1) for kind in ("weight", "bias")}
        save_file(load_file(path) | gates, path)
    assert_equal(weights(copied), weights(whole))
    monkeypatch.setattr("edgereel.export.bundle._export_part", lambda part, *_: pytest.skip(part.name))
    request = ExportOptions(copied, tmp_path / "x.reel").complete()
    checkpoint = open_checkpoint(copied, recipe=bundle._recipe_name(request))
    facts = bundle._chosen_facts(open_family(checkpoint).facts, checkpoint, request)
    assert facts.recipes[0].name == (SIBLINGS[pipeline] or "unipc")
    assert bool(checkpoint.notes) == (pipeline == "WanDMDPipeline")


def test_all_components_in_one_file(whole, tmp_path):
    """As ComfyUI's checkpoints: what is under another component's beginning is not the denoiser's."""
    tensors = {f"model.diffusion_model.{name}": t for name, t in load_file(whole / "transformer" / DENOISER).items()}
    others = {"vae.decoder.conv1.weight": torch.ones(3), "text_encoders.umt5xxl.shared.weight": torch.ones(3)}
    save_file(tensors | others, tmp_path / "all.safetensors")
    assert_equal(weights(whole, transformer=tmp_path / "all.safetensors"), weights(whole))


def test_a_model_and_its_average_in_one_file_are_not_guessed_between(whole, tmp_path):
    tensors = load_file(whole / "transformer" / DENOISER)
    both = {
        f"{begin}.model.{name}": t.clone() for begin in ("generator", "generator_ema") for name, t in tensors.items()
    }
    save_file(both, tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds the model 2 times, under 'generator\.model\.' and 'generator_ema"
    ):
        parts(whole, transformer=tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("index", "places", "name"),
    [
        ({"transformer": [None, None], "boundary_ratio": 1.0}, ["transformer_2"], "low noise alone"),
        ({"boundary_ratio": 1.0}, ["transformer_2"], "low noise alone, both there"),
        ({"boundary_ratio": 0}, ["transformer"], "high noise alone, both there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_expert_alone(index, places, name, tmp_path):
    """Row 24."""
    folder = write_tiny_wan(tmp_path / "checkpoint", depth=1, vae_levels=2, experts=True)
    edit(folder / "model_index.json", **index)
    made, checkpoint = parts(folder)
    assert [part for part in made if part.startswith("denoiser")] == ["denoiser"]
    assert made["denoiser"].component.folder.name == places[0]
    assert bool(checkpoint.notes) == ("both" in name)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"transformer": [None, None]},
            r"no transformer for the noise levels above boundary_ratio 0\.875; set it to 1\.0",
        ),
        ({"boundary_ratio": None}, r"transformer_2 is there and boundary_ratio is not"),
        ({"boundary_ratio": "high"}, r"boundary_ratio is 'high', not between 0 and 1"),
    ],
)
def test_experts_that_contradict_the_index(index, message, tmp_path):
    folder = write_tiny_wan(tmp_path / "checkpoint", depth=1, vae_levels=2, experts=True)
    edit(folder / "model_index.json", **index)
    with pytest.raises(CheckpointError, match=message):
        parts(folder)


def test_a_vae_without_its_encoder(whole, copied):
    """Row 34."""
    path = copied / "vae" / DENOISER
    kept = {name: t for name, t in load_file(path).items() if not name.startswith(("encoder.", "quant_conv."))}
    save_file(kept, path)
    made, _ = parts(copied)
    with pytest.raises(
        CheckpointError, match="has no tensors of the encoder, which clips that begin with pictures need"
    ):
        EncoderPart("encoder", made["decoder"].component)
    found, expected = made["decoder"].load().state_dict(), weights(whole, "decoder")
    assert all(torch.equal(found[name], expected[name]) for name in kept)
    one = next(name for name in load_file(whole / "vae" / DENOISER) if name.startswith("encoder."))
    save_file(kept | {one: load_file(whole / "vae" / DENOISER)[one]}, path)
    with pytest.raises(CheckpointError, match=r"tensor encoder\.\S+ \(and \d+ more\) is missing"):
        parts(copied)


def test_a_dump_of_the_whole_text_model(whole, copied):
    path = copied / "text_encoder" / "model.safetensors"
    rest = {"decoder.block.0.layer.0.layer_norm.weight": torch.ones(4), "lm_head.weight": torch.ones(64, 4)}
    save_file(load_file(path) | rest | {"spiece_model": torch.zeros(9, dtype=torch.uint8)}, path)
    edit(copied / "model_index.json", text_encoder=["transformers", "UMT5ForConditionalGeneration"])
    edit(copied / "text_encoder/config.json", architectures=["UMT5ForConditionalGeneration"], is_encoder_decoder=True)
    assert_equal(weights(copied, "text_encoder"), weights(whole, "text_encoder"))


AUTHORS_T5 = {
    "shared.weight": "token_embedding.weight",
    "encoder.final_layer_norm.weight": "norm.weight",
    "layer.0.layer_norm.weight": "norm1.weight",
    "layer.1.layer_norm.weight": "norm2.weight",
    "layer.0.SelfAttention.q.weight": "attn.q.weight",
    "layer.0.SelfAttention.k.weight": "attn.k.weight",
    "layer.0.SelfAttention.v.weight": "attn.v.weight",
    "layer.0.SelfAttention.o.weight": "attn.o.weight",
    "layer.0.SelfAttention.relative_attention_bias.weight": "pos_embedding.embedding.weight",
    "layer.1.DenseReluDense.wi_0.weight": "ffn.gate.0.weight",
    "layer.1.DenseReluDense.wi_1.weight": "ffn.fc1.weight",
    "layer.1.DenseReluDense.wo.weight": "ffn.fc2.weight",
}
"""Written down apart from the exporter's own table, from Wan's published code."""


def test_a_text_encoder_in_the_authors_names(whole, copied):
    def authors(name: str) -> str:
        block, _, rest = name.removeprefix("encoder.block.").partition(".")
        return f"blocks.{block}.{AUTHORS_T5[rest]}" if name.startswith("encoder.block.") else AUTHORS_T5[name]

    rename(copied / "text_encoder" / "model.safetensors", authors)
    assert_equal(weights(copied, "text_encoder"), weights(whole, "text_encoder"))


@torch.no_grad()
def test_an_upscaling_vae_gives_pictures_twice_as_large(copied, tmp_path):
    """12 channels, shuffled into 3 as its makers do after diffusers' decode."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(copied / "vae")
    wide = AutoencoderKLWan.from_config(dict(vae.config) | {"out_channels": 12})
    torch.manual_seed(74)
    for parameter in wide.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    shutil.rmtree(copied / "vae")
    wide.save_pretrained(copied / "vae")
    made, _ = parts(copied)
    decoder = made["decoder"]
    assert decoder.spatial_scale == 4
    with pytest.raises(CheckpointError, match="a vae that enlarges pictures cannot take them"):
        EncoderPart("encoder", decoder.component)
    trial = decoder.trials(wide)[0]
    latents = torch.from_numpy(trial.inputs["latents"])
    mean, std = (torch.tensor(wide.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    frames = wide.decode(latents * std + mean, return_dict=False)[0]
    shuffled = torch.nn.functional.pixel_shuffle(frames.movedim(2, 1), 2).movedim(1, 2)
    assert torch.equal(torch.from_numpy(trial.expected), shuffled)
    first = decoder.graphs(decoder.load(), torch.float32)[0]
    assert first.outputs["frames"].shape[1:] == [3, 1, "height*4", "width*4"]
    found = first.module(latents[:, :, :1])[0]
    torch.testing.assert_close(found, shuffled[:, :, :1], rtol=1e-4, atol=1e-5)


def quantized(mark: str, kind: torch.dtype = torch.uint8):
    return lambda t: t.update({f"blocks.0.attn1.to_q{mark}": torch.zeros(4, dtype=kind)})


def int8_alone(tensors: dict[str, torch.Tensor]) -> None:
    tensors["proj_out.weight"] = tensors["proj_out.weight"].to(torch.int8)


def with_scale(scale: torch.Tensor, **others: torch.Tensor):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["proj_out.weight"] = tensors["proj_out.weight"].to(torch.float8_e4m3fn)
        tensors["proj_out.scale_weight"] = scale
        tensors.update(others)

    return change


def text(words: str) -> torch.Tensor:
    return torch.tensor(list(words.encode()), dtype=torch.uint8)


REFUSED = {
    "bitsandbytes": (quantized(".weight.absmax"), r"its weights are quantized \(bitsandbytes"),
    "GPTQ": (quantized(".qweight", torch.int32), r"its weights are quantized \(GPTQ or AWQ"),
    "int8 without a scale": (int8_alone, r"proj_out\.weight is I8, quantized weights without a scale"),
    "scale of another shape": (with_scale(torch.ones(5)), r"scale_weight \[5\] is no scale of proj_out\.weight"),
    "scale of zeros": (with_scale(torch.zeros(1)), r"scale_weight has values that are not finite, or only zeros"),
    "other format": (
        with_scale(torch.ones(1), **{"proj_out.comfy_quant": text('{"format": "nvfp4"}')}),
        r"comfy_quant says .*nvfp4.*quantized weights that edgereel does not read",
    ),
    "rotated": (
        with_scale(torch.ones(1), **{"proj_out.comfy_quant": text('{"format": "int8_tensorwise", "rotated": true}')}),
        r"comfy_quant says .*rotated",
    ),
    "scale of a plain weight": (
        lambda t: t.update({"proj_out.scale_weight": torch.tensor(2.0)}),
        r"proj_out\.scale_weight scales proj_out\.weight, which is F32 and not quantized",
    ),
    "another model's names": (
        lambda t: [t.update({f"double_blocks.{n}": t.pop(name)}) for n, name in enumerate(list(t))],
        r"names that are not understood \(double_blocks\.\d+ and \d+ more; wanted are names such as",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_called_what_it_is(case, copied):
    """Row 21 and its kind: quantized weights are not a wrong config.json."""
    change, message = REFUSED[case]
    path = copied / "transformer" / DENOISER
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        weights(copied)
    assert "\n" not in str(caught.value)


def moved(folder: Path, *names: str) -> None:
    path = folder / "transformer" / DENOISER
    for name in names:
        shutil.copy(path, path.with_name(name))
    path.unlink()


REFUSED_FILES = {
    "two variants": (
        lambda f: moved(f, "diffusion_pytorch_model.bf16.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
        r"its weights in several variants, bf16, fp16, and none without; keep one",
    ),
    "a loose shard missing": (
        lambda f: moved(f, "diffusion_pytorch_model-00002-of-00002.safetensors"),
        r"shard 1 of 2 is missing, and so is an index",
    ),
    "several files": (
        lambda f: moved(f, "a.safetensors", "b.safetensors"),
        r"several safetensors files, a\.safetensors, b",
    ),
    "GGUF beside": (lambda f: moved(f, "wan.gguf"), r"wan\.gguf: is a GGUF file, quantized for other programs"),
    "shards that overlap": (
        lambda f: moved(f, "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"),
        r"has \S+, which m-00001-of-00002\.safetensors has too; keep one of them",
    ),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_files_that_are_not_guessed_between(case, copied):
    damage, message = REFUSED_FILES[case]
    damage(copied)
    with pytest.raises(CheckpointError, match=message):
        parts(copied)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.safetensors", r"is a single file; give the folder .* with --transformer$"),
        ("x.gguf", r"is a single file; .* a GGUF file, quantized for other programs, cannot be read"),
        ("x.pth", r"is a single file; .* pickled weights can run code"),
    ],
)
def test_a_single_file_as_the_checkpoint(name, message, tmp_path):
    """Row 37."""
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(tmp_path / name, tmp_path / "x.reel")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere",
            r"nowhere: no such folder or file; give a transformer in diffusers' layout or a \.safetensors file",
        ),
        ("x.gguf", r"is no \.safetensors file; a GGUF file, quantized for other programs, cannot be read"),
        ("x.ckpt", r"is no \.safetensors file; pickled weights can run code"),
        ("x.safetensors", r"x\.safetensors: is a GGUF file, quantized for other programs; edgereel reads weights from"),
    ],
)
def test_a_file_that_is_no_denoiser(name, message, whole, tmp_path):
    if name != "nowhere":
        (tmp_path / name).write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(whole, tmp_path / "x.reel", transformer=tmp_path / name)


def test_a_slow_tokenizer_alone_gets_the_command_that_helps(copied):
    """Row 36."""
    (copied / "tokenizer" / "tokenizer.json").rename(copied / "tokenizer" / "spiece.model")
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: file is missing; .* python -c \"from transformers import"
    ):
        parts(copied)
