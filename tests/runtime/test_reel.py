"""A reel on the fake engine: what is asked of which graph, in which order, and how it can be stopped."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.noted_graphs import PROMPT, Graphs
from helpers.small_bundle import CHANNELS, MAX_TOKENS, replace_file, write_small_bundle

import edgereel
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import BundleError, Cancelled, EngineError, PromptError, UsageError
from edgereel.engines.fake import FakeEngine
from edgereel.engines.options import EngineOptions
from edgereel.runtime.denoise import pick_expert
from edgereel.runtime.reel import Reel
from edgereel.runtime.sampling.noise import NoiseSource

pytestmark = pytest.mark.lean

STAGES = [("text", 2), ("denoise", 3), ("decode", 9)]


@pytest.fixture
def graphs():
    return Graphs()


@pytest.fixture
def opened(tmp_path, graphs):
    """Return a reel on the fake engine; change: edits the bundle's manifest; others: other graphs."""

    def make(change=lambda data: None, **others):
        bundle = open_bundle(write_small_bundle(tmp_path / "small.reel", change))
        names = ("text_encoder", "denoiser", "denoiser_2", "decoder_first", "decoder_next")
        engine = FakeEngine({**{name: getattr(graphs, name) for name in names}, **others})
        return Reel(bundle, engine, EngineOptions())

    return make


def test_defaults_are_those_of_the_first_recipe(opened, graphs):
    with opened() as reel:
        video = reel.generate(PROMPT)
        frames = list(video)
    assert len(video) == len(frames) == 9
    assert {frame.shape for frame in frames} == {(16, 32, 3)}
    assert video.latents.shape == (1, CHANNELS, 3, 2, 4)
    assert video.latents.dtype == np.float32
    assert graphs.named("text_encoder") == [("text_encoder", "a red ball </s>"), ("text_encoder", "</s>")]
    assert len(graphs.named("denoiser")) == 3 * 2
    assert (video.request.recipe, video.request.seed) == ("best", 0)


def test_guidance_goes_away_from_the_negative_prompt(opened, graphs):
    """One Euler step from noise n with velocity v is n - v; embeddings are 4 and 2 tokens: v = 2 + 3·(4 - 2)."""
    noise = NoiseSource(5).draw((1, CHANNELS, 3, 2, 4))
    with opened() as reel:
        video = reel.generate(
            PROMPT, negative_prompt="green", guidance=3.0, sampler="euler", steps=1, seed=5, size=(32, 16), frames=9
        )
    np.testing.assert_allclose(video.latents, noise - 8, rtol=1e-6)
    assert [call[2] for call in graphs.named("denoiser")] == [4, 2]
    assert graphs.named("text_encoder")[1] == ("text_encoder", "green </s>")


@pytest.mark.parametrize("guidance", [0, 0.5, 1])
def test_without_guidance_the_denoiser_runs_once_a_step(opened, graphs, guidance):
    with opened() as reel:
        reel.generate(PROMPT, guidance=guidance, steps=4)
    assert len(graphs.named("denoiser")) == 4
    assert len(graphs.named("text_encoder")) == 1


def test_own_latents_take_the_place_of_the_seed(opened):
    latents = np.ones((1, CHANNELS, 1, 2, 2), np.float32)
    kept = latents.copy()
    with opened() as reel:
        video = reel.generate(PROMPT, latents=latents, sampler="euler", steps=1, guidance=1)
    np.testing.assert_allclose(video.latents, 1 - 4, rtol=1e-6)
    np.testing.assert_array_equal(latents, kept)
    assert video.settings()["own_latents"] is True
    assert (video.request.width, video.request.height, len(video)) == (16, 16, 1)


@pytest.fixture
def two_experts(opened, tmp_path):
    """Return a reel whose noise levels two denoisers share at sigma 0.8; recipe: keys of it; more: of the second."""

    def make(recipe=None, **more):
        def split(data):
            folder = tmp_path / "small.reel"
            (folder / "denoiser_2.onnx").write_bytes((folder / "denoiser.onnx").read_bytes())
            one = data["roles"]["denoiser"][0]
            other = {**one, "file": "denoiser_2.onnx", "sigma_high": 0.8, **more}
            data["roles"]["denoiser"] = [{**one, "sigma_low": 0.8}, other]
            data["files"]["denoiser_2.onnx"] = data["files"]["denoiser.onnx"]
            data["recipes"][0].update(recipe or {})

        return opened(split)

    return make


def test_two_experts_share_the_noise_levels(two_experts, graphs):
    with two_experts() as reel:
        reel.generate(PROMPT, sampler="euler", steps=8)
        assert set(reel.report()) == {"text_encoder", "denoiser", "denoiser_2"}
    above, below = graphs.named("denoiser"), graphs.named("denoiser_2")
    assert len(above) + len(below) == 16
    assert min(call[1] for call in above) >= 800 > max(call[1] for call in below)


