"""Quantized bundles: made, proved and refused, on the shipped demo and on a random model, through the real runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import DEMO_REEL, edit_manifest

from edgereel.bundle.reader import open_bundle, verify_bundle
from edgereel.calibration import calibrate, quantize
from edgereel.calibration.graph_file import GraphFile
from edgereel.calibration.rewriting import WeightFile
from edgereel.calibration.statistics import load_statistics
from edgereel.core.errors import BundleError, Cancelled, OutputError, QualityError, UsageError
from edgereel.runtime.describe import describe
from edgereel.runtime.reel import load

STEPS = 4
PROMPTS = ["a red ball bounces over the ocean", "a green star rises in the snow"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="module")
def stats(prompts, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stats") / "demo.npz"
    calibrate(DEMO_REEL, prompts, path, steps=STEPS)
    return path


@pytest.fixture(scope="module")
def int8(prompts, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("int8") / "demo.reel"
    quantize(DEMO_REEL, output, precision="int8", prompts=prompts, steps=STEPS)
    return output


def float32_bytes(reel: Path) -> int:
    """What the weights of denoisers and text encoder take in float32."""
    total = 0
    for graph in ("denoiser.onnx", "text_encoder.onnx"):
        for tensor in onnx.load(reel / graph, load_external_data=False).graph.initializer:
            if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16):
                total += 4 * int(np.prod(tensor.dims))
    return total


def stored_bytes(reel: Path) -> int:
    return sum((reel / name).stat().st_size for name in ("denoiser.data", "text_encoder.data"))


def test_the_int8_demo_is_small_and_near(int8):
    """The goal: at least 32 dB, at most 30% of float32's bytes."""
    manifest = verify_bundle(int8).manifest
    assert manifest.quality["to_source"]["psnr_db"] >= 32
    assert stored_bytes(int8) <= 0.30 * float32_bytes(DEMO_REEL)
    with load(int8) as reel, load(DEMO_REEL) as source:
        clips = [np.stack(list(each.generate(PROMPTS[0], steps=STEPS))) for each in (reel, source)]
    error = np.square(clips[0] / 255 - clips[1] / 255).mean()
    assert -10 * np.log10(error) >= 32
    assert error > 0


def test_the_manifest_says_what_was_done(int8):
    source, manifest = open_bundle(DEMO_REEL).manifest, open_bundle(int8).manifest
    assert manifest.quantized_from == source.digest
    assert manifest.precision.weights == "int8"
    denoiser = manifest.roles.denoiser[0]
    assert denoiser.activations == "dynamic"
    assert denoiser.quantization.activations == "dynamic"
    assert denoiser.quantization.linears == {"int8": len(GraphFile(DEMO_REEL / "denoiser.onnx", "d").linears)}
    assert manifest.roles.text_encoder.activations is None
    assert manifest.roles.text_encoder.quantization.activations == "float"
    assert "activations" not in manifest.to_json()["roles"]["decoders"]["full"]["decoder_first"]
    assert manifest.quality["of_source"] == source.quality
    assert manifest.quality["to_source"]["clips"] == len(PROMPTS)
    assert str(int8.parent) not in (int8 / "reel.json").read_text()
    assert manifest.files.keys() == source.files.keys()
    card = (int8 / "MODEL_CARD.md").read_text()
    assert source.digest in card
    assert "| denoiser | " in card
    shown = describe(open_bundle(int8))
    assert "dB to the original's" in shown
    assert "linears    " in shown


def test_the_engine_is_told_of_dynamic_activations(int8, monkeypatch):
    from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu

    asked, opened = {}, OnnxRuntimeCpu.open

    def note(self, path, options):
        asked[path.stem] = options.activations
        return opened(self, path, options)

    monkeypatch.setattr(OnnxRuntimeCpu, "open", note)
    with load(int8, cache=False) as reel:
        list(reel.generate(PROMPTS[0], steps=1))
    assert asked == {
        "denoiser": "dynamic",
        "text_encoder": "float",
        "decoder_first": "float",
        "decoder_next": "float",
    }


def test_the_same_command_writes_the_same_bundle(int8, prompts, tmp_path):
    again = quantize(DEMO_REEL, tmp_path / "demo.reel", precision="int8", prompts=prompts, steps=STEPS)
    assert again.digest == open_bundle(int8).manifest.digest


def test_static_activations_follow_the_statistics(stats, prompts, tmp_path):
    manifest = quantize(
        DEMO_REEL,
        tmp_path / "static.reel",
        precision="int8",
        stats=stats,
        activations="static",
        prompts=prompts,
        steps=STEPS,
    )
    assert manifest.roles.denoiser[0].quantization.activations == "static"
    assert manifest.roles.denoiser[0].activations is None
    graph = onnx.load(tmp_path / "static.reel" / "denoiser.onnx", load_external_data=False).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 10
    assert manifest.quality["to_source"]["psnr_db"] >= 32


