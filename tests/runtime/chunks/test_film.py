"""Films chunk by chunk on real graphs, beside the same arithmetic in numpy, in which nothing is a ring or kept in place."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.causal_bundle import STREAM, denoise, embedding, places_of, remember, write_causal_bundle

import edgereel
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import EngineError, UsageError
from edgereel.runtime.memory.work import count_work
from edgereel.runtime.request import OpenRequest
from edgereel.runtime.sampling.noise import NoiseSource
from edgereel.runtime.sampling.recipes import schedule_of
from edgereel.runtime.sampling.samplers import SAMPLERS

pytestmark = pytest.mark.lean

BALL, SQUARE = "a red ball", "the green square slides"
HEIGHT, WIDTH = 3, 4


def film_of(bundle, frames, *, seed=0, recipe=None, guidance=None, switch=None, given=None, half=True, stream=None):
    """Return latents [1, 3, frames, H, W] of a film, sampled in numpy. switch: (latent frame, prompt). given: [3, F, H, W]."""
    manifest = open_bundle(bundle).manifest
    rules = {**STREAM, "sink": 0, **manifest.stream.model_dump(), **(stream or {})}
    chosen = manifest.recipe(recipe)
    guidance = chosen.guidance if guidance is None else guidance
    noise = NoiseSource(seed)
    film = {} if given is None else {index: given[:, index] for index in range(given.shape[1])}
    chunks = [list(film)] if film else []
    if len(film) > manifest.stream.first:
        first = list(range(manifest.stream.first))
        rest = list(range(manifest.stream.first, len(film)))
        chunks = [first, *(rest[at : at + rules["chunk"]] for at in range(0, len(rest), rules["chunk"]))]
    prompt = BALL
    nothing = np.zeros((3, HEIGHT, WIDTH), np.float32)
    history = {}
    while len(film) < frames:
        made = len(film)
        left = manifest.stream.first - made
        numbers = list(range(made, made + (left if left > 0 else rules["chunk"])))
        if switch is not None and made >= switch[0]:
            prompt = switch[1]
        # What is out of the window has left nothing behind after a switch; before one, it shaped what is in the window.
        texts = {"prompt": embedding(prompt), "negative": embedding_of_nothing()}
        seen = {}
        for name, text in texts.items():
            text = texts["prompt"] if rules["negative_context"] == "shared" else text
            seen[name] = context_of(
                film, chunks, prompt if text is texts["prompt"] else "", text, rules, half, history, nothing
            )
        start = noise.draw((1, 3, len(numbers), HEIGHT, WIDTH))

        def velocity(noisy, timestep, _, numbers=numbers, seen=seen, texts=texts):
            found = []
            for name in texts:
                there, here = places_of(seen[name].numbers, numbers, rules)
                found.append(denoise(noisy[0], timestep, texts[name], here, seen[name], there, half)[0])
            prompted, free = found
            return (prompted if guidance <= 1 else free + guidance * (prompted - free))[None].astype(np.float32)

        latents = SAMPLERS[chosen.sampler].sample(
            velocity, start, schedule_of(chosen), lambda shape=start.shape: noise.draw(shape), None
        )
        film |= {number: latents[0, :, index] for index, number in enumerate(numbers)}
        chunks.append(numbers)
    return np.stack([film[number] for number in range(frames)], axis=1)[None]


def context_of(film, chunks, prompt, text, rules, half, history, nothing):
    """Return what is remembered of a film so far with a prompt: its own history, or the window made anew after a switch."""
    if not film:
        return remember({0: nothing}, [], text, rules, half)
    begun = history.setdefault(prompt, len(chunks))
    if prompt == "" or prompt == next(iter(history)):
        return remember(film, chunks, text, rules, half)
    kept = window(rules, [number for chunk in chunks[:begun] for number in chunk])
    blocks = blocks_of(kept, chunks[:begun])
    return remember(film, [*blocks, *chunks[begun:]], text, rules, half)


def window(rules, numbers):
    sink = [number for number in numbers if number < rules["sink"]]
    room = rules["window"] - rules["sink"]
    others = [number for number in numbers if number >= rules["sink"]]
    return sink + (others[-room:] if room else [])


def blocks_of(kept, chunks):
    """Return kept frames by chunk, without gaps."""
    blocks = []
    for chunk in chunks:
        block = []
        for number in chunk:
            if number in kept:
                block.append(number)
            elif block:
                blocks.append(block)
                block = []
        if block:
            blocks.append(block)
    return blocks


def embedding_of_nothing():
    return embedding("")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Return a function that writes a bundle of a kind of stream once."""
    written = {}

    def bundle(**stream):
        kind = stream.pop("kind", "float16")
        key = (kind, *sorted(stream.items()))
        if key not in written:
            folder = tmp_path_factory.mktemp("causal") / "small.reel"
            written[key] = write_causal_bundle(folder, stream=stream, kind=kind)
        return written[key]

    return bundle


