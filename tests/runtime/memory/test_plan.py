"""Memory plans: what is kept open, swapped, streamed, tiled; what is refused; budgets and what people write of them."""

from __future__ import annotations

import contextlib
import json

import pytest
from conftest import DEMO_REEL
from hypothesis import given
from hypothesis import strategies as st

from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import PlanError, UsageError
from edgereel.core.machine import Gpu, free_host_memory
from edgereel.core.units import format_bytes, parse_bytes
from edgereel.engines import ENGINES, EngineOptions, nvidia
from edgereel.engines.costs import graph_costs
from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu
from edgereel.runtime.decoding.tiling import plan_tiles
from edgereel.runtime.memory.budget import Budget, budget_of
from edgereel.runtime.memory.fit import check_fit, nearest_that_fit, plan_bundle, plan_clip
from edgereel.runtime.memory.plan import (
    OVERHEAD,
    MemoryPlan,
    describe_plan,
    describe_step,
    plan_memory,
    step_down,
    tile_sizes,
)
from edgereel.runtime.memory.shapes import input_shapes
from edgereel.runtime.memory.sizes import GPU_ACTIVATION_MARGIN, ClipSizes, ComponentSizes, clip_sizes

pytestmark = pytest.mark.lean

GIB = 2**30
CPU = OnnxRuntimeCpu()
NAMES = ("text_encoder", "denoiser", "decoder")


def sizes(text: int = 4000, denoiser: int = 3000, decoder: int = 600, activations: int = 500) -> ClipSizes:
    """Sizes in MiB: a large text encoder, a denoiser, and a decoder whose activations go with the area of the tile."""
    mib = 2**20
    height, width = 60, 104

    def decoder_of(tile_height: int, tile_width: int) -> ComponentSizes:
        area = tile_height * tile_width / (height * width)
        return ComponentSizes(decoder * mib, 50 * mib, int(4 * activations * mib * area))

    components = {
        "text_encoder": ComponentSizes(text * mib, 400 * mib, 100 * mib),
        "denoiser": ComponentSizes(denoiser * mib, 60 * mib, activations * mib),
        "decoder": decoder_of(height, width),
    }
    return ClipSizes((1, 16, 21, height, width), components, decoder_of)


def plan(gib: float, device: str = "gpu", **more: int) -> MemoryPlan:
    return plan_memory(sizes(**more), Budget(int(gib * GIB), "as asked for"), device)  # type: ignore[arg-type]


def placements(found: MemoryPlan) -> list[str]:
    return [found.components[name].placement for name in NAMES]


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (16, ["resident", "resident", "resident"]),
        (10.5, ["swapped", "resident", "swapped"]),
        (8.1, ["swapped", "resident", "swapped"]),
        (7, ["swapped", "swapped", "swapped"]),
        (4.5, ["streamed", "swapped", "swapped"]),
        (3.5, ["streamed", "streamed", "swapped"]),
    ],
)
def test_less_and_less_is_kept_open(gib, expected):
    found = plan(gib)
    assert found.fits
    assert placements(found) == expected
    assert found.peak <= gib * GIB


def test_the_decoder_is_tiled_where_its_activations_do_not_fit():
    found = plan(2.5)
    assert found.fits
    assert found.tile is not None
    assert found.tile.height * found.tile.width < 60 * 104


def test_a_component_that_cannot_be_streamed_runs_on_the_processor_beside_a_gpu():
    assert plan(1.0, text=4000).components["text_encoder"].placement == "cpu"
    on_cpu = plan(0.5, device="cpu")
    assert not on_cpu.fits
    assert "cpu" not in placements(on_cpu)


@given(
    gib=st.floats(0.3, 20),
    text=st.integers(1, 9000),
    denoiser=st.integers(1, 9000),
    activations=st.integers(1, 3000),
    device=st.sampled_from(["cpu", "gpu"]),
)
def test_what_fits_stays_within_the_budget_and_more_memory_never_fits_less(gib, text, denoiser, activations, device):
    given = {"text": text, "denoiser": denoiser, "activations": activations}
    found = plan(gib, device, **given)
    assert found.fits == (max(found.phases.values()) <= found.budget.bytes)
    if found.fits:
        assert plan(gib * 1.5, device, **given).fits
    resident = [name for name in NAMES if found.components[name].placement == "resident"]
    assert found.peak >= OVERHEAD[device] + sum(found.sizes_of(name).weights for name in resident)  # type: ignore[index]


