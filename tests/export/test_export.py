"""Exported graphs against the real diffusers and transformers classes, loaded by their own from_pretrained."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from helpers.tiny_wan import write_tiny_wan
from transformers import UMT5EncoderModel

from edgereel.bundle.manifest import Manifest, digest_of
from edgereel.export import export_checkpoint

FP32_LIMIT = 1e-4
FP16_LIMIT = 5e-3
GRAPHS = ("text_encoder", "denoiser", "decoder_first", "decoder_next")


@dataclass
class Made:
    checkpoint: Path
    bundle: Path
    manifest: Manifest

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = onnxruntime.InferenceSession(self.bundle / f"{graph}.onnx", providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def model(self, graph: str) -> onnx.ModelProto:
        return onnx.load(self.bundle / f"{graph}.onnx", load_external_data=False)


def make(folder: Path, precision: str = "fp32", recipe: str | None = None, **options) -> Made:
    checkpoint = write_tiny_wan(folder / "checkpoint", **options)
    bundle = folder / "tiny.reel"
    return Made(checkpoint, bundle, export_checkpoint(checkpoint, bundle, precision=precision, recipe=recipe))


@pytest.fixture(scope="module")
def wan21(tmp_path_factory):
    """Wan 2.1's kind of VAE, float32 weights in one file each; a pair of experts for the noise levels."""
    return make(tmp_path_factory.mktemp("wan21"), seed=1, vae_levels=3, experts=True)


@pytest.fixture(scope="module")
def wan22(tmp_path_factory):
    """Wan 2.2's kind of VAE (residual, patches), bfloat16 weights in shards; other depth, heads, latent channels."""
    options = {"depth": 1, "heads": 3, "latent_channels": 6, "vae_patch": 2, "residual": True, "vae_levels": 3}
    options |= {"recipe": "self-forcing", "dtype": torch.bfloat16, "sharded": True}
    return make(tmp_path_factory.mktemp("wan22"), seed=2, **options)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Half precision, the smallest VAE, a checkpoint that brings its own facts."""
    extra = {"name": "Tiny", "license": "CC0-1.0", "origin": "tests", "max_tokens": 12, "quality": {"score": 1.0}}
    extra |= {"defaults": {"width": 16, "height": 8, "frames": 3, "fps": 4}}
    extra |= {"recipes": [{"name": "own", "sampler": "euler", "steps": 3, "shift": 2.0, "guidance": 1.0}]}
    folder = tmp_path_factory.mktemp("half")
    return make(folder, "fp16", seed=3, depth=1, vae_levels=2, extra=extra)


@pytest.mark.full
def test_a_denoiser_from_another_folder_is_exported_with_its_own_recipe(wan21, tmp_path):
    """As distilled models are published: one expert's weights alone, and how to sample them."""
    other = write_tiny_wan(tmp_path / "other", seed=9, vae_levels=3)
    recipe = {"name": "few", "sampler": "euler", "steps": 2, "sigmas": [1.0, 0.75], "guidance": 1.0}
    (other / "transformer" / "edgereel.json").write_text(json.dumps({"recipes": [recipe], "origin": "distilled"}))
    output = tmp_path / "x.reel"
    manifest = export_checkpoint(wan21.checkpoint, output, transformer_2=other / "transformer")
    assert [recipe.name for recipe in manifest.recipes] == ["few"]
    assert manifest.origin == "distilled"
    hashes = {
        name: [made.files[f"{name}.data"].sha256 for made in (wan21.manifest, manifest)]
        for name in ("denoiser", "denoiser_2")
    }
    assert hashes["denoiser"][0] == hashes["denoiser"][1]
    assert hashes["denoiser_2"][0] != hashes["denoiser_2"][1]


def relative(found: np.ndarray, expected: torch.Tensor) -> float:
    reference = expected.detach().numpy()
    assert found.shape == reference.shape
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def text_difference(made: Made, batch: int, length: int, padding: int) -> float:
    model = UMT5EncoderModel.from_pretrained(made.checkpoint / "text_encoder", dtype=torch.float32)
    ids = torch.randint(3, 60, (batch, length))
    mask = torch.ones_like(ids)
    mask[0, length - padding :] = 0
    expected = model(ids, mask).last_hidden_state * mask[:, :, None]
    found = made.run("text_encoder", {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})["prompt_embeds"]
    assert not found[mask.numpy() == 0].any()
    return relative(found, expected)