KINDS = {
    "a sink and a ring": {},
    "no sink": {"sink": 0},
    "places in the clip": {"positions": "clip"},
    "places in the clip, no sink": {"positions": "clip", "sink": 0},
    "all is sink": {"window": 2, "sink": 2},
    "a window that is no multiple of the chunk": {"chunk": 3, "window": 5, "sink": 1},
    "a chunk longer than the window": {"chunk": 4, "window": 2, "sink": 1},
    "a first chunk of its own": {"first_chunk": 1},
    "remembered while noisy": {"remember_timestep": 100.0},
    "float32": {"kind": "float"},
    "no context at all": {"window": 0, "sink": 0, "kind": "float"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", ["plain", "anew"])
def test_a_film_is_what_numpy_makes_of_it(bundles, kind, recipe):
    bundle = bundles(**KINDS[kind])
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        made = reel.generate(BALL, seed=5, frames=19, recipe=recipe).latents
    expected = film_of(bundle, 10, seed=5, recipe=recipe, half="kind" not in KINDS[kind])
    # In half precision what is remembered may round apart by 1/2048, in a film that goes on from it.
    assert np.abs(made - expected).max() < (1e-5 if "kind" in KINDS[kind] else 2e-3)


def test_what_is_remembered_matters(bundles):
    films = []
    for kind in ("a sink and a ring", "no sink", "places in the clip", "remembered while noisy", "no context at all"):
        with edgereel.load(bundles(**KINDS[kind]), engine="cpu", threads=1) as reel:
            films.append(reel.generate(BALL, seed=5, frames=19).latents)
    differences = [np.abs(one - other).max() for i, one in enumerate(films) for other in films[:i]]
    assert min(differences) > 0.01


@pytest.mark.parametrize("negative_context", ["own", "shared"])
def test_guidance_has_a_context_for_each_prompt_or_one(bundles, negative_context):
    bundle = bundles(negative_context=negative_context)
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        made = reel.generate(BALL, seed=5, frames=15, recipe="guided").latents
    expected = film_of(bundle, 8, seed=5, recipe="guided")
    assert np.abs(made - expected).max() < 5e-3
    other = "shared" if negative_context == "own" else "own"
    assert np.abs(made - film_of(bundle, 8, seed=5, recipe="guided", stream={"negative_context": other})).max() > 0.02


@pytest.mark.parametrize(
    "kind",
    ["a sink and a ring", "places in the clip", "a window that is no multiple of the chunk", "no context at all"],
)
def test_another_prompt_is_as_if_the_window_had_been_its_own(bundles, kind):
    """The stream's pictures are compared through its latents, which the sampler hands over one chunk after the other."""
    bundle = bundles(**{**KINDS[kind], "kind": "float"})
    chunk = {**STREAM, **KINDS[kind]}["chunk"]
    at = 1 + (3 * chunk - 1) * 2  # pictures of three chunks
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        with reel.stream(BALL, seed=5, seconds=(at + 8) / 4, then=[(at / 4, SQUARE)]) as stream:
            parts = []
            while sum(part.shape[2] for part in parts) < 5 * chunk:
                parts.append(stream._sampler.take().latents)
        made = np.concatenate(parts, axis=2)
        plain = reel.generate(BALL, seed=5, frames=1 + (5 * chunk - 1) * 2).latents
    expected = film_of(bundle, 5 * chunk, seed=5, switch=(3 * chunk, SQUARE), half=False)
    assert np.abs(made - expected[:, :, : made.shape[2]]).max() < 1e-5
    assert np.array_equal(made[:, :, : 3 * chunk], plain[:, :, : 3 * chunk])
    assert np.abs(made - plain).max() > 0.01


def test_each_chunk_but_a_clips_last_is_remembered_by_one_call(bundles):
    bundle = bundles()
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        spans = []
        reel.on_span = lambda span: spans.append(span.stage)
        reel.generate(BALL, frames=9)  # latent frames 2 + 2 + 1
    assert spans.count("denoise") == 3 * 3
    assert spans.count("remember") == 2
    work = count_work(open_bundle(bundle), OpenRequest(BALL, frames=9).complete(open_bundle(bundle).manifest))
    once = count_work(open_bundle(bundle), OpenRequest(BALL, frames=1).complete(open_bundle(bundle).manifest))
    assert work["denoise"].flops * 3 == once["denoise"].flops * (3 * 3 + 2)


def test_own_noise_is_taken_chunk_by_chunk(bundles):
    bundle = bundles()
    noise = np.random.default_rng(3).standard_normal((1, 3, 5, HEIGHT, WIDTH)).astype(np.float32)
    drawn = NoiseSource(5)
    by_chunk = np.concatenate([drawn.draw((1, 3, 2, HEIGHT, WIDTH)) for _ in range(3)], axis=2)
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        own, seeded, again = (
            reel.generate(BALL, seed=5, frames=9, **more).latents
            for more in ({"latents": noise}, {}, {"latents": np.ascontiguousarray(by_chunk[:, :, :5])})
        )
    assert own.shape == seeded.shape
    assert np.abs(own - seeded).max() > 0.01
    assert np.array_equal(seeded, again)


def test_a_clip_is_the_beginning_of_the_stream_and_any_longer_clip(bundles):
    with edgereel.load(bundles(), engine="cpu", threads=1) as reel:
        short, long = (reel.generate(BALL, seed=5, frames=frames) for frames in (9, 17))
        assert np.array_equal(short.latents, long.latents[:, :, :5])
        with reel.stream(BALL, seed=5) as stream:
            streamed = [next(stream) for _ in range(17)]
        assert all(np.array_equal(*pair) for pair in zip(streamed, long, strict=True)), "the decoder begins anew"


def test_a_film_begins_with_a_picture(bundles):
    bundle = bundles(kind="float")
    picture = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    with edgereel.load(bundle, engine="cpu", threads=1) as reel:
        made = reel.generate(BALL, seed=5, frames=13, image=picture).latents
        with reel.stream(BALL, seed=5, image=picture) as stream:
            streamed = [next(stream) for _ in range(13)]
        assert all(
            np.array_equal(*pair)
            for pair in zip(streamed, reel.generate(BALL, seed=5, frames=13, image=picture), strict=True)
        )
    encoded = (picture.astype(np.float32) / 127.5 - 1).reshape(3, 2, 4, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(made[0, :, 0] - encoded).max() < 1e-6
    expected = film_of(bundle, 7, seed=5, given=encoded[:, None], half=False)
    assert np.abs(made - expected).max() < 1e-5


def test_a_film_that_reaches_beyond_the_places_the_model_tells_apart_ends_there(bundles):
    with (
        edgereel.load(bundles(positions="clip"), engine="cpu", threads=1) as reel,
        reel.stream(BALL, steps=1) as stream,
        pytest.raises(EngineError, match="tells 64 latent frames apart"),
    ):
        list(stream)
    for kind in ({"positions": "clip", "sink": 0}, {}):
        with edgereel.load(bundles(**kind), engine="cpu", threads=1) as reel, reel.stream(BALL, steps=1) as stream:
            assert sum(1 for _ in zip(range(200), stream, strict=False)) == 200


def test_guidance_without_a_context_planned_for_it_is_refused(tmp_path):
    bundle = write_causal_bundle(tmp_path / "c.reel", change=lambda data: data["recipes"].pop())
    with (
        edgereel.load(bundle, engine="cpu", threads=1) as reel,
        pytest.raises(UsageError, match="would need a second context"),
    ):
        reel.generate(BALL, guidance=4)