def test_an_expert_may_have_a_guidance_of_its_own(two_experts, graphs):
    with two_experts(guidance=1.0) as reel:
        reel.generate(PROMPT, sampler="euler", steps=8)
        assert {call[2] for call in graphs.named("denoiser")} == {4, 1}
        assert {call[2] for call in graphs.named("denoiser_2")} == {4}
        graphs.calls.clear()
        reel.generate(PROMPT, sampler="euler", steps=8, guidance=3)
        assert {call[2] for call in graphs.named("denoiser_2")} == {4, 1}


def test_a_recipes_guidance_by_denoiser_goes_before_all_but_what_is_asked_for(two_experts, graphs):
    with two_experts({"expert_guidance": [1.0, 3.0]}, guidance=1.0) as reel:
        video = reel.generate(PROMPT, sampler="euler", steps=8)
        assert video.request.guidances == (1, 3)
        assert {call[2] for call in graphs.named("denoiser")} == {4}
        assert {call[2] for call in graphs.named("denoiser_2")} == {4, 1}
        assert reel.generate(PROMPT, guidance=2).request.guidances == (2, 2)


@pytest.mark.parametrize(("boundary", "above", "below"), [(0.7, 3, 1), (0.9375, 2, 2), (0.94, 1, 3)])
def test_a_recipe_may_move_the_boundary_between_experts(two_experts, graphs, boundary, above, below):
    recipe = {"sampler": "sde", "steps": 4, "warp": [1000, 750, 500, 250], "shift": 5.0, "guidance": 1.0}
    with two_experts({**recipe, "boundary": boundary}) as reel:
        reel.generate(PROMPT)
    assert (len(graphs.named("denoiser")), len(graphs.named("denoiser_2"))) == (above, below)


def test_experts_change_at_the_timestep_as_diffusers_has_it(two_experts):
    """Timesteps are float32: 0.9 is not one, 900 is; UniPC cuts them down, so that 875.9 counts as 875."""
    with two_experts() as reel:
        one, other = reel.bundle.manifest.roles.denoiser
        one.sigma_low = other.sigma_high = 0.9
        assert pick_expert([one, other], float(np.float32(0.9) * np.float32(1000))) == 0
        assert pick_expert([one, other], 899.0) == 1
        assert pick_expert([other, one], 950.0) == pick_expert([other, one], 950.0, 1000, 0.93) == 1
        assert pick_expert([other, one], 875.0, 1000, 0.8755) == 0


SDE = {"name": "few", "sampler": "sde", "steps": 3, "timesteps": [1000.0, 750.0, 500.0], "guidance": 1.0}


def test_noise_is_the_initial_latents_first_and_each_renoising_step_in_turn(opened):
    """The model's velocity is 4 everywhere, the number of tokens; so x0 = x - 4·sigma."""
    shape = (1, CHANNELS, 3, 2, 4)
    noise = NoiseSource(5)
    start = noise.draw(shape)
    x = start
    for sigma, lower in ((1, 0.75), (0.75, 0.5)):
        x = (1 - lower) * (x - 4 * sigma) + lower * noise.draw(shape)
    with opened(lambda data: data.update(recipes=[SDE])) as reel:
        from_seed = reel.generate(PROMPT, seed=5).latents
        np.testing.assert_allclose(from_seed, x - 4 * 0.5, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(reel.generate(PROMPT, seed=5).latents, from_seed)
        np.testing.assert_array_equal(reel.generate(PROMPT, seed=5, latents=start).latents, from_seed)
        assert not np.allclose(reel.generate(PROMPT, seed=6, latents=start).latents, from_seed)


def test_a_guidance_asked_for_turns_every_expert_off(two_experts, graphs):
    with two_experts(guidance=5.0) as reel:
        reel.generate(PROMPT, guidance=1)
    assert len(graphs.named("text_encoder")) == 1


def test_a_noise_level_that_nobody_is_responsible_for(opened):
    reel = opened(lambda data: data["roles"]["denoiser"][0].update(sigma_low=0.9))
    with reel, pytest.raises(BundleError, match="no denoiser of this bundle is responsible for sigma"):
        reel.generate(PROMPT)
    experts = reel.bundle.manifest.roles.denoiser
    assert pick_expert(experts, 1000.0) == pick_expert(experts, 900.0) == 0


@pytest.mark.parametrize(("stage", "total"), STAGES)
def test_cancelling_at_every_point_of_every_stage(opened, tmp_path, stage, total):
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"an earlier clip")
    with opened() as reel:
        for at in range(total + 1):

            def stop(now, done, of, at=at):
                assert of == dict(STAGES)[now]
                return (now, done) != (stage, at)

            with pytest.raises(Cancelled, match=f"cancelled during {stage}"):
                reel.generate(PROMPT, on_progress=stop).save(target, on_progress=stop)
            assert target.read_bytes() == b"an earlier clip"
            assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "small.reel"]


