"""Tiny decoders by their files' layout: a stream equals the network on whole clips, and what does not fit is named."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import DEMO_CHECKPOINT
from helpers.exported_parts import relative
from helpers.tiny_decoders import OF_THE_DEMO, TAEW2_1, TAEW2_2, Statistics, part_of, tensors_of, write_tiny

from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import CheckpointError, ParityError, UsageError
from edgereel.demo.growing.tiny_decoder import TinyDecoder as TrainedTinyDecoder
from edgereel.export import ExportOptions, export_checkpoint
from edgereel.export import bundle as bundle_export
from edgereel.export.families.ltx.adapter import LtxAdapter
from edgereel.export.families.wan.tiny.layout import TinyShape
from edgereel.export.families.wan.tiny.modules import TinyDecoder, TinyFirst, TinyNext, state_sizes
from edgereel.export.liveness import check_alive
from edgereel.export.request import TinyDecoderFile

LIMIT = 1e-5
SHAPES = {"taew2_1": TAEW2_1, "taew2_2": TAEW2_2, "taeltx_2": TinyShape(128, (12, 8, 6, 4), (2, 2, 2), 4)}


@torch.no_grad()
def streamed(first: Any, later: Any, latents: torch.Tensor) -> tuple[torch.Tensor, list[tuple[torch.Tensor, ...]]]:
    """Return the pictures of latents decoded frame by frame, and the states after each."""
    frame, *states = first(latents[:, :, :1])
    made, kept = [frame], [tuple(states)]
    for index in range(1, latents.shape[2]):
        frame, *states = later(latents[:, :, index : index + 1], *states)
        made.append(frame)
        kept.append(tuple(states))
    return torch.cat(made, dim=2), kept


@pytest.mark.parametrize("name", SHAPES)
def test_frame_by_frame_equals_the_network_on_whole_clips(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    part = part_of(write_tiny(tmp_path / f"{name}.safetensors", shape), shape)
    assert part.shape == shape
    tiny = part.load()
    latents = torch.randn(2, shape.channels, 4, 3, 5)
    with torch.no_grad():
        whole = tiny(latents)
    frames = 1 + 3 * shape.temporal_scale
    assert whole.shape == (2, 3, frames, 3 * shape.spatial_scale, 5 * shape.spatial_scale)
    assert whole.abs().max() <= 1
    assert whole.std() > 0.1
    first, later = (kind(tiny, torch.float32, None) for kind in (TinyFirst, TinyNext))
    pictures, states = streamed(first, later, latents)
    assert relative(pictures, whole) < LIMIT
    assert [tuple(state.shape) for state in states[-1]] == [
        (2, width, 1, 3 * scale, 5 * scale) for width, scale in state_sizes(shape)
    ]
    forgetful, _ = streamed(first, lambda latent, *held: later(latent, *(0 * state for state in held)), latents)
    assert relative(forgetful, whole) > 100 * LIMIT


def test_in_half_precision_all_of_it_is_near() -> None:
    tiny = TinyDecoder(TAEW2_2)
    tiny.load_state_dict({name: value for name, value in tensors_of(TAEW2_2).items() if name.startswith("decoder.")})
    latents = torch.randn(1, TAEW2_2.channels, 3, 3, 4)
    with torch.no_grad():
        whole = tiny(latents)
    first, later = (kind(tiny, torch.float16, None) for kind in (TinyFirst, TinyNext))
    pictures, states = streamed(first, later, latents)
    assert {state.dtype for state in (pictures, *states[-1])} == {torch.float32}
    assert 1e-6 < relative(pictures, whole) < 5e-3


def test_it_is_the_network_that_the_demo_trains() -> None:
    trained = TrainedTinyDecoder(OF_THE_DEMO.channels, OF_THE_DEMO.widths).eval()
    tensors = {name: value for name, value in tensors_of(OF_THE_DEMO).items() if name.startswith("decoder.")}
    trained.load_state_dict(tensors)
    ours = TinyDecoder(OF_THE_DEMO)
    ours.load_state_dict(tensors)
    latents = torch.randn(1, OF_THE_DEMO.channels, 3, 2, 4)
    with torch.no_grad():
        expected = trained(latents)[0].clamp(0, 1) * 2 - 1
        assert relative(ours(latents), expected) < LIMIT


def test_graphs_give_what_the_network_gives(two_decoder_reel: Path, tmp_path: Path) -> None:
    part = part_of(write_tiny(tmp_path / "tiny.safetensors", OF_THE_DEMO), OF_THE_DEMO)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    first, later = (
        onnxruntime.InferenceSession(two_decoder_reel / f"tiny_decoder_{name}.onnx", settings)
        for name in ("first", "next")
    )
    for trial in part.trials(part.load()):
        latents = trial.inputs["latents"]
        made, *states = first.run(None, {"latent": latents[:, :, :1]})
        frames = [made]
        for index in range(1, latents.shape[2]):
            held = {f"state_{number:02}": state for number, state in enumerate(states)}
            made, *states = later.run(None, {"latent": latents[:, :, index : index + 1], **held})
            frames.append(made)
        assert relative(np.concatenate(frames, axis=2), trial.expected) < LIMIT


def test_lighttae_takes_latents_as_they_were_before_normalising(tmp_path: Path) -> None:
    notes: list[str] = []
    files = [write_tiny(tmp_path / f"{name}.safetensors", TAEW2_1) for name in ("lighttaew2_1", "taew2_1")]
    light, plain = (part_of(path, TAEW2_1, notes) for path in files)
    network = plain.load()
    for part, told in ((light, "LightTAE's way"), (plain, "taehv's way")):
        assert any(part.component.folder.name in note and told in note for note in notes)
    statistics = Statistics(TAEW2_1.channels)
    mean, std = (torch.tensor(each).view(1, -1, 1, 1, 1) for each in (statistics.latents_mean, statistics.latents_std))
    trial = light.trials(network)[0]
    latents = torch.from_numpy(trial.inputs["latents"])
    with torch.no_grad():
        expected = network(latents * std + mean)
    assert relative(trial.expected, expected) < LIMIT
    assert relative(plain.trials(network)[0].expected, expected) > 100 * LIMIT
    first = TinyFirst(network, torch.float32, light._scale)
    with torch.no_grad():
        assert relative(first(latents[:, :, :1])[0], expected[:, :, :1]) < LIMIT


@pytest.mark.parametrize(
    ("given", "scaled"),
    [("x/lighttaew2_1.safetensors", True), ("x/taew2_1.safetensors", False), ("x/my.safetensors:scaled", True),
     ("x/lighttaew2_1.safetensors:normalised", False)],
)  # fmt: skip
def test_what_a_decoder_takes_goes_by_its_name_or_what_is_said(given: str, scaled: bool) -> None:
    file = TinyDecoderFile.of(given)
    assert (file.takes_scaled, file.path.suffix) == (scaled, ".safetensors")


def refusal(path: Path, shape: TinyShape = TAEW2_1) -> str:
    with pytest.raises(CheckpointError) as error:
        part_of(path, shape)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def test_a_file_for_other_latents_is_refused_with_what_it_fits(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "taew2_2.safetensors", TAEW2_2)
    assert refusal(path) == (
        "tensor decoder.1.weight shows a tiny decoder for latents of 48 channels, scales of 4 in time and 16 in space (taew2_2 "
        "or lighttaew2_2, for Wan 2.2 TI2V-5B), but this model's latents have 16 channels and scales of 4 and 8, which taew2_1 "
        "or lighttaew2_1, for Wan 2.1 and Wan 2.2 A14B fits"
    )
    path = write_tiny(tmp_path / "patched.safetensors", TinyShape(16, TAEW2_1.widths, (1, 2, 2), 2))
    assert refusal(path).startswith(
        "tensor decoder.22.weight shows a tiny decoder for latents of 16 channels, scales of 4 in"
    )
    path = write_tiny(tmp_path / "slow.safetensors", TinyShape(16, TAEW2_1.widths, (1, 2, 1), 1))
    assert refusal(path).startswith("tensor decoder.19.conv.weight shows")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder.1.weight": None},
            "has no tensor decoder.1.weight, which every tiny decoder of the taehv layout has",
        ),
        ({"decoder.4.conv.2.weight": None}, "tensor decoder.4.conv.2.weight is missing"),
        (
            {"decoder.9.conv.0.weight": torch.ones(8, 16, 1, 1)},
            "tensor decoder.9.conv.0.weight has shape [8, 16, 1, 1]",
        ),
        ({"decoder.9.skip.weight": torch.ones(8)}, "tensor decoder.9.skip.weight does not belong"),
        ({"decoder.13.conv.weight": torch.ones(13, 8, 1, 1)}, "tensor decoder.13.conv.weight makes 13 channels of 8"),
        ({"decoder.22.weight": torch.ones(7, 4, 3, 3)}, "tensor decoder.22.weight gives 7 channels"),
        ({"decoder.8.weight": torch.ones(8192, 1, 1, 1)}, "[8192, 1, 1, 1]: it is no tiny decoder's"),
        ({"decoder.8.weight": torch.ones(3)}, "tensor decoder.8.weight has shape [3]: it is no tiny decoder's"),
    ],
)
def test_files_that_are_no_tiny_decoders(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(write_tiny(tmp_path / "odd.safetensors", TAEW2_1, **changes))


def test_dead_weights_are_found(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "dead.safetensors", TAEW2_1, **{"decoder.15.conv.0.weight": torch.zeros(6, 12, 3, 3)})
    part = part_of(path, TAEW2_1)
    with pytest.raises(CheckpointError, match=r"decoder\.15\.conv\.0\.weight"):
        part.component.check_alive()


def test_pickles_and_what_is_not_there_are_refused_at_the_door(tmp_path: Path) -> None:
    (tmp_path / "taew2_1.pth").write_bytes(b"\x80")
    for path, message in (
        (tmp_path / "taew2_1.pth", "pickled weights can run code"),
        (tmp_path / "no", "no such folder or file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            ExportOptions(DEMO_CHECKPOINT, tmp_path / "x.reel", tiny_decoder=path).complete()


def test_an_export_puts_it_beside_the_full_one(
    two_decoder_reel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of an export but the tracing, whose graphs are there already: the full decoder stays the default."""
    made = open_bundle(two_decoder_reel).manifest
    notes: list[str] = []

    def graphs_are_there(adapter: Any, folder: Path, *_: Any) -> bundle_export.ProvedGraphs:
        names = ["text_encoder", "denoiser", "encoder", "decoder", "tiny_decoder"]
        assert [part.name for part in adapter.parts] == names
        for name in made.files:
            if name.endswith((".onnx", ".data")):
                shutil.copy(two_decoder_reel / name, folder / name)
        entries = {name: graph.model_dump(mode="json") for name, graph in made.roles.graphs().items()}
        return bundle_export.ProvedGraphs(entries, stored={"BFLOAT16": 1})

    monkeypatch.setattr(bundle_export, "_export_parts", graphs_are_there)
    tiny = write_tiny(tmp_path / "tiny.safetensors", OF_THE_DEMO)
    export_checkpoint(DEMO_CHECKPOINT, tmp_path / "two.reel", tiny_decoder=tiny, on_note=notes.append)
    manifest = open_bundle(tmp_path / "two.reel").manifest
    assert (list(manifest.roles.decoders_by_name), manifest.default_decoder) == (["full", "tiny"], "full")
    assert (manifest.schema_version, manifest.preview_decoder) == (2, "tiny")
    assert any("a tiny decoder for latents of 24 channels" in note for note in notes)
    wrong = write_tiny(tmp_path / "wrong.safetensors", TAEW2_1)
    with pytest.raises(CheckpointError, match="this model's latents have 24 channels and scales of 4 and 16"):
        export_checkpoint(DEMO_CHECKPOINT, tmp_path / "no.reel", tiny_decoder=wrong)
    assert not (tmp_path / "no.reel").exists()


