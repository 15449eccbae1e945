"""The `cuda` engine on the real CUDA provider of onnxruntime-gpu, whose card is a stand-in that computes nothing.

What is counted is what the provider really asks of a card: kernels, products, convolution engines, allocations, copies.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import DEMO_REEL

pytestmark = pytest.mark.stand_ins

GIB = 2**30


@pytest.fixture(scope="module")
def clip(started):
    """A clip of the built-in model by the command line, in 4 steps: all black, since nothing is computed."""
    return started("-m", "edgereel", "generate", "a red ball bounces over the ocean", "--engine", "cuda", "-o", "x.mp4")


def test_the_command_line_runs_whole_and_says_that_the_clip_shows_nothing(clip):
    assert clip.code == 1
    assert "all 17 frames show a flat colour" in clip.error
    assert "No registered plugin EP device" not in clip.error  # C2
    log = clip.log[""]
    assert log.launches > 1000
    assert log.refused == 0


def test_a_clip_of_few_steps_is_not_recorded(clip):  # A3
    assert clip.log[""].captures == clip.log[""].replays == 0


def test_pictures_leave_the_card_as_bytes(clip):  # B1
    log = clip.log[""]
    # 17 pictures of 64x64, the mean of each of the 5 calls, and the latents that are kept.
    latents = 24 * 5 * 4 * 4 * 4
    assert 17 * 64 * 64 * 3 <= log.copied["DtoH"] <= 17 * 64 * 64 * 3 + 5 * 4 + 8 * latents


def test_attention_is_flash_in_both_forms(clip):
    log = clip.log[""]
    assert log.kernels_like("flash_fwd|fmha") >= 4 * 12  # steps by blocks, self and cross


def test_float16_convolutions_have_tensor_cores(clip):  # A2
    assert set(clip.log[""].convolutions) == {"tensor cores"}


@pytest.mark.parametrize(("compute", "engine"), [("float32", "no tensor cores"), ("float16", "tensor cores")])
def test_float32_keeps_its_bits(started, tmp_path, compute, engine):  # A2
    program = tmp_path / "run.py"
    program.write_text(
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from edgereel.engines import ENGINES, EngineOptions, Tensor\n"
        "from edgereel.tools.gpu_checks.graphs import write_convolutions\n"
        f"path = write_convolutions(Path({str(tmp_path)!r}), channels=16)\n"
        f"options = EngineOptions(compute={compute!r}, keep=False, shapes=(('x', (1, 16, 2, 8, 8)),))\n"
        "with ENGINES['cuda']().open(path, options) as session:\n"
        "    session.run({'x': Tensor.from_numpy(np.zeros((1, 16, 2, 8, 8), np.float32))})['y'].numpy()\n"
    )
    ended = started(program)
    assert ended.code == 0, ended.error
    assert ended.log[""].convolutions == {engine: 4}


def test_tensors_that_outlive_a_session_take_what_they_are(started, tmp_path):  # B7
    program = tmp_path / "run.py"
    program.write_text(
        "import numpy as np, onnxruntime\n"
        "from edgereel.engines.onnxruntime.cuda import _allocate_what_is_asked_for\n"
        "onnxruntime.set_default_logger_severity(3)\n"
        "_allocate_what_is_asked_for(onnxruntime)\n"
        "new = onnxruntime.OrtValue.ortvalue_from_shape_and_type\n"
        "held = [new([size * 2**18], np.float32, 'cuda', 0) for size in (640, 400)]\n"
    )
    ended = started(program)
    assert (ended.code, ended.error) == (0, "")
    assert ended.log[""].held == 1040 * 2**20  # 2048 where the arena doubles


@pytest.fixture(scope="module")
def checked(started, tmp_path_factory):
    """A whole run of the check of a card, and its folder."""
    out = tmp_path_factory.mktemp("check") / "out"
    return started("-m", "edgereel.tools.gpu_check", out, "--engine", "cuda", "--tokens", 512, "--minutes", 60), out


def test_attention_is_flash_in_half_precision(checked, version):  # B3
    log = checked[0].log
    assert log["block float16"].kernels_like("flash_fwd") == 2
    # Before 1.31 bfloat16 gets MultiHeadAttention, of which only float16 is flash.
    assert log["block bfloat16"].kernels_like("flash_fwd") == (2 if version == "1.31.1" else 0)
    assert log["block float32"].kernels_like("flash_fwd") == 0


def test_what_is_counted_is_what_is_allocated_and_what_is_planned_is_enough(wan):  # A1
    ended, planned = wan
    decoder, denoiser = (ended.log[mark].peak for mark in ("latent frame 3", "step 3"))
    print(json.dumps({"decoder": decoder, "denoiser": denoiser, "planned": planned}))
    # The count is of one run; the arena adds a block when the second frame's state goes where the first's was. cuDNN's
    # workspace, which a stand-in does not ask for, is what the plan's margin is for.
    assert decoder == pytest.approx(planned["decoder"]["counted"], rel=0.15)
    assert decoder == pytest.approx(planned["decoder"]["planned"], rel=0.15)
    assert decoder < planned["decoder"]["planned"]
    assert denoiser == pytest.approx(planned["denoiser"]["planned"], rel=0.1)
    # Nothing more is held from one step to the next, or from one latent frame.
    assert ended.log["step 3"].peak == ended.log["step 1"].peak
    assert ended.log["latent frame 5"].peak == decoder


def test_each_step_is_the_same_kernels_and_no_copies(wan):  # A3
    ended, _ = wan
    steps = [ended.log[f"step {index}"] for index in range(4)]
    assert len({each.launches for each in steps[1:]}) == 1
    assert steps[1].launches <= 122  # 154 before norms took their modulation in
    assert all(each.captures == each.replays == 0 for each in steps)
    assert all(each.kernels_like("flash_fwd") == 4 for each in steps)  # two blocks, self and cross
    # The prediction comes back, and in 1.26 the timestep goes to the processor for its sines.
    prediction = 16 * 21 * 60 * 104 * 4
    assert all(prediction <= each.copied["DtoH"] <= prediction + 1024 for each in steps)
    print(json.dumps({"kernels a step, 2 blocks": steps[1].launches, "gemms": len(steps[1].gemms)}))


def test_a_decoders_products_are_on_tensor_cores_and_its_state_is_float16(wan):  # A2, B4
    ended, _ = wan
    log = ended.log["latent frame 2"]
    assert set(log.convolutions) == {"tensor cores"}
    assert log.copied["DtoH"] <= 4 * 832 * 480 * 3 + 1024
    assert {each.factors for each in log.gemms} <= {"float16"}


def test_int8_is_widened_before_each_product(started, tmp_path):  # A5: why `auto` and `doctor` say so
    reel = tmp_path / "int8.reel"
    from edgereel.calibration import quantize

    quantize(DEMO_REEL, reel, precision="int8", compare=False)
    ended = started(
        *("-m", "edgereel", "generate", "a red ball bounces over the ocean", "--bundle", reel),
        *("--engine", "cuda", "-o", "x.mp4"),
    )
    log = ended.log[""]
    assert log.kernels_like("[Dd]equantize") > 0
    assert "int8" not in {each.factors for each in log.gemms}


def test_a_card_that_is_too_small_steps_down(started, tmp_path):  # A1, G2
    ended = started(
        *("-m", "edgereel", "generate", "a red ball bounces over the ocean", "--engine", "cuda", "-o", "x.mp4"),
        memory=20 * 2**20,
    )
    assert ended.code == 1
    assert "Traceback" not in ended.error


def test_the_check_of_a_card_runs_whole_and_says_what_is_wrong_first(checked):
    ended, out = checked
    lines = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
    assert ended.code == 1
    assert [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()] == lines
    tests = [line["test"] for line in lines]
    assert tests.index("block float16") < tests.index("speed float16")
    assert tests[-2:] == ["wrong", "slow"]
    # Nothing is computed here, so that all of arithmetic is wrong, and none of it is an error of the check's own.
    by_test = {line["test"]: line for line in lines}
    assert all(by_test[f"block {compute}"]["wrong"] for compute in ("float32", "float16", "bfloat16"))
    assert not [
        line for line in lines if line.get("error", "").split(":")[0] in ("TypeError", "KeyError", "ValueError")
    ]
    assert Path(out / "results.jsonl").stat().st_size > 1000