def test_ranges_of_all_timesteps_hold_what_those_of_the_first_leave_out(stats, prompts, tmp_path):
    """Which clip is nearer is chance where a few values are cut; that values are cut is not."""
    every = load_statistics(stats)
    first = every.of_first_timesteps(1)
    wider = []
    for graph, tensors in every.seen.items():
        for tensor, slots in tensors.items():
            of_all, of_first = (
                max(max(-part.minimum.min(), part.maximum.max()) for part in each.values())
                for each in (slots, first.seen[graph][tensor])
            )
            assert of_all >= of_first
            wider.append(of_all > 1.05 * of_first)
    assert np.mean(wider) > 0.2
    near = [
        quantize(
            DEMO_REEL,
            tmp_path / f"{count}.reel",
            precision="int8",
            stats=stats,
            activations="static",
            first_timesteps=count,
            prompts=prompts,
            steps=STEPS,
        ).quality["to_source"]["psnr_db"]
        for count in (None, 1)
    ]
    assert min(near) >= 32
    assert near[0] != near[1]


@pytest.mark.parametrize("text_encoder", ["int4", "keep"])
def test_the_text_encoder_is_chosen_apart(prompts, tmp_path, text_encoder):
    output = tmp_path / "small.reel"
    manifest = quantize(DEMO_REEL, output, precision="int8", text_encoder=text_encoder, prompts=prompts, steps=STEPS)
    if text_encoder == "keep":
        assert manifest.roles.text_encoder.quantization is None
        assert manifest.files["text_encoder.data"] == open_bundle(DEMO_REEL).manifest.files["text_encoder.data"]
    else:
        assert set(manifest.roles.text_encoder.quantization.linears) == {"int4"}
    assert manifest.quality["to_source"]["psnr_db"] >= 32


def test_int4_halves_int8(int8, prompts, tmp_path):
    manifest = quantize(DEMO_REEL, tmp_path / "small.reel", precision="int4", prompts=prompts, steps=STEPS)
    assert (tmp_path / "small.reel" / "denoiser.data").stat().st_size < 0.75 * (int8 / "denoiser.data").stat().st_size
    assert manifest.roles.denoiser[0].quantization.activations == "float"
    assert manifest.quality["to_source"]["psnr_db"] > 20


