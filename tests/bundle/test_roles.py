"""Graphs by role: what reads and writes a manifest loops over the roles, so that a new one is a new field and no more."""

from __future__ import annotations

import json

import pytest
from helpers.small_bundle import write_small_bundle
from pydantic import Field, ValidationError

from edgereel.bundle.manifest import Graph, Manifest, Roles

pytestmark = pytest.mark.lean


class RolesWithSound(Roles):
    """What the roles of a later release may look like."""

    painter_first: Graph | None = None
    sound_encoders: list[Graph] = Field(default_factory=list)


@pytest.fixture
def data(tmp_path):
    return json.loads((write_small_bundle(tmp_path / "small.reel") / "reel.json").read_text(encoding="utf-8"))


def entry(name):
    return {"file": f"{name}.onnx", "data": f"{name}.data", "inputs": {}, "outputs": {}}


def names(*more):
    return ["text_encoder", "denoiser", "denoiser_2", "decoder_first", "decoder_next", *more]


def test_roles_are_made_of_graphs_by_name_and_give_them_back():
    given = {name: entry(name) for name in names()} | {"denoiser_2": entry("denoiser_2") | {"sigma_high": 0.875}}
    roles = Roles.of(given)
    assert list(roles.graphs()) == names()
    assert {name: graph.file for name, graph in roles.graphs().items()} == {name: f"{name}.onnx" for name in names()}
    assert [denoiser.sigma_high for denoiser in roles.denoiser] == [1.0, 0.875]
    assert roles.denoiser_names() == ["denoiser", "denoiser_2"]


def test_a_new_role_is_a_field_and_no_more():
    more = ("painter_first", "sound_encoders", "sound_encoders_2")
    roles = RolesWithSound.of({name: entry(name) for name in (*reversed(more), *names())})
    assert list(roles.graphs()) == names(*more)
    assert roles.sound_encoders[1].data == "sound_encoders_2.data"
    without = RolesWithSound.of({name: entry(name) for name in names()})
    assert list(without.graphs()) == names()
    assert "painter_first" not in without.model_dump(mode="json")


@pytest.mark.parametrize(
    ("left_out", "more", "message"),
    [
        (None, "painter", "no role has a graph of the name painter"),
        (None, "denoiser_4", "no role has a graph of the name denoiser_4"),
        ("denoiser", None, "denoiser_2"),
        ("decoder_next", None, "decoder_next"),
    ],
)
def test_graphs_that_make_no_roles(left_out, more, message):
    given = {name: entry(name) for name in (*names(), more) if name not in (None, left_out)}
    with pytest.raises((ValueError, ValidationError), match=message):
        Roles.of(given)


def test_every_graph_of_a_role_must_be_listed_under_files(data):
    class LaterManifest(Manifest):
        roles: RolesWithSound

    data["roles"]["painter_first"] = entry("painter_first")
    with pytest.raises(ValidationError, match=r"not listed under files: painter_first\.data, painter_first\.onnx"):
        LaterManifest.model_validate_json(json.dumps(data))


def test_unknown_roles_are_kept_even_without_content(data):
    data["roles"]["painter"] = None
    manifest = Manifest.model_validate_json(json.dumps(data))
    assert manifest.to_json()["roles"]["painter"] is None
    assert "painter" not in manifest.roles.graphs()
