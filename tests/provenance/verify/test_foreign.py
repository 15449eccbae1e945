"""Files that nobody here made: no claim that is not theirs, no crash, and what others signed is told as they said it."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest

c2pa = pytest.importorskip("c2pa")

from helpers.marked_clips import pictures  # noqa: E402
from PIL import Image  # noqa: E402

from edgereel.core.errors import UsageError  # noqa: E402
from edgereel.provenance import keys, sign  # noqa: E402
from edgereel.provenance.verify.report import examine  # noqa: E402

LISTED = Path(__file__).with_name("foreign_files.txt")
LEAST = 8
IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def found():
    """Return the listed files that are on this machine; which ones are depends on what is installed."""
    folder = Path(sysconfig.get_paths()["purelib"])
    lines = [line for line in LISTED.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return [folder / line for line in lines if (folder / line).is_file()]


def nothing_is_claimed(path):
    try:
        report = examine(path)
    except UsageError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert path.name in refusal
        return
    assert not report.generated, report
    assert not report.altered, report
    assert report.signature.state in ("none", "unchecked")
    assert json.loads(json.dumps(report.to_json()))["generated"] is None
    assert report.words()[0].startswith("No mark was found. That says nothing about how it was made")


def damaged(path, folder, seed):
    random = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    start = int(random.integers(0, len(content)))
    if seed % 2:
        del content[start:]
    else:
        content[start : start + 100] = random.bytes(min(100, len(content) - start))
    target = folder / f"damaged-{path.name}"
    target.write_bytes(content)
    return target


def test_some_files_of_others(tmp_path):
    files = found()
    assert len(files) >= LEAST, "matplotlib, which the tests need, brings that many"
    for seed, path in enumerate(files[:: max(1, len(files) // LEAST)]):
        nothing_is_claimed(path)
        nothing_is_claimed(damaged(path, tmp_path, seed))


@pytest.mark.full
def test_all_files_of_others(tmp_path):
    for seed, path in enumerate(found()):
        nothing_is_claimed(path)
        nothing_is_claimed(damaged(path, tmp_path, seed))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Somebody else's key."""
    return keys.load(keys.create("Camera Works", tmp_path_factory.mktemp("other") / "keys"))


def signed(folder, other, actions, version=2, name="photo.jpg"):
    """Return a picture that somebody else signed, with these actions in a claim of this version."""
    source, target = folder / f"plain-{name}", folder / name
    Image.fromarray(pictures(96, 72, 1)[0]).save(source)
    manifest = {
        "claim_version": version,
        "claim_generator_info": [{"name": "Camera", "version": "2"}],
        "assertions": [{"label": "c2pa.actions" + ".v2" * (version > 1), "data": {"actions": actions}}],
    }
    kind = {"jpg": "image/jpeg", "png": "image/png", "tif": "image/tiff"}[name[-3:]]
    info = c2pa.C2paSignerInfo(b"es256", other.chain, other.key, None)
    context = c2pa.Context.from_dict(sign.OFFLINE)
    with (
        c2pa.Signer.from_info(info) as signer,
        c2pa.Builder(manifest, context) as builder,
        source.open("rb") as reading,
        target.open("w+b") as writing,
    ):
        builder.sign(signer, kind, reading, writing)
    return target


@pytest.mark.parametrize(
    ("version", "name", "term", "generated"),
    [
        (2, "photo.jpg", "digitalCapture", None),
        (2, "photo.png", "trainedAlgorithmicMedia", True),
        (1, "photo.jpg", "compositeWithTrainedAlgorithmicMedia", True),
        (1, "photo.tif", "digitalArt", None),
    ],
)
def test_what_others_signed_is_told_as_they_said_it(version, name, term, generated, other, tmp_path):
    path = signed(tmp_path, other, [{"action": "c2pa.created", "digitalSourceType": IPTC + term}], version, name)
    report = examine(path)
    assert (report.signature.state, report.signature.signer) == ("valid", "Camera Works")
    assert report.signature.sources == (term,)
    assert report.to_json()["generated"] is generated
    assert report.watermark.payload is None
    content = bytearray(path.read_bytes())
    content[-len(content) // 10] ^= 1
    path.write_bytes(content)
    changed = examine(path)
    assert changed.altered
    assert changed.to_json()["generated"] is None, "what a broken signature says is not believed"


def test_a_signature_that_says_nothing_of_a_source(other, tmp_path):
    report = examine(signed(tmp_path, other, [{"action": "c2pa.opened"}], 1))
    assert report.signature.sources == ()
    assert report.to_json()["generated"] is None


def test_a_manifest_full_of_zeros_is_a_damaged_one(other, tmp_path):
    path = signed(tmp_path, other, [{"action": "c2pa.created", "digitalSourceType": IPTC + "digitalCapture"}])
    content = bytearray(path.read_bytes())
    start = content.index(b"c2pa.signature") - 40
    content[start : start + 300] = bytes(300)
    path.write_bytes(content)
    report = examine(path)
    assert report.altered
    assert not report.generated
