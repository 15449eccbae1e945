"""Schema 2: what it adds, who writes it, and that bundles without any of it stay of schema 1."""

from __future__ import annotations

import json

import pytest
from conftest import DEMO_REEL
from helpers.causal_bundle import write_causal_bundle
from helpers.small_bundle import edit, refused, write_small_bundle

from edgereel.bundle.manifest import Manifest, Roles
from edgereel.bundle.reader import open_bundle
from edgereel.bundle.writer import write_manifest
from edgereel.runtime.describe import describe

pytestmark = pytest.mark.lean


@pytest.fixture
def reel(tmp_path):
    return write_small_bundle(tmp_path / "small.reel")


def decoders(data):
    roles = data["roles"]
    full = {name: roles.pop(name) for name in ("decoder_first", "decoder_next")}
    roles["decoders"] = {"full": full, "tiny": full}
    data.update(schema=2, default_decoder="tiny")


def test_a_bundle_without_anything_new_is_written_as_before(reel, tmp_path):
    written = {}
    for folder in (reel, DEMO_REEL):
        (tmp_path / folder.stem).mkdir()
        write_manifest(tmp_path / folder.stem, open_bundle(folder).manifest.model_copy(deep=True))
        written[folder] = (tmp_path / folder.stem / "reel.json").read_text(encoding="utf-8")
    assert written[DEMO_REEL] == (DEMO_REEL / "reel.json").read_text(encoding="utf-8")
    small = json.loads(written[reel])
    assert (small["schema"], small["read_by"]) == (1, "0.1.0")
    assert not {"held", "condition", "stream", "default_decoder"} & set(small)
    assert "formats" not in small["defaults"]
    assert set(small["roles"]) == {"text_encoder", "denoiser", "decoder_first", "decoder_next"}


@pytest.mark.parametrize(
    "change",
    [
        decoders,
        lambda data: data["defaults"].update(formats={"square": [16, 16]}),
        lambda data: data["roles"]["decoder_next"]["inputs"]["state_00"].update(dtype="float16"),
        lambda data: data["roles"]["denoiser"][0]["inputs"]["timestep"].update(shape=["batch", "frames"]),
        lambda data: data["roles"].update(
            encoder_first=data["roles"]["decoder_first"], encoder_next=data["roles"]["decoder_next"]
        ),
        lambda data: data.update(default_decoder="full"),
    ],
)
def test_what_is_new_makes_schema_2_which_names_the_release_that_reads_it(reel, tmp_path, change):
    edit(reel, lambda data: [change(data), data.update(schema=1)])
    assert "uses what schema 1 does not have" in refused(reel)
    edit(reel, lambda data: data.update(schema=2))
    manifest = open_bundle(reel).manifest
    assert manifest.least_schema == 2
    write_manifest(tmp_path, manifest)
    written = json.loads((tmp_path / "reel.json").read_text(encoding="utf-8"))
    assert (written["schema"], written["read_by"]) == (2, "0.2.0")
    assert Manifest.model_validate_json(json.dumps(written)).to_json() == written


def test_graphs_of_named_decoders(reel, words_reel):
    edit(reel, decoders)
    manifest = open_bundle(reel).manifest
    names = ["decoder_first", "decoder_next", "tiny_decoder_first", "tiny_decoder_next"]
    assert list(manifest.roles.graphs()) == ["text_encoder", "denoiser", *names]
    assert manifest.roles.decoder_names("tiny") == {
        "decoder_first": "tiny_decoder_first", "decoder_next": "tiny_decoder_next",
    }  # fmt: skip
    assert manifest.decoder_name() == "tiny"
    assert manifest.decoder_name("full") == "full"
    assert manifest.decoder_name("huge") is None
    again = Roles.of({name: graph.model_dump() for name, graph in manifest.roles.graphs().items()})
    assert list(again.graphs()) == list(manifest.roles.graphs())
    assert "decoders     full, tiny (default)" in describe(open_bundle(reel))
    only = Roles.of(
        {name: graph.model_dump() for name, graph in open_bundle(words_reel).manifest.roles.graphs().items()}
    )
    assert only.decoders is None
    assert list(only.decoders_by_name) == ["full"]


def without(name):
    return lambda data: data["roles"].pop(name)


def with_role(**roles):
    """Return a change that gives roles the graphs of others, by name."""
    return lambda data: data["roles"].update({name: data["roles"][other] for name, other in roles.items()})


def denoiser_takes(name):
    latent = {"dtype": "float32", "shape": ["batch", 2, "frames", "height", "width"]}
    return lambda data: data["roles"]["denoiser"][0]["inputs"].update({name: latent})


def half_precision_embeds(data):
    data["roles"]["text_encoder"]["outputs"]["prompt_embeds"].update(dtype="float16")


NOT_ONE_DECODER = "a decoder is decoder_first and decoder_next, or decoder alone, not "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("decoder_next"), f"{NOT_ONE_DECODER}decoder_first"),
        (with_role(decoder="decoder_next"), f"{NOT_ONE_DECODER}decoder_first, decoder_next, decoder"),
        (lambda data: [decoders(data), with_role(decoder="text_encoder")(data)], "there is none beside it"),
        (lambda data: [decoders(data), data.pop("default_decoder")], "default_decoder must say which of full, tiny"),
        (lambda data: data.update(default_decoder="tiny"), "default_decoder is tiny, which is none of full"),
        (half_precision_embeds, "prompt_embeds is float16"),
        (lambda data: data["defaults"].update(formats={"64x64": [16, 16]}), "formats"),
        (lambda data: data["defaults"].update(formats={"square": [16]}), "formats"),
        (lambda data: data.update(stream={"chunk": 3, "window": 6}), "stream must be told for denoisers that take"),
        (denoiser_takes("condition"), "condition must be told"),
        (denoiser_takes("image_embeds"), "an image_encoder must be there"),
    ],
)
def test_manifests_that_contradict_themselves(reel, change, message):
    edit(reel, lambda data: [data.update(schema=2), change(data)])
    assert message in refused(reel)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["stream"].update(sink=5), "cannot hold a sink of 5"),
        (lambda data: data["stream"].update(chunk=0), "stream.chunk"),
        (lambda data: data["stream"].update(window=10**6), "stream.window"),
        (lambda data: data["stream"].update(positions="film"), "stream.positions"),
        (lambda data: data.pop("stream"), "stream must be told"),
        (lambda data: data["roles"]["denoiser"][0]["inputs"].pop("positions"), "needs the input positions"),
        (lambda data: data["roles"]["denoiser"][0]["outputs"].pop("context_01_new"), "needs the output context_01_new"),
        (lambda data: data["latent"].update(patch=[2, 1, 1]), "patches of one latent frame"),
        (
            lambda data: [denoiser_takes("condition")(data), data.update(condition={"layout": ["latents"]})],
            "has no end",
        ),
        (lambda data: data["roles"].update(denoiser=data["roles"]["denoiser"] * 2), "needs one denoiser"),
    ],
)
def test_streams_that_contradict_their_graphs(tmp_path, change, message):
    assert message in refused(write_causal_bundle(tmp_path / "c.reel", change=change))


def test_a_stream_is_told_in_words(tmp_path):
    told = describe(open_bundle(write_causal_bundle(tmp_path / "c.reel")))
    assert "stream       chunks of 2 latent frames, the first of 2; remembers 4, 1 of them for ever" in told
    assert "pictures     the first, if given" in told