def test_progress_tells_of_every_unit_of_every_stage(opened, tmp_path):
    calls = []
    with opened() as reel:
        video = reel.generate(PROMPT, on_progress=lambda *call: calls.append(call))
        video.save(tmp_path / "clip.mp4", on_progress=lambda *call: calls.append(call))
        assert set(reel.timings) == {"open", "text", "denoise", "decode", "encode"}
        assert all(seconds >= 0 for seconds in reel.timings.values())
    assert calls == [(stage, done, total) for stage, total in STAGES for done in range(total + 1)]


def test_a_closed_reel(opened, tmp_path):
    with opened() as reel:
        video = reel.generate(PROMPT)
    for use in (lambda: reel.generate(PROMPT), lambda: list(video), lambda: video.save(tmp_path / "clip.mp4")):
        with pytest.raises(EngineError, match="this reel is closed"):
            use()
    assert [path.name for path in tmp_path.iterdir()] == ["small.reel"]


def test_a_video_can_be_decoded_again_and_again(opened, tmp_path):
    with opened() as reel:
        video = reel.generate(PROMPT)
        assert len(list(video)) == len(list(video)) == 9
        assert video.save(str(tmp_path / "clip.mp4")) == tmp_path / "clip.mp4"


def test_nothing_is_opened_before_input_is_checked(opened, graphs):
    with opened() as reel:
        for prompt, asked, error in [
            ("", {}, PromptError),
            ("a " * MAX_TOKENS, {}, PromptError),
            ("a zebra", {}, PromptError),
            (PROMPT, {"negative_prompt": "zebra"}, PromptError),
            (PROMPT, {"seed": -1}, UsageError),
            (PROMPT, {"size": (17, 16)}, UsageError),
            (PROMPT, {"frames": 2}, UsageError),
            ("", {"size": (64, 64), "frames": 29}, PromptError),
        ]:
            with pytest.raises(error):
                reel.generate(prompt, **asked)
        assert reel.report() == {}
    assert graphs.calls == []


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("text_encoder", {}, "text_encoder has no output prompt_embeds"),
        ("denoiser", {}, "denoiser has no output prediction"),
        ("denoiser", {"prediction": np.zeros((1, 1), np.float32)}, r"prediction of shape \[1, 1\] for latents"),
        ("denoiser", {"prediction": np.full((1, 2, 3, 2, 4), np.nan, np.float32)}, "values that are not numbers"),
        ("decoder_next", {}, "latent frame 2 gave no frames"),
    ],
)
def test_graphs_that_are_not_what_the_manifest_says(opened, name, answer, message):
    with opened(**{name: lambda inputs: answer}) as reel, pytest.raises(EngineError, match=message):
        list(reel.generate(PROMPT))


def test_a_graph_that_the_engine_does_not_have(opened):
    reel = opened()
    reel._engine.graphs = {}
    with reel, pytest.raises(EngineError, match="no graph text_encoder"):
        reel.generate(PROMPT)


def test_settings_say_what_ran(opened):
    with opened() as reel:
        video = reel.generate(PROMPT, negative_prompt="green")
        settings = video.settings()
        private = video.settings(private=True)
    assert settings["ai_generated"] is True
    assert settings["edgereel"] == edgereel.__version__
    assert settings["bundle_digest"] == reel.bundle.manifest.digest
    assert settings["ran"]["provider"] == ["python"]
    assert (settings["prompt"], settings["negative_prompt"]) == (PROMPT, "green")
    assert private == {key: value for key, value in settings.items() if key not in ("prompt", "negative_prompt")}


def test_loading(tmp_path):
    reel = write_small_bundle(tmp_path / "small.reel")
    with pytest.raises(UsageError, match="unknown engine 'quantum': choose from auto, cpu"):
        edgereel.load(reel, engine="quantum")
    for threads in (0, -2):
        with pytest.raises(UsageError, match=f"{threads} threads are not possible"):
            edgereel.load(reel, threads=threads)
    with pytest.raises(Cancelled):
        edgereel.load(reel, on_progress=lambda *_: False)
    with edgereel.load(str(reel)) as opened:
        assert opened.timings.keys() == {"open"}


def test_a_tokenizer_that_is_none(tmp_path):
    reel = write_small_bundle(tmp_path / "small.reel")
    replace_file(reel, "tokenizer.json", b"{}")
    with edgereel.load(reel) as opened:
        for use in (opened.check_prompt, opened.generate):
            with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read as a tokenizer"):
                use(PROMPT)
        assert opened.report() == {}
