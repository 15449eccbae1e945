"""Two bundles side by side: what is equal shows no difference, what was damaged shows how much, in figures and a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import DEMO_REEL, edit_manifest

import edgereel
from edgereel.bundle.reader import hash_file
from edgereel.calibration.clips import ClipSettings
from edgereel.calibration.compare import compare_bundles
from edgereel.calibration.report import summary, write_report
from edgereel.core.errors import OutputError, UsageError

PROMPTS = ["a red ball rises in the snow", "a blue ring bounces over the ocean"]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with one bias of the denoiser's output moved by a tenth."""
    reel = Path(shutil.copytree(DEMO_REEL, tmp_path_factory.mktemp("damaged") / "damaged.reel"))
    graph = onnx.load(reel / "denoiser.onnx", load_external_data=False)
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "model.proj_out.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 0.1
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    (reel / "denoiser.onnx").write_bytes(graph.SerializeToString())
    record = {"size": (reel / "denoiser.onnx").stat().st_size, "sha256": hash_file(reel / "denoiser.onnx")}
    edit_manifest(reel, lambda data: data["files"].update({"denoiser.onnx": record}))
    return reel


def test_a_bundle_equals_itself() -> None:
    comparison = compare_bundles(
        DEMO_REEL, DEMO_REEL, prompts=PROMPTS[:1], settings=ClipSettings(steps=2), budget_db=60
    )
    clip = comparison.clips[0]
    assert (clip.psnr_db, clip.motion, clip.drift) == (100, 1, [0, 0])
    assert clip.ssim == pytest.approx(1)
    assert comparison.within_budget


def test_damage_is_measured_on_the_frames_that_both_bundles_really_make(damaged: Path, tmp_path: Path) -> None:
    stages = []
    comparison = compare_bundles(
        DEMO_REEL, damaged, prompts=PROMPTS, seeds=(3, 4), settings=ClipSettings(steps=2), budget_db=60, pictures=1,
        on_progress=lambda *at: stages.append(at),
    )  # fmt: skip
    assert [(clip.prompt, clip.seed) for clip in comparison.clips] == [(p, s) for p in PROMPTS for s in (3, 4)]
    made = []
    for path in (DEMO_REEL, damaged):
        with edgereel.load(path, cache=False) as reel:
            made.append(np.stack(list(reel.generate(PROMPTS[1], seed=4, steps=2))).astype(float))
    expected = 10 * np.log10(255**2 / np.square(made[0] - made[1]).mean())
    assert comparison.clips[-1].psnr_db == pytest.approx(expected)
    assert 10 < comparison.psnr_db < 60
    assert comparison.within_budget is False
    drift = comparison.drift()
    assert len(drift) == 2
    assert 0 < drift[0] < drift[1]
    assert comparison.first.shown is not None
    assert stages[-1] == ("second", 4, 4)
    assert "budget       60 dB missed" in summary(comparison)
    page = tmp_path / "report.html"
    write_report(comparison, page)
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 1
    worst = min(comparison.clips, key=lambda clip: clip.psnr_db)
    assert f"{worst.prompt}, seed {worst.seed}, {worst.psnr_db:.1f} dB: first, second" in text
    assert [comparison.clips[pair.clip] for pair in comparison.pictures] == [worst]
    assert json.loads(json.dumps(comparison.to_json()))["mean"]["psnr_db"] == comparison.psnr_db


def test_prompts_of_the_page_are_text_and_not_markup(tmp_path: Path) -> None:
    comparison = compare_bundles(DEMO_REEL, DEMO_REEL, prompts=PROMPTS[:1], settings=ClipSettings(steps=1))
    clip = comparison.clips[0]
    object.__setattr__(clip, "prompt", "<script>alert(1)</script>")
    write_report(comparison, tmp_path / "x.html")
    assert "<script>" not in (tmp_path / "x.html").read_text()
    with pytest.raises(OutputError, match="cannot write"):
        write_report(comparison, tmp_path / "nowhere" / "x.html")


def test_what_cannot_be_compared(random_reel: Path) -> None:
    with pytest.raises(UsageError, match="different latents: they are not the same model"):
        compare_bundles(DEMO_REEL, random_reel, prompts=PROMPTS)
    with pytest.raises(UsageError, match="give --prompts FILE"):
        compare_bundles(random_reel, random_reel)
    with pytest.raises(UsageError, match="nothing to compare"):
        compare_bundles(DEMO_REEL, DEMO_REEL, prompts=[])


def test_a_missed_budget_is_an_exit_code(run, damaged: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPTS[0])
    common = ["compare", DEMO_REEL, damaged, "--prompts", prompts, "--steps", 1, "--json"]
    code, out, _ = run(*common, "--budget-db", 60)
    assert code == 1
    assert json.loads(out)["within_budget"] is False
    refused = run(*common, "--report", "page.pdf")
    assert (refused[0], "end its name in .html" in refused[2]) == (2, True)
    code, out, _ = run(*common, "--budget-db", 5)
    assert code == 0
    assert json.loads(out)["within_budget"] is True