def denoiser_difference(made: Made, shape: tuple[int, ...], tokens: int, graph: str = "denoiser") -> float:
    folder = made.checkpoint / graph.replace("denoiser", "transformer")
    model = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32)
    latents = torch.randn(shape[0], model.config.in_channels, *shape[1:])
    timestep = torch.rand(shape[0]) * 1000
    embeds = torch.randn(shape[0], tokens, model.config.text_dim)
    with torch.no_grad():
        expected = model(latents, timestep, embeds, return_dict=False)[0]
    inputs = {"latents": latents.numpy(), "timestep": timestep.numpy(), "prompt_embeds": embeds.numpy()}
    return relative(made.run(graph, inputs)["prediction"], expected)


def decoder_difference(made: Made, batch: int, frames: int, height: int, width: int) -> float:
    vae = AutoencoderKLWan.from_pretrained(made.checkpoint / "vae", torch_dtype=torch.float32)
    channels = vae.config.z_dim
    latents = torch.randn(batch, channels, frames, height, width)
    mean = torch.tensor(vae.config.latents_mean).view(1, channels, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, channels, 1, 1, 1)
    with torch.no_grad():
        expected = vae.decode(latents * std + mean, return_dict=False)[0]
    assert (expected.abs() < 1).float().mean() > 0.5, "clamped frames would hide differences"
    outputs = made.run("decoder_first", {"latent": latents[:, :, :1].numpy()})
    pictures = [outputs.pop("frames")]
    for index in range(1, frames):
        states = {name.removesuffix("_next"): array for name, array in outputs.items()}
        outputs = made.run("decoder_next", {"latent": latents[:, :, index : index + 1].numpy(), **states})
        pictures.append(outputs.pop("frames"))
    return relative(np.concatenate(pictures, axis=2), expected)


@pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning")
@pytest.mark.parametrize("kind", ["wan21", "wan22"])
def test_graphs_compute_what_the_real_classes_compute(kind, request):
    made = request.getfixturevalue(kind)
    torch.manual_seed(11)
    assert text_difference(made, 1, 16, 9) < FP32_LIMIT
    assert text_difference(made, 3, 31, 2) < FP32_LIMIT
    assert denoiser_difference(made, (1, 1, 2, 2), 16) < FP32_LIMIT
    assert denoiser_difference(made, (3, 4, 6, 10), 5) < FP32_LIMIT
    assert decoder_difference(made, 1, 5, 2, 4) < FP32_LIMIT
    assert decoder_difference(made, 2, 2, 5, 3) < FP32_LIMIT


@pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning")
def test_half_precision_stays_within_its_limit(half):
    torch.manual_seed(12)
    assert text_difference(half, 2, 12, 4) < FP16_LIMIT
    assert denoiser_difference(half, (2, 3, 4, 6), 7) < FP16_LIMIT
    assert decoder_difference(half, 1, 4, 4, 3) < FP16_LIMIT
    assert half.manifest.precision.compute == half.manifest.precision.weights == "fp16"
    for graph in GRAPHS:
        model = half.model(graph)
        assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} <= {
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.INT64,
        }


@pytest.mark.parametrize("kind", ["wan21", "wan22"])
def test_graphs_are_canonical(kind, request):
    made = request.getfixturevalue(kind)
    depth = 2 if kind == "wan21" else 1
    counts = {graph: Counter(node.op_type for node in made.model(graph).graph.node) for graph in GRAPHS}
    assert counts["text_encoder"]["Attention"] == 2
    assert counts["text_encoder"]["RMSNormalization"] == 5
    assert counts["text_encoder"]["Gelu"] == 2
    assert counts["denoiser"]["Attention"] == counts["denoiser"]["RotaryEmbedding"] == 2 * depth
    assert counts["denoiser"]["RMSNormalization"] == 4 * depth
    assert counts["denoiser"]["LayerNormalization"] == 3 * depth + 1
    assert counts["denoiser"]["Gelu"] == depth + 1
    assert counts["denoiser"]["Transpose"] == 2  # into and out of tokens, none in the blocks
    assert counts["decoder_first"]["Attention"] == counts["decoder_next"]["Attention"] == 1
    for graph in GRAPHS:
        model = made.model(graph)
        onnx.checker.check_model(str(made.bundle / f"{graph}.onnx"))
        assert not {"ScatterND", "GatherND", "If", "Loop"} & set(counts[graph])
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 23)}
        assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("kind", ["wan21", "half"])