def test_none_is_known_for_ltx() -> None:
    with pytest.raises(UsageError, match=r"none is published for LTX-Video's latents"):
        LtxAdapter.add_tiny_decoder(object.__new__(LtxAdapter), TinyDecoderFile(Path("taeltx_2.safetensors")))


def test_memory_that_training_has_switched_off_is_no_damage(tmp_path: Path) -> None:
    """A block whose ReLUs are never above zero passes its input on, as six of nine of the demo's do. All nine are damage."""
    part = part_of(write_tiny(tmp_path / "tiny.safetensors", TAEW2_1), TAEW2_1)
    blocks = (3, 4, 5, 9, 10, 11, 15, 16, 17)

    def later_without(off: Sequence[int]) -> Any:
        tiny = part.load()
        with torch.no_grad():
            for number in off:
                tiny.decoder[number].conv[2].bias.fill_(-100)
        return part.graphs(tiny, torch.float32)[1]

    check_alive("tiny_decoder", later_without(blocks[:6]), [], "fp32")
    with pytest.raises(ParityError, match="does not depend on its input state_00"):
        check_alive("tiny_decoder", later_without(blocks), [], "fp32")
    with pytest.raises(ParityError, match="does not depend on its input state_00"):
        check_alive("tiny_decoder", replace(later_without(blocks[:6]), states_may_idle=False), [], "fp32")