@given(gib=st.floats(1, 20), device=st.sampled_from(["cpu", "gpu"]), name=st.sampled_from(NAMES))
def test_every_step_down_needs_less_and_there_is_a_last_one(gib, device, name):
    found = plan(gib, device)
    for _ in range(60):
        lower = step_down(found, name)
        if lower is None:
            return
        less_open = placements(lower) != placements(found)
        assert less_open or lower.phases[name] < found.phases[name]
        assert "out of memory in " in describe_step(found, lower, name)
        found = lower
    raise AssertionError("the ladder has no end")


def test_the_ladder_of_each_component():
    found = plan(16, text=4000)
    steps = []
    while (lower := step_down(found, "denoiser")) is not None:
        steps.append(lower.components["denoiser"])
        found = lower
    kinds = [step.placement for step in steps]
    assert kinds[0] == "swapped"
    assert kinds[-1] == "cpu"
    assert set(kinds[1:-1]) == {"streamed"}
    budgets = [step.weight_budget for step in steps[1:-1]]
    assert budgets == sorted(budgets, reverse=True)  # type: ignore[type-var]
    assert budgets[-1] == found.sizes.components["denoiser"].largest_weight


@given(height=st.integers(1, 200), width=st.integers(1, 200))
def test_tiles_become_smaller(height, width):
    tiles = list(tile_sizes(height, width))
    areas = [tile.height * tile.width for tile in tiles]
    assert areas == sorted(set(areas), reverse=True)
    for tile in tiles:
        assert tile.height * tile.width < height * width
        parts = plan_tiles(height, width, tile)
        assert {(part.height, part.width) for part in parts} == {(tile.height, tile.width)}


def test_the_demo_is_planned_from_its_graphs():
    """Sizes come from the graphs: weights as float32, the text encoder's float activations, a decoder that grows with area."""
    bundle = open_bundle(DEMO_REEL)
    small, large = (clip_sizes(bundle, side, side, 17, CPU, EngineOptions()) for side in (64, 256))
    assert not small.unknown
    assert small.components["denoiser"].weights > 1.9 * bundle.manifest.files["denoiser.data"].size
    assert large.components["decoder"].activations > 10 * small.components["decoder"].activations
    assert small.components["text_encoder"] == large.components["text_encoder"]
    halves = clip_sizes(bundle, 64, 64, 17, ENGINES["cuda"](), EngineOptions())
    assert halves.components["denoiser"].weights < 0.6 * small.components["denoiser"].weights


def test_what_does_not_fit_is_refused_with_what_would(words_reel):
    bundle = open_bundle(words_reel)
    size = (512, 512, 65)
    budget = Budget(OVERHEAD["cpu"] + 120 * 2**20, "as asked for")

    def plan_of(candidate):
        return plan_memory(clip_sizes(bundle, *candidate, CPU, EngineOptions()), budget)

    found = plan_of(size)
    assert not found.fits
    shorter, smaller = nearest_that_fit(size, lambda candidate: plan_of(candidate).fits, bundle.manifest.latent)
    assert shorter[:2] == (512, 512)
    assert shorter[2] < 65
    assert smaller[2] == 65
    assert plan_of(shorter).fits
    assert plan_of(smaller).fits
    assert not plan_of((512, 512, shorter[2] + 4)).fits
    with pytest.raises(
        PlanError, match=rf"512x512 with 65 frames does not fit .* 512x512 with {shorter[2]} frames or "
    ):
        check_fit(size, found, plan_of, bundle.manifest.latent)


def test_nothing_fits_at_all():
    with pytest.raises(PlanError, match="no smaller or shorter clip fits"):
        plan_bundle(DEMO_REEL, memory="10MiB")


def test_on_a_gpu_too_the_first_graphs_memory_stays_beside_the_others():
    """An arena gives nothing back: decoder_first's stays while decoder_next runs."""
    bundle = open_bundle(DEMO_REEL)
    engine = ENGINES["cuda"]()
    found = clip_sizes(bundle, 64, 64, 9, engine, EngineOptions())
    each = []
    for name in ("decoder_first", "decoder_next"):
        model = engine.graph_to_run(bundle.path(bundle.manifest.roles.graphs()[name].file), EngineOptions())
        shapes = input_shapes(bundle.manifest, name, found.latents)
        each.append(int(graph_costs(model, shapes, "float16").activation_bytes * GPU_ACTIVATION_MARGIN))
    assert min(each) > 0
    assert found.components["decoder"].activations == sum(each)


