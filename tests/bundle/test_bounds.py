"""Whatever a manifest says, opening it ends soon, in a bundle or in one line: every number, list and text has a bound."""

from __future__ import annotations

import json
import random

import pytest
from helpers.small_bundle import edit, sign, write_small_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel.bundle.manifest import Manifest
from edgereel.bundle.reader import Bundle, open_bundle, peek_bundle
from edgereel.core.errors import BundleError
from edgereel.runtime.describe import describe

NEVER_COMPUTED_WITH = {"Parity.relative", "Parity.limit", "FusedLora.scale"}
"""Figures that are shown and no more: any finite number."""


def kinds(schema):
    """Yield (where, the kind of value) of all that a schema describes, through every choice and item."""
    for name, definition in {"Manifest": schema, **schema["$defs"]}.items():
        for key, value in definition.get("properties", {}).items():
            yield from inside(f"{name}.{key}", value)


def inside(where, kind):
    yield where, kind
    for choice in kind.get("anyOf", []):
        yield from inside(where, choice)
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(kind.get(key), dict):
            yield from inside(f"{where}[]", kind[key])


def test_everything_in_the_schema_has_a_bound():
    needed = {
        "integer": ["maximum", "exclusiveMaximum"],
        "number": ["maximum", "exclusiveMaximum"],
        "array": ["maxItems"],
        "object": ["maxProperties"],
        "string": ["maxLength", "pattern", "enum", "const"],
    }
    found = list(kinds(Manifest.model_json_schema()))
    assert len(found) > 80
    unbounded = {
        where
        for where, kind in found
        if kind.get("type") in needed and not any(key in kind for key in needed[kind["type"]])
    }
    assert unbounded == NEVER_COMPUTED_WITH


@pytest.fixture
def reel(tmp_path):
    return write_small_bundle(tmp_path / "small.reel")


def put(data, path, value):
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


@pytest.mark.parametrize(
    "path",
    [
        ("text", "pad_token_id"),
        ("text", "unknown_token_id"),
        ("text", "max_tokens"),
        ("latent", "channels"),
        ("latent", "temporal_scale"),
        ("latent", "spatial_scale"),
        ("latent", "patch", 1),
        ("latent", "max_patches"),
        ("recipes", 0, "steps"),
        ("recipes", 0, "guidance"),
        ("recipes", 0, "shift"),
        ("recipes", 0, "train_timesteps"),
        ("defaults", "width"),
        ("defaults", "height"),
        ("defaults", "frames"),
        ("defaults", "fps"),
        ("roles", "denoiser", 0, "inputs", "latents", "shape", 0),
        ("files", "decoder.data", "size"),
        ("schema",),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400, 1e308], ids=["2^63", "-2^63-1", "10^400", "1e308"])
def test_numbers_that_do_not_fit_their_use(reel, path, value):
    edit(reel, lambda data: put(data, path, value))
    with pytest.raises(BundleError) as caught:
        open_bundle(reel)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path[-1] if isinstance(path[-1], str) else path[-2]) in message


def test_a_token_id_that_no_tokenizer_has(reel):
    edit(reel, lambda data: put(data, ("text", "pad_token_id"), 2**63))
    with pytest.raises(BundleError, match=r"^reel\.json: text\.pad_token_id: .*less than 2147483648$"):
        open_bundle(reel)


MANY = {
    "denoisers": (lambda data: data["roles"].update(denoiser=data["roles"]["denoiser"] * 2001), "roles.denoiser"),
    "recipes": (
        lambda data: data.update(recipes=[data["recipes"][0] | {"name": f"r{index}"} for index in range(2001)]),
        "recipes",
    ),
    "cleaning": (lambda data: data["text"].update(cleaning=["html_unescape"] * 20_000), "text.cleaning"),
    "axes": (
        lambda data: put(data, ("roles", "decoder_first", "inputs", "latent", "shape"), [1] * 20_000),
        "roles.decoder_first.inputs.latent.shape",
    ),
    "inputs": (
        lambda data: data["roles"]["decoder_next"]["inputs"].update(
            {f"state_{index}": {"dtype": "float32", "shape": []} for index in range(2000)}
        ),
        "roles.decoder_next.inputs",
    ),
    "files": (
        lambda data: data["files"].update({f"x{index}": data["files"]["decoder.data"] for index in range(2000)}),
        "files",
    ),
    "a long name": (lambda data: data.update(name="n" * 300_000), "name"),
    "a long name of an axis": (
        lambda data: put(data, ("roles", "decoder_first", "inputs", "latent", "shape"), ["a" * 300_000]),
        "roles.decoder_first.inputs.latent.shape",
    ),
    "a default size of 2^30 x 2^30": (
        lambda data: (
            data["latent"].update(spatial_scale=1, max_patches=2**40),
            data["defaults"].update(width=2**30, height=2**30),
        ),
        "latent.max_patches",
    ),
    "a hundred thousand unknown values": (lambda data: data.update(future=[[]] * 100_000), "more than 131072 values"),
    "five megabytes": (lambda data: data.update(future="x" * 5 * 2**20), "too large"),
}


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


MANY["figures 100 deep"] = (lambda data: data.update(quality=nested(100)), "more than 32 deep")
MANY["figures of a source that are none"] = (lambda data: data["quality"].update(of_source=5), "of_source must hold")


@pytest.mark.parametrize("case", MANY)
def test_more_than_any_model_needs(reel, case):
    change, message = MANY[case]
    edit(reel, change)
    for opening in (open_bundle, peek_bundle):
        with pytest.raises(BundleError) as caught:
            opening(reel)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["", "..", "denoiser.onnx", "float32", "a\nb", "\x1b[2J"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc/.", max_size=5), inner, max_size=4),
    max_leaves=8,
)


def places(data, path=()):
    """Yield the way to every value of the manifest."""
    yield path
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A bundle whose manifest each example changes, and the manifest as it should be."""
    folder = write_small_bundle(tmp_path_factory.mktemp("damaged") / "small.reel")
    return folder, (folder / "reel.json").read_text(encoding="utf-8")


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32), values=st.lists(json_values, min_size=1, max_size=3), removed=st.booleans())
def test_a_manifest_with_anything_anywhere_opens_or_is_refused(damaged, seed, values, removed):
    folder, text = damaged
    data, generator = json.loads(text), random.Random(seed)
    for value in values:
        way = generator.choice([way for way in places(data) if way])
        if removed and isinstance(way[-1], str):
            target = data
            for key in way[:-1]:
                target = target[key]
            del target[way[-1]]
        else:
            put(data, way, value)
    sign(folder, data)
    opened = opened_or_complaint(folder)
    if isinstance(opened, Bundle):
        again = Manifest.model_validate_json(json.dumps(opened.manifest.to_json()))
        assert again == opened.manifest
        assert describe(opened)
    else:
        assert "\n" not in opened


def opened_or_complaint(folder):
    """Return the bundle, or the line it is refused with. Any other error goes through and fails the test."""
    try:
        return open_bundle(folder)
    except BundleError as error:
        return str(error)
