"""Prompts through the cache: when the text encoder runs, when not, and that nobody can tell from the result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_REEL
from helpers.noted_graphs import PROMPT, Graphs
from helpers.small_bundle import MAX_TOKENS, write_small_bundle
from hypothesis import given
from hypothesis import strategies as st

import edgereel
from edgereel.bundle.reader import Bundle, open_bundle
from edgereel.core.errors import EngineError, PromptError
from edgereel.engines import EngineOptions, EngineReport, get_engine
from edgereel.engines.fake import FakeEngine, FakeSession
from edgereel.runtime.reel import Reel
from edgereel.runtime.text.embedder import NEGATIVE, Prompt, PromptEmbedder
from edgereel.runtime.text.embedding_cache import EmbeddingCache

pytestmark = pytest.mark.lean

NAMES = ("text_encoder", "denoiser", "decoder_first", "decoder_next")


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache")


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_small_bundle(tmp_path / "small.reel"))


@pytest.fixture
def graphs():
    return Graphs()


@pytest.fixture
def opened(bundle, graphs, cache):
    """Return a reel on the fake engine with a cache; others: other graphs, None for one that must not be opened."""

    def make(**others):
        functions = {**{name: getattr(graphs, name) for name in NAMES}, **others}
        engine = FakeEngine({name: function for name, function in functions.items() if function is not None})
        return Reel(bundle, engine, EngineOptions(), cache)

    return make


def test_a_prompt_seen_before_skips_tokenizer_and_text_encoder(opened, bundle, graphs):
    with opened() as reel:
        first = reel.generate(PROMPT)
        assert (reel.embedder.cached, len(graphs.named("text_encoder"))) == (0, 2)
    bundle.path("tokenizer.json").unlink()
    with opened(text_encoder=None) as reel:
        reel.check_prompt(PROMPT)
        again = reel.generate(PROMPT)
        assert reel.embedder.cached == 2
        assert set(reel.report()) == {"denoiser"}
    assert again.latents.tobytes() == first.latents.tobytes()
    assert again.settings() == first.settings()


def test_within_one_reel_too(opened, graphs):
    with opened() as reel:
        for _ in range(3):
            reel.generate(PROMPT)
    assert len(graphs.named("text_encoder")) == 2


def test_another_prompt_is_embedded_and_the_negative_one_taken_from_the_cache(opened, graphs):
    calls = []
    with opened() as reel:
        reel.generate(PROMPT)
        graphs.calls.clear()
        reel.generate("a green square", on_progress=lambda *call: calls.append(call))
        assert graphs.named("text_encoder") == [("text_encoder", "a green square </s>")]
        assert reel.embedder.cached == 1
        reel.generate("a green square", negative_prompt="red")
        assert graphs.named("text_encoder")[1:] == [("text_encoder", "red </s>")]
    assert [call for call in calls if call[0] == "text"] == [("text", done, 2) for done in range(3)]


@pytest.mark.parametrize("prompt", ["", "  ", 5, None, b"a ball", "a \ud83d ball", "a zebra", ["a"]])
def test_bad_prompts_are_refused_with_a_full_cache_too(opened, graphs, prompt):
    with opened() as reel:
        reel.generate(PROMPT)
        for negative in ("", "  "):
            reel.generate(PROMPT, negative_prompt=negative)
        graphs.calls.clear()
        for use in (reel.check_prompt, reel.generate):
            with pytest.raises(PromptError):
                use(prompt)
        if isinstance(prompt, str) and "z" in prompt:
            with pytest.raises(PromptError, match="the negative prompt has words"):
                reel.generate(PROMPT, negative_prompt=prompt)
    assert graphs.calls == []


def test_a_bad_negative_prompt_is_refused_before_the_prompt_is_embedded(opened, graphs):
    with opened() as reel, pytest.raises(PromptError, match="the negative prompt has words"):
        reel.generate(PROMPT, negative_prompt="zebra")
    assert graphs.calls == []


def test_damaged_entries_are_embedded_again(opened, cache, graphs):
    with opened() as reel:
        first = reel.generate(PROMPT)
        for path in cache.folder.iterdir():
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        graphs.calls.clear()
        assert reel.generate(PROMPT).latents.tobytes() == first.latents.tobytes()
        assert len(graphs.named("text_encoder")) == 2
        reel.generate(PROMPT)
        assert len(graphs.named("text_encoder")) == 2


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(opened, cache, graphs):
    cache.folder.write_text("a file in the place of the folder")
    with opened() as reel:
        assert len(list(reel.generate(PROMPT))) == len(list(reel.generate(PROMPT))) == 9
    assert len(graphs.named("text_encoder")) == 4


@pytest.mark.parametrize("shape", [(1, MAX_TOKENS + 1, 4), (1, 4), (2, MAX_TOKENS, 4)])
def test_embeddings_of_another_shape_are_not_kept(opened, cache, shape):
    with opened(text_encoder=lambda inputs: {"prompt_embeds": np.ones(shape, np.float32)}) as reel:
        reel.generate(PROMPT)
    assert not cache.folder.exists()


def test_a_closed_reel_whose_prompts_are_cached(opened):
    with opened() as reel:
        reel.generate(PROMPT)
    with pytest.raises(EngineError, match="this reel is closed"):
        reel.generate(PROMPT)


def test_what_ran_is_told_alike_where_the_text_encoder_runs_otherwise(opened, monkeypatch):
    """As on a device whose engine runs the text encoder in another precision or on another provider."""
    reports = {"text_encoder": ("other", "float16")}

    def open_graph(engine, path, options):
        session = FakeSession(engine.graphs[path.stem])
        provider, precision = reports.get(path.stem, ("python", "float32"))
        session.report = EngineReport("fake", provider, precision, "0", 1)
        return session

    monkeypatch.setattr(FakeEngine, "open", open_graph)
    described = []
    for text_encoder in ({}, {"text_encoder": None}):
        with opened(**text_encoder) as reel:
            reel.generate(PROMPT)
            described.append(reel.facts())
    assert described[0] == described[1]
    assert described[0]["provider"] == ["other", "python"]
    assert described[0]["precision"] == ["float16", "float32"]


def key_of(bundle, prompt=Prompt(PROMPT), numerics=None):
    embedder = PromptEmbedder(bundle, lambda: numerics or {"engine": "fake"}, None, lambda: None, lambda *_: None)
    return embedder._key(prompt)


CHANGES = {
    "max_tokens": lambda data: data["text"].update(max_tokens=7),
    "pad": lambda data: data["text"].update(pad_token_id=1),
    "unknown": lambda data: data["text"].update(unknown_token_id=3),
    "no unknown": lambda data: data["text"].pop("unknown_token_id"),
    "cleaning": lambda data: data["text"].update(cleaning=["html_unescape"]),
    "order of cleaning": lambda data: data["text"].update(cleaning=["fix_text", "html_unescape"]),
    "other order": lambda data: data["text"].update(cleaning=["html_unescape", "fix_text"]),
    "a rule of a later release": lambda data: data["text"].update(lowercase=True),
    "tokenizer": lambda data: data["files"]["tokenizer.json"].update(sha256="0" * 64),
    "graph": lambda data: data["files"]["text_encoder.onnx"].update(sha256="0" * 64),
    "weights": lambda data: data["files"]["text_encoder.data"].update(sha256="0" * 64),
    "swapped": lambda data: data["roles"]["text_encoder"].update(file="text_encoder.data", data="text_encoder.onnx"),
}


def changed(bundle, change):
    data = bundle.manifest.to_json()
    change(data)
    return Bundle(bundle.folder, type(bundle.manifest).model_validate(data))


def test_the_key_differs_in_every_component(bundle, monkeypatch):
    keys = [key_of(changed(bundle, change)) for change in CHANGES.values()]
    keys += [key_of(bundle), key_of(bundle, Prompt(PROMPT + " ")), key_of(bundle, Prompt(PROMPT, NEGATIVE))]
    keys += [key_of(bundle, numerics=numerics) for numerics in ({"engine": "b"}, {"engine": "fake", "half": "True"})]
    monkeypatch.setattr("edgereel.runtime.text.embedder.__version__", "99")
    keys.append(key_of(bundle))
    assert len(set(keys)) == len(keys)


def test_what_does_not_touch_the_text_encoder_keeps_its_key(bundle):
    """Bundles that share a text encoder share embeddings: a LoRA in the denoiser, say, or another recipe."""

    def other_model(data):
        data.update(name="other", origin="elsewhere")
        data["files"]["denoiser.data"].update(sha256="0" * 64)
        del data["recipes"][0]

    assert key_of(changed(bundle, other_model)) == key_of(bundle)


@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(["prompt", NEGATIVE]))
def test_the_key_is_of_the_prompt_as_given(one, other, name):
    bundle = open_bundle(DEMO_REEL)
    assert (key_of(bundle, Prompt(one, name)) == key_of(bundle, Prompt(other, name))) == (one == other)


def test_numerics_of_engines():
    fake, cpu = FakeEngine({}), get_engine("cpu")
    assert fake.numerics(EngineOptions(threads=1)) != fake.numerics(EngineOptions(threads=2))
    assert cpu.numerics(EngineOptions(threads=1)) == cpu.numerics(EngineOptions(threads=2))
    assert cpu.numerics(EngineOptions(activations="dynamic")) != cpu.numerics(EngineOptions())
    assert cpu.numerics(EngineOptions(lower=False)) != cpu.numerics(EngineOptions())
    assert {"engine", "version"} <= set(cpu.numerics(EngineOptions()))


@dataclasses.dataclass(frozen=True)
class LaterOptions(EngineOptions):
    precision: str = "float32"


def test_an_option_of_a_later_engine_is_part_of_its_numerics():
    engine = FakeEngine({})
    assert engine.numerics(LaterOptions()) != engine.numerics(LaterOptions(precision="float16"))


QUICK = {"steps": 2, "frames": 5, "size": (32, 32)}
CAPTION = "a red ball bounces over the ocean"


@pytest.fixture
def no_text_encoder(monkeypatch):
    """Let opening the text encoder fail from the call on."""
    engine = type(get_engine("cpu"))
    open_graph = engine.open

    def refuse(self, path, options):
        assert Path(path).stem != "text_encoder", "the text encoder was opened"
        return open_graph(self, path, options)

    return lambda: monkeypatch.setattr(engine, "open", refuse)


def test_videos_are_identical_to_the_byte_whether_cached_or_not(tmp_path, no_text_encoder):
    contents, latents = [], []
    for name, cached in (("uncached", False), ("first", True), ("second", True)):
        if name == "second":
            no_text_encoder()
        with edgereel.load(DEMO_REEL, cache=cached) as reel:
            video = reel.generate(CAPTION, **QUICK)
            contents.append(video.save(tmp_path / f"{name}.mp4").read_bytes())
            latents.append(video.latents.tobytes())
            assert ("text_encoder" in reel.report()) == (name != "second")
    assert contents[0] == contents[1] == contents[2]
    assert latents[0] == latents[1] == latents[2]


def test_without_the_cache_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "cache"))
    with edgereel.load(DEMO_REEL, cache=False) as reel:
        reel.generate(CAPTION, **QUICK)
    assert not (tmp_path / "cache" / "embeddings").exists()


def test_threads_do_not_change_an_embedding(tmp_path):
    """The key leaves them out."""
    contents = []
    for threads in (1, 2, 3):
        with edgereel.load(DEMO_REEL, threads=threads, cache=False) as reel:
            (embedding,) = reel.embedder.embed([Prompt(CAPTION)], None)
            contents.append(embedding.numpy().tobytes())
    assert contents[0] == contents[1] == contents[2]


def test_no_prompt_is_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "cache"))
    with edgereel.load(DEMO_REEL) as reel:
        reel.generate(CAPTION, **QUICK)
    written = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len([path for path in written if path.suffix == ".embedding"]) == 1
    assert not any(b"ocean" in path.read_bytes() or "ocean" in path.name for path in written)
