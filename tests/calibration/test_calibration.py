"""Collecting statistics: equal to a direct recomputation, resumable, bounded, and refused where they do not belong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import edit_manifest

from edgereel.bundle.reader import open_bundle
from edgereel.calibration import calibrate, quantize
from edgereel.calibration.graph_file import GraphFile
from edgereel.calibration.statistics import BINS, Slot, TensorStatistics, histogram_of, load_statistics
from edgereel.core.errors import Cancelled, EngineError, MissingExtraError, OutputError, UsageError
from edgereel.engines import EngineOptions, get_engine
from edgereel.engines.wrapped import ObservedEngine
from edgereel.runtime.reel import Reel, load

PROMPTS = ["a red ball bounces", "a green square slides over the ocean"]
SETTINGS = {"steps": 2, "size": (32, 32), "frames": 5, "threads": 1}


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="module")
def collected(random_reel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("collected")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    calibrate(random_reel, folder / "prompts.txt", folder / "stats.npz", **SETTINGS)
    return folder / "stats.npz"


@pytest.fixture
def statistics(collected, tmp_path):
    return load_statistics(Path(shutil.copy(collected, tmp_path / "stats.npz")))


def every_input(reel_path: Path):
    """Run the same clips and yield (branch, timestep, {tensor: values}) of every run, by the whole tensors themselves."""
    bundle = open_bundle(reel_path)
    model = onnx.load(bundle.path("denoiser.onnx"))
    tensors = sorted({linear.activations for linear in GraphFile(bundle.path("denoiser.onnx"), "d").linears.values()})
    given = {value.name for value in model.graph.input}
    for name in tensors:
        if name not in given:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = []

    def observe(graph, inputs, _):
        if graph == "denoiser":
            runs.append({name: tensor.numpy().copy() for name, tensor in inputs.items()})

    with Reel(bundle, ObservedEngine(get_engine("cpu"), observe), EngineOptions(threads=1)) as reel:
        for prompt in PROMPTS:
            reel.generate(prompt, seed=0, **{k: v for k, v in SETTINGS.items() if k != "threads"})
    for index, inputs in enumerate(runs):
        made = [name for name in tensors if name not in given]
        values = dict(zip(made, session.run(made, inputs), strict=True)) | {
            name: inputs[name] for name in tensors if name in given
        }
        yield ("prompted", "negative")[index % 2], float(inputs["timestep"][0]), values


def test_statistics_are_those_of_the_tensors_themselves(statistics, random_reel):
    """Tolerance: graphs with other outputs are fused otherwise, and sums are of float32."""
    expected: dict = {}
    for branch, timestep, values in every_input(random_reel):
        for name, array in values.items():
            rows = array.reshape(-1, array.shape[-1])
            expected.setdefault(name, {}).setdefault(Slot(branch, timestep), []).append(rows)
    seen = statistics.seen["denoiser"]
    assert seen.keys() == expected.keys()
    assert len(statistics.slots("denoiser")) == 4
    for name, slots in expected.items():
        assert seen[name].keys() == slots.keys()
        for slot, parts in slots.items():
            rows, found = np.concatenate(parts), seen[name][slot]
            assert found.tokens == len(rows)
            assert np.allclose(found.minimum, rows.min(axis=0), rtol=1e-4, atol=1e-5)
            assert np.allclose(found.maximum, rows.max(axis=0), rtol=1e-4, atol=1e-5)
            assert np.allclose(found.squares, np.square(rows.astype(np.float64)).sum(axis=0), rtol=1e-4, atol=1e-6)
            assert found.histogram.sum() % rows.shape[1] == 0
            assert 0 < len(found.rows) <= 16
            for row in found.rows:
                assert np.abs(rows - row).max(axis=1).min() < 1e-4


def test_every_linear_is_named_by_what_it_reads(statistics, random_reel):
    linears = GraphFile(random_reel / "denoiser.onnx", "denoiser").linears
    named = [name for names in statistics.linears["denoiser"].values() for name in names]
    assert sorted(named) == sorted(linears)
    for tensor, names in statistics.linears["denoiser"].items():
        assert {linears[name].activations for name in names} == {tensor}


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(random_reel, prompts, tmp_path, statistics):
    def stop_after_the_first(stage, done, total):
        return not (stage == "calibrate" and done == 1)

    output = tmp_path / "stopped.npz"
    with pytest.raises(Cancelled):
        calibrate(random_reel, prompts, output, on_progress=stop_after_the_first, **SETTINGS)
    assert load_statistics(output).clips == 1
    told = []
    calibrate(random_reel, prompts, output, on_progress=lambda *step: told.append(step), **SETTINGS)
    assert [step for step in told if step[0] == "calibrate"] == [("calibrate", 1, 2), ("calibrate", 2, 2)]
    first, second = np.load(tmp_path / "stats.npz"), np.load(output)
    assert first.files == second.files
    for name in first.files:
        assert np.array_equal(first[name], second[name]), name


def test_an_interrupt_inside_a_clip_leaves_the_last_whole_one(random_reel, prompts, tmp_path, monkeypatch):
    generate, calls = Reel.generate, []

    def interrupted(self, *arguments, **settings):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, *arguments, **settings)

    monkeypatch.setattr(Reel, "generate", interrupted)
    output = tmp_path / "interrupted.npz"
    with pytest.raises(KeyboardInterrupt):
        calibrate(random_reel, prompts, output, **SETTINGS)
    assert load_statistics(output).clips == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["interrupted.npz", "prompts.txt"]


@pytest.mark.parametrize(
    ("change", "what"), [({"steps": 3}, "recipe"), ({"seeds": 2}, "number of seeds"), ({"frames": 9}, "recipe")]
)
def test_statistics_of_another_run_are_not_gone_on_with(random_reel, prompts, tmp_path, statistics, change, what):
    with pytest.raises(UsageError, match=f"statistics that differ in the {what}"):
        calibrate(random_reel, prompts, tmp_path / "stats.npz", **{**SETTINGS, **change})


def test_other_prompts_are_another_run(random_reel, prompts, tmp_path, statistics):
    prompts.write_text("a red ball bounces\n")
    with pytest.raises(UsageError, match="statistics that differ in the prompts: remove it"):
        calibrate(random_reel, prompts, tmp_path / "stats.npz", **SETTINGS)


def test_first_timesteps_alone(statistics):
    alone = statistics.of_first_timesteps(1)
    first = statistics.slots("denoiser")[0].timestep
    assert {slot.timestep for slot in alone.slots("denoiser")} == {first}
    assert {slot.branch for slot in alone.slots("denoiser")} == {"prompted", "negative"}


def test_an_overflow_names_layer_and_timestep(random_reel, prompts, tmp_path, monkeypatch):
    def poisoned(model):
        for node in model.graph.node:
            if node.name == "blocks.1.ffn.net.2":
                big = onnx.numpy_helper.from_array(np.array(np.inf, np.float32), "big")
                model.graph.initializer.append(big)
                bad = onnx.helper.make_node("Mul", [node.input[0], "big"], ["bad"])
                node.input[0] = "bad"
                model.graph.node.insert(list(model.graph.node).index(node), bad)
                return model
        raise AssertionError("no such layer")

    load = onnx.load
    monkeypatch.setattr(
        "edgereel.calibration.graph_file.onnx.load",
        lambda path, **options: poisoned(load(path, **options)) if "denoiser" in str(path) else load(path, **options),
    )
    with pytest.raises(EngineError, match=r"goes into blocks\.1\.ffn\.net\.2 at timestep [\d.]+ \(prompted\)"):
        calibrate(random_reel, prompts, tmp_path / "stats.npz", **SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt"]


def test_an_empty_file_of_prompts_is_refused(random_reel, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UsageError, match="holds no prompt"):
        calibrate(random_reel, tmp_path / "empty.txt", tmp_path / "stats.npz")


def test_a_folder_that_is_not_there_is_said(random_reel, prompts, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        calibrate(random_reel, prompts, tmp_path / "missing" / "stats.npz")


def test_a_full_disk_leaves_what_was_there(random_reel, prompts, tmp_path, statistics, monkeypatch):
    before = (tmp_path / "stats.npz").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgereel.calibration.statistics.np.savez", full)
    with pytest.raises(OutputError, match="No space left"):
        statistics.save(tmp_path / "stats.npz")
    assert (tmp_path / "stats.npz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt", "stats.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no statistics at all"])
def test_another_file_is_not_taken_for_statistics(tmp_path, content):
    (tmp_path / "stats.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"stats\.npz"):
        load_statistics(tmp_path / "stats.npz")


def test_pickles_are_not_read(tmp_path):
    np.savez(tmp_path / "stats.npz", header=np.array([{"what": "pickle"}], dtype=object))
    with pytest.raises(UsageError, match="is not a file of statistics"):
        load_statistics(tmp_path / "stats.npz")


def test_fp16_bundles_are_refused(random_reel, prompts, tmp_path, demo_copy):
    edit_manifest(demo_copy, lambda data: data["precision"].update(compute="fp16"))
    with pytest.raises(UsageError, match="calculates in fp16: take an fp32 export"):
        calibrate(demo_copy, prompts, tmp_path / "stats.npz")


def test_a_missing_package_names_what_brings_it(random_reel, prompts, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r'needs onnx.*pip install "edgereel\[calibration\]"'):
        calibrate(random_reel, prompts, tmp_path / "stats.npz")


def test_the_file_is_bounded_whatever_the_number_of_clips(random_reel, prompts, tmp_path, statistics):
    calibrate(random_reel, prompts, tmp_path / "more.npz", **SETTINGS, seeds=4)
    sizes = [(tmp_path / name).stat().st_size for name in ("stats.npz", "more.npz")]
    assert sizes[1] <= sizes[0] * 1.05


def test_the_reservoir_is_an_even_choice():
    """Mean of which tokens are kept of 1000: within four standard errors of the middle."""
    seen = TensorStatistics.nothing(1)
    for start in range(0, 1000, 10):
        rows = np.arange(start, start + 10, dtype=np.float32)[:, None]
        seen.add(rows.min(axis=0), rows.max(axis=0), np.square(rows).sum(axis=0), 10, rows, 64)
    assert seen.rows.shape == (64, 1)
    assert abs(seen.rows.mean() - 500) < 4 * 289 / 8
    assert seen.offered == seen.tokens == 1000


def test_histograms_count_every_magnitude():
    values = np.array([0, 1, -1, 1e-30, 1e30, 0.75], np.float32)
    counts = histogram_of(values)
    assert counts.shape == (BINS,)
    assert counts.sum() == 6
    assert counts[0] == 2
    assert counts[-1] == 1
    assert counts[24 * 8] == 2


def test_finished_statistics_are_not_made_again(random_reel, prompts, tmp_path, statistics, monkeypatch):
    monkeypatch.setattr("edgereel.calibration.collecting.Reel", None)
    told = []
    found = calibrate(
        random_reel, prompts, tmp_path / "stats.npz", on_progress=lambda *step: told.append(step), **SETTINGS
    )
    assert found.clips == 2
    assert told[-1] == ("calibrate", 2, 2)


def test_the_command_prints_one_object(random_reel, prompts, tmp_path, capsys, monkeypatch):
    from edgereel import cli

    arguments = ["calibrate", str(random_reel), "--prompts", str(prompts), "-o", str(tmp_path / "s.npz"), "--json"]
    monkeypatch.setattr("sys.argv", ["edgereel", *arguments, "--steps", "1", "--size", "32x32", "--frames", "5"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["clips"] == 2
    assert printed["timesteps"] == {"denoiser": 1}


def test_both_experts_of_a_model_that_has_two(experts_reel, tmp_path):
    """Each is run at its own noise levels only, and each gets ranges of its own."""
    (tmp_path / "prompts.txt").write_text("a red ball\n")
    clip = {"size": (8, 8), "frames": 5, "steps": 6}
    found = calibrate(experts_reel, tmp_path / "prompts.txt", tmp_path / "stats.npz", **clip)
    timesteps = [{slot.timestep for slot in found.slots(name)} for name in ("denoiser", "denoiser_2")]
    assert min(timesteps[0]) >= 875 > max(timesteps[1])
    assert len(timesteps[0] | timesteps[1]) == 6
    manifest = quantize(
        experts_reel,
        tmp_path / "small.reel",
        precision="int8",
        activations="static",
        stats=tmp_path / "stats.npz",
        compare=False,
    )
    assert [graph.quantization.activations for graph in manifest.roles.denoiser] == ["static", "static"]
    latents = []
    for path in (experts_reel, tmp_path / "small.reel"):
        with load(path) as reel:
            latents.append(reel.generate("a red ball", **clip).latents)
    difference = np.linalg.norm(latents[1] - latents[0]) / np.linalg.norm(latents[0])
    assert 0 < difference < 0.1