def test_weights_are_not_left_with_the_host_where_its_memory_is_the_gpus():
    budget = Budget(3 * GIB, "as asked for")
    assert plan_memory(sizes(), budget, "gpu").components["text_encoder"].placement == "streamed"
    found = plan_memory(sizes(), budget, "gpu", streams=False)
    assert found.components["text_encoder"].placement == "cpu"
    assert found.fits


@pytest.mark.parametrize(("memory", "streams"), [(None, False), (8 * GIB, True)])
def test_a_gpu_that_tells_no_memory_of_its_own_shares_the_machines(monkeypatch, memory, streams):
    monkeypatch.setattr(nvidia, "nvidia_gpus", lambda: ((Gpu("Orin", memory, "8.7", "540"),), ""))
    bundle, budget = open_bundle(DEMO_REEL), Budget(GIB, "as asked for")
    for name in ("tensorrt", "rtx", "cuda"):
        plan = plan_clip(bundle, (64, 64, 9), ENGINES[name](), EngineOptions(), budget, only_decoder=True)
        assert plan.streams == (streams or name == "cuda"), name


def test_a_card_that_is_only_described():
    found = plan_bundle(DEMO_REEL, memory="8GiB", compute_capability="8.9")
    assert (found.device, found.budget.bytes, found.fits) == ("gpu", 8 * GIB, True)
    with pytest.raises(UsageError, match="say how much with --memory"):
        plan_bundle(DEMO_REEL, compute_capability="8.9")
    for text in ("Ada", "8", "8.9.1", "", "８.９"):
        with pytest.raises(UsageError, match="as NVIDIA does"):
            plan_bundle(DEMO_REEL, memory="8GiB", compute_capability=text)


def test_a_plan_as_data_and_in_words():
    found = plan(7)
    data = json.loads(json.dumps(found.to_json()))
    assert data["components"]["text_encoder"]["placement"] == "swapped"
    assert data["peak"] == found.peak
    text = "\n".join(describe_plan(found))
    assert "of 7.00 GiB (as asked for)" in text
    assert "text_encoder swapped" in text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("6GiB", 6 * GIB),
        ("6 gib", 6 * GIB),
        ("512MiB", 512 * 2**20),
        ("8GB", 8 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("6442450944", 6 * GIB),
        ("1048576", 2**20),
        ("4096 B", 4096),
    ],
)
def test_amounts_of_memory(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "hint"), [("6", "6GiB"), (" 1.5", "1.5GiB"), ("8192", "8192MiB"), ("1048575", "1048575MiB")]
)
def test_a_bare_number_that_was_not_meant_as_bytes(text, hint):
    with pytest.raises(UsageError, match=rf"^--memory {text.strip()}: bytes\? write {hint}$"):
        parse_bytes(text)


@given(st.text(max_size=12))
def test_other_text_is_refused_or_a_number_of_bytes(text):
    with contextlib.suppress(UsageError):
        assert 0 < parse_bytes(text) <= 2**50


@pytest.mark.parametrize("text", ["", "6 cats", "-1GiB", "0", "1e9", "999999999GiB", "６GiB", "nan"])
def test_no_amounts_of_memory(text):
    with pytest.raises(UsageError, match="is no amount of memory"):
        parse_bytes(text)


def test_the_default_is_what_is_free_less_a_margin(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n")
    assert free_host_memory(tmp_path) == 8000000 * 1024
    found = budget_of(None, "cpu", tmp_path)
    assert found.bytes == 8000000 * 1024 - int(8000000 * 1024 * 0.1)
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("123\n")
    assert free_host_memory(tmp_path) == 8000000 * 1024
    (group / "memory.max").write_text(f"{4 * GIB}\n")
    (group / "memory.current").write_text(f"{3 * GIB}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\nactive_file 0\n")
    assert free_host_memory(tmp_path) == 2 * GIB


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5 B"), (2048, "2 KiB"), (3 * 2**20, "3 MiB"), (GIB * 3 // 2, "1.50 GiB")]
)
def test_bytes_for_people(count, text):
    assert format_bytes(count) == text