def test_fp8_is_valid_onnx_and_its_loss_is_measured(stats, tmp_path):
    """The cpu engine widens what was rounded to float8, so that the rounding is exactly that of cards that multiply it."""
    one = tmp_path / "one.txt"
    one.write_text(PROMPTS[0] + "\n")
    manifest = quantize(DEMO_REEL, tmp_path / "small.reel", precision="fp8", stats=stats, prompts=one, steps=STEPS)
    path = tmp_path / "small.reel" / "denoiser.onnx"
    onnx.checker.check_model(str(path))
    kinds = {tensor.data_type for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in kinds
    assert 25 < manifest.quality["to_source"]["psnr_db"] < 60


def test_a_timesteps_embedding_is_quantized_with_no_static_scale(stats, tmp_path):
    manifest = quantize(
        DEMO_REEL, tmp_path / "s.reel", precision="int8", stats=stats, activations="static", compare=False
    )
    kept = set(manifest.roles.denoiser[0].quantization.kept)
    assert {
        f"condition_embedder.{name}" for name in ("time_embedder.linear_1", "time_embedder.linear_2", "time_proj")
    } <= kept
    assert not [name for name in kept if name.startswith("blocks.")]


def test_kept_layers_stay_as_they_are(prompts, tmp_path):
    linears = list(GraphFile(DEMO_REEL / "denoiser.onnx", "d").linears)
    kept = [linears[3], linears[-1]]
    manifest = quantize(DEMO_REEL, tmp_path / "small.reel", precision="int8", keep=kept, prompts=prompts, steps=2)
    assert manifest.roles.denoiser[0].quantization.kept == kept


def test_mixed_meets_its_budget_and_is_smaller_than_fp16(words_reel, tmp_path):
    """Two steps, one prompt, small pictures: the search makes a clip for each of the demo's linears."""
    one = tmp_path / "one.txt"
    one.write_text(PROMPTS[0] + "\n")
    plain = quantize(words_reel, tmp_path / "plain.reel", precision="int8", prompts=one, steps=2)
    budget = plain.quality["to_source"]["psnr_db"] + 3
    manifest = quantize(words_reel, tmp_path / "mixed.reel", precision="mixed", budget_db=budget, prompts=one, steps=2)
    assert manifest.quality["to_source"]["psnr_db"] >= budget
    assert manifest.roles.denoiser[0].quantization.kept
    assert stored_bytes(tmp_path / "plain.reel") < stored_bytes(tmp_path / "mixed.reel")
    assert stored_bytes(tmp_path / "mixed.reel") < 0.5 * float32_bytes(words_reel)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed.reel", "one.txt", "plain.reel"]


def test_a_budget_that_is_missed_leaves_nothing(prompts, tmp_path):
    with pytest.raises(QualityError, match=r"99 dB were asked for: --precision mixed"):
        quantize(DEMO_REEL, tmp_path / "small.reel", precision="int8", budget_db=99, prompts=prompts, steps=2)
    assert list(tmp_path.iterdir()) == []


def test_a_quantized_bundle_is_not_quantized_again(int8, tmp_path):
    with pytest.raises(UsageError, match="is quantized already"):
        quantize(int8, tmp_path / "small.reel", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_another_bundle_are_refused(random_reel, stats, tmp_path):
    with pytest.raises(UsageError, match="of another bundle"):
        quantize(random_reel, tmp_path / "small.reel", precision="int8", stats=stats, compare=False)


def test_statistics_that_were_not_finished_are_refused(prompts, tmp_path):
    def stop(stage, done, total):
        return not (stage == "calibrate" and done == 1)

    with pytest.raises(Cancelled):
        calibrate(DEMO_REEL, prompts, tmp_path / "stats.npz", steps=1, on_progress=stop)
    with pytest.raises(UsageError, match="stopped after 1 of 2 clips"):
        quantize(DEMO_REEL, tmp_path / "small.reel", precision="int8", stats=tmp_path / "stats.npz")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    add, count = WeightFile.add, []

    def full(self, *arguments):
        count.append(arguments)
        if len(count) > 20:
            raise OSError(28, "No space left on device")
        return add(self, *arguments)

    monkeypatch.setattr(WeightFile, "add", full)
    for precision in ("int8", "mixed"):
        count.clear()
        with pytest.raises(OutputError, match="No space left"):
            quantize(DEMO_REEL, tmp_path / "small.reel", precision=precision, steps=1)
        assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupt(stage, done, total):
        if stage == "second":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(DEMO_REEL, tmp_path / "small.reel", precision="int8", steps=1, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_is_refused(demo_copy, tmp_path):
    (demo_copy / "denoiser.data").write_bytes(b"damaged")
    with pytest.raises(BundleError):
        quantize(demo_copy, tmp_path / "small.reel", precision="int8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"precision": "int8", "keep": ["no.such.*"]}, r"--keep no\.such\.\*: no layer has such a name"),
        ({"precision": "int3"}, "'int3' is unknown: choose from int8, int4, fp8, mixed"),
        ({"precision": "int8", "text_encoder": "fp8"}, "choose from int8, int4, keep"),
        ({"precision": "int8", "activations": "static"}, "static activations need --stats"),
        ({"precision": "int4", "activations": "dynamic"}, "int4 quantizes weights alone"),
        ({"precision": "fp8", "activations": "dynamic"}, "fp8 activations are static"),
        ({"precision": "int8", "budget_db": float("nan")}, "budget of nan dB"),
        ({"precision": "mixed", "compare": False}, "unmeasured"),
        ({"precision": "int8", "budget_db": 30, "compare": False}, "unmeasured"),
        ({"precision": "int8", "first_timesteps": 1}, "without statistics"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, arguments, said):
    with pytest.raises(UsageError, match=said):
        quantize(DEMO_REEL, tmp_path / "small.reel", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_prompts_of_its_own_needs_some(random_reel, tmp_path):
    with pytest.raises(UsageError, match="--prompts FILE"):
        quantize(random_reel, tmp_path / "small.reel", precision="int8")
    assert list(tmp_path.iterdir()) == []
    manifest = quantize(random_reel, tmp_path / "small.reel", precision="int8", compare=False)
    assert manifest.quality == {}


def test_bundles_in_fp16_are_refused(demo_copy, tmp_path):
    edit_manifest(demo_copy, lambda data: data["precision"].update(compute="fp16"))
    with pytest.raises(UsageError, match="take an fp32 export"):
        quantize(demo_copy, tmp_path / "small.reel", precision="int8")


def test_the_command_prints_one_object(tmp_path, capsys, monkeypatch, prompts):
    from edgereel import cli

    output = tmp_path / "small.reel"
    arguments = ["quantize", str(DEMO_REEL), "-o", str(output), "--precision", "int8", "--prompts", str(prompts)]
    monkeypatch.setattr("sys.argv", ["edgereel", *arguments, "--steps", "1", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["digest"] == open_bundle(output).manifest.digest
    assert printed["quality"]["psnr_db"] > 20


def test_statistics_that_never_ran_an_expert_are_refused(tmp_path, stats, monkeypatch):
    from edgereel.calibration.statistics import Statistics, load_statistics

    def without_denoiser(path):
        found = load_statistics(path)
        return Statistics(found.plan, found.clips, {}, {})

    monkeypatch.setattr("edgereel.calibration.quantizing.load_statistics", without_denoiser)
    with pytest.raises(UsageError, match="never runs denoiser"):
        quantize(DEMO_REEL, tmp_path / "small.reel", precision="int8", stats=stats)