def test_linears_carry_the_names_of_their_modules(kind, request):
    made = request.getfixturevalue(kind)
    modules = {
        "text_encoder": UMT5EncoderModel.from_pretrained(made.checkpoint / "text_encoder"),
        "denoiser": WanTransformer3DModel.from_pretrained(made.checkpoint / "transformer"),
    }
    for graph, module in modules.items():
        linears = {name: part.weight for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
        found = {
            node.name: node.input[1] for node in made.model(graph).graph.node if node.op_type in ("MatMul", "Gemm")
        }
        assert set(linears) <= set(found)
        shapes = {tensor.name: sorted(tensor.dims) for tensor in made.model(graph).graph.initializer}
        for name, weight in linears.items():
            stored = found[name].removesuffix("_float32")
            assert stored.removeprefix("model.") == f"{name}.weight"
            assert shapes[stored] == sorted(weight.shape)


@pytest.mark.parametrize("kind", ["wan21", "wan22", "half"])
def test_graph_files_hold_no_weights_and_nothing_incidental(kind, request):
    made = request.getfixturevalue(kind)
    for graph in GRAPHS:
        model = made.model(graph)
        assert not model.graph.value_info
        assert not model.metadata_props
        for node in model.graph.node:
            assert not node.metadata_props
            assert not node.doc_string
        data = "decoder.data" if graph.startswith("decoder") else f"{graph}.data"
        for tensor in model.graph.initializer:
            places = {entry.key: entry.value for entry in tensor.external_data}
            assert len(tensor.raw_data) <= 1024
            assert places.get("location", data) == data
            assert not places or int(places["offset"]) + int(places["length"]) <= (made.bundle / data).stat().st_size
        content = (made.bundle / f"{graph}.onnx").read_bytes()
        assert str(made.checkpoint.parent).encode() not in content
        assert b"site-packages" not in content


def test_both_decoders_share_their_weights(wan21):
    stored = AutoencoderKLWan.from_pretrained(wan21.checkpoint / "vae").decoder
    weights = sum(parameter.nbytes for parameter in stored.parameters() if parameter.nbytes > 1024)
    padding = 4096 * sum(parameter.nbytes > 1024 for parameter in stored.parameters())
    assert (wan21.bundle / "decoder.data").stat().st_size < weights + padding


def test_bfloat16_weights_are_kept_as_bfloat16(wan21, wan22):
    assert wan21.manifest.precision.weights == "fp32"
    assert wan22.manifest.precision.weights == "bf16"
    for graph in GRAPHS:
        external = [tensor for tensor in wan22.model(graph).graph.initializer if tensor.external_data]
        kinds = Counter(tensor.data_type for tensor in external)
        assert kinds[onnx.TensorProto.BFLOAT16] > kinds[onnx.TensorProto.FLOAT]
    table = next(t for t in wan22.model("text_encoder").graph.initializer if list(t.dims) == [64, 32])
    readers = [node.op_type for node in wan22.model("text_encoder").graph.node if table.name in node.input]
    assert readers == ["Gather"]  # the table is not widened to read a few rows


def test_manifest_of_a_bare_checkpoint(wan21):
    manifest = wan21.manifest
    data = json.loads((wan21.bundle / "reel.json").read_text(encoding="utf-8"))
    assert manifest.to_json() == data
    assert data["digest"] == digest_of(data)
    assert sorted([*data["files"], "reel.json"]) == sorted(path.name for path in wan21.bundle.iterdir())
    for name, record in data["files"].items():
        content = (wan21.bundle / name).read_bytes()
        assert record == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert (manifest.name, manifest.license, manifest.origin) == ("tiny", "not stated", "not stated")
    assert (manifest.text.max_tokens, manifest.text.pad_token_id, manifest.text.unknown_token_id) == (512, 0, 2)
    assert manifest.text.cleaning == ["fix_text", "html_unescape", "collapse_whitespace"]
    assert (manifest.latent.channels, manifest.latent.temporal_scale, manifest.latent.spatial_scale) == (4, 4, 4)
    assert (manifest.latent.patch, manifest.latent.max_patches) == ([1, 2, 2], 64)
    recipes = [(r.name, r.sampler, r.steps, r.shift, r.guidance) for r in manifest.recipes]
    assert recipes == [("unipc", "unipc", 40, 3.0, 4.0), ("euler", "euler", 40, 3.0, 4.0)]  # of Wan 2.2's two experts
    assert manifest.recipes[0].expert_guidance == [4.0, 3.0]
    # Those of the two experts, 1280x720, as far as this model's 64 patches of 8 pixels reach.
    assert data["defaults"] == {"width": 512, "height": 512, "frames": 81, "fps": 16}
    assert set(manifest.written_by) == {"edgereel", "torch", "diffusers", "transformers", "onnx"}
    assert set(manifest.parity) == {*GRAPHS, "denoiser_2"}
    assert all(proof.relative <= proof.limit == 1e-4 and len(proof.shapes) >= 2 for proof in manifest.parity.values())
    card = (wan21.bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "AI-generated" in card
    assert (wan21.bundle / "tokenizer.json").read_bytes() == (
        wan21.checkpoint / "tokenizer" / "tokenizer.json"
    ).read_bytes()


def test_a_published_recipe_goes_before_the_familys(wan22):
    data = json.loads((wan22.bundle / "reel.json").read_text(encoding="utf-8"))
    assert [recipe["name"] for recipe in data["recipes"]] == ["self-forcing", "unipc", "euler"]
    assert set(data["recipes"][0]) == {
        *("name", "sampler", "steps", "shift", "warp", "guidance", "train_timesteps", "source")
    }
    card = (wan22.bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| self-forcing | sde | 4 | 1 | shift 5 of 1000 750 500 250 | Self-Forcing, configs" in card
    assert "| unipc | unipc | 50 | 5 | shift 3 | diffusers WanPipeline |" in card


def test_manifest_of_a_checkpoint_with_its_own_facts(half):
    manifest = half.manifest
    assert (manifest.name, manifest.license, manifest.origin) == ("Tiny", "CC0-1.0", "tests")
    assert [recipe.name for recipe in manifest.recipes] == ["own"]
    assert manifest.text.max_tokens == 12
    assert manifest.defaults.width == 16
    assert manifest.quality == {"score": 1.0}
    assert len(manifest.roles.denoiser) == 1


@pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning")
def test_experts_are_denoisers_with_their_noise_levels(wan21):
    denoisers = wan21.manifest.roles.denoiser
    levels = [(denoiser.file, denoiser.data, denoiser.sigma_low, denoiser.sigma_high) for denoiser in denoisers]
    assert levels == [
        ("denoiser.onnx", "denoiser.data", 0.875, 1.0),
        ("denoiser_2.onnx", "denoiser_2.data", 0.0, 0.875),
    ]
    torch.manual_seed(13)
    assert denoiser_difference(wan21, (2, 3, 4, 6), 7, "denoiser_2") < FP32_LIMIT


@pytest.mark.parametrize("kind", ["wan21", "wan22"])
def test_manifest_describes_the_graphs_as_they_are(kind, request):
    made = request.getfixturevalue(kind)
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
    for name, graph in made.manifest.roles.graphs().items():
        model = made.model(name)
        for values, specs in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
            found = {
                value.name: (
                    types[value.type.tensor_type.elem_type],
                    [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
                )
                for value in values
            }
            assert found == {key: (spec.dtype, spec.shape) for key, spec in specs.items()}
    roles = made.manifest.roles
    states = list(roles.decoder_next.inputs)[1:]
    assert states[:2] == ["state_00", "state_01"]
    assert list(roles.decoder_first.outputs) == ["frames", *states]
    assert list(roles.decoder_next.outputs) == ["frames", *(f"{name}_next" for name in states)]


@pytest.mark.full  # test_weights.py compares two exports in every run
def test_the_same_checkpoint_gives_the_same_bytes(half, tmp_path):
    """In a new process with another hash seed: nothing may depend on the order of a set or on addresses."""
    script = (
        "import sys; from edgereel.export import export_checkpoint;"
        "export_checkpoint(sys.argv[1], sys.argv[2], precision='fp16')"
    )
    again = tmp_path / "again.reel"
    command = [sys.executable, "-c", script, str(half.checkpoint), str(again)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in half.bundle.iterdir()
    }
