"""Signed files: two readers that share nothing believe them, and a changed byte is found wherever it is."""

from __future__ import annotations

import json
import logging
import shutil

import av
import numpy as np
import pytest

c2pa = pytest.importorskip("c2pa")

from helpers.c2pa_by_hand import C2PA_BOX, boxes, check_mp4  # noqa: E402
from helpers.marked_clips import pictures, write_clip  # noqa: E402

from edgereel.core.errors import OutputError  # noqa: E402
from edgereel.provenance import sign  # noqa: E402
from edgereel.provenance.claim import Claim  # noqa: E402
from edgereel.provenance.keys import own_root  # noqa: E402
from edgereel.provenance.marks import Marks  # noqa: E402
from edgereel.provenance.verify.signature import read_signature  # noqa: E402


@pytest.fixture(scope="module")
def module_identity(device):
    from edgereel.provenance import keys

    return keys.load(device)


@pytest.fixture(scope="module")
def signed(module_identity, tmp_path_factory):
    """A signed and watermarked MP4, and what became of its marks."""
    path = tmp_path_factory.mktemp("signed") / "clip.mp4"
    return path, write_clip(path, Marks(True, module_identity, maker=module_identity.maker))


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def test_a_signed_clip_is_believed_by_c2pa(signed, device):
    path, record = signed
    found = read_signature(path, "video/mp4", own_root(device))
    assert (found.state, found.signer, found.codes) == ("trusted", "Test Booth 7", ())
    assert found.sources == ("trainedAlgorithmicMedia",)
    assert found.generated
    assert found.id == record["id"]
    assert found.watermark == record["watermark"]
    assert found.claim["settings"]["seed"] == 3
    stranger = read_signature(path, "video/mp4", None)
    assert (stranger.state, stranger.codes) == ("valid", ("signingCredential.untrusted",))


def test_a_signed_clip_is_believed_by_a_reader_of_our_own(signed):
    path, record = signed
    certificate, assertions = check_mp4(path.read_bytes())
    assert "Test Booth 7" in certificate.subject.rfc4514_string()
    created, watermarked = assertions["c2pa.actions.v2"]["actions"]
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert watermarked["action"] == "c2pa.watermarked.bound"
    assert assertions["org.edgereel.clip"]["id"] == record["id"]
    assert assertions["c2pa.soft-binding"]["blocks"][0]["value"] == record["watermark"]


def test_the_four_things_that_sb_942_asks_for(signed):
    claim = read_signature(signed[0], "video/mp4", None).claim
    assert claim["provider"] == "Test Booth 7"
    assert claim["system"] == "edgereel"
    assert claim["version"]
    assert claim["made"].endswith("+00:00")
    assert claim["id"]


def test_signing_leaves_pictures_and_metadata_as_they_were(signed, module_identity, tmp_path):
    plain = tmp_path / "plain.mp4"
    write_clip(plain)
    copy = tmp_path / "copy.mp4"
    shutil.copy(plain, copy)
    sign.sign_in_place(copy, "mp4", Claim("1", {}), module_identity)
    assert all(np.array_equal(a, b) for a, b in zip(frames_of(plain), frames_of(copy), strict=True))
    with av.open(str(plain)) as before, av.open(str(copy)) as after:
        assert dict(before.metadata) == dict(after.metadata)
    assert 0 < copy.stat().st_size - plain.stat().st_size < 10_000
    kinds = [kind for kind, *_ in boxes(copy.read_bytes())]
    assert kinds.index(b"moov") < kinds.index(b"mdat")


def test_a_changed_byte_is_found_wherever_it_is(signed, tmp_path):
    """Every 997th byte, and more of the manifest.

    Of the media file, the standard leaves out the box `ftyp` and spare room; of the manifest, names of boxes' types and zeros
    that fill it up: what is believed with one of those changed says what it said before.
    """
    content = signed[0].read_bytes()
    altered = tmp_path / "altered.mp4"
    tried = 0
    for kind, offset, start, end in boxes(content):
        if kind in (b"ftyp", b"free", b"skip"):
            continue
        manifest = kind == b"uuid" and content[start : start + 16] == C2PA_BOX
        places = range(offset, end, 47) if manifest else [*range(offset, end, 997), end - 1]
        for at in places:
            altered.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            found = read_signature(altered, "video/mp4", None)
            tried += 1
            if manifest and found.intact:
                assert found == read_signature(signed[0], "video/mp4", None), at
            else:
                assert not found.intact, (kind, at)
    assert tried > 100


def test_what_was_changed_is_said(signed, tmp_path):
    content = bytearray(signed[0].read_bytes())
    media = next(start for kind, _, start, _ in boxes(bytes(content)) if kind == b"mdat")
    content[media + 100] ^= 1
    path = tmp_path / "altered.mp4"
    path.write_bytes(content)
    found = read_signature(path, "video/mp4", None)
    assert found.state == "invalid"
    assert found.altered == ("the pictures or the sound",)
    assert "assertion.bmffHash.mismatch" in found.codes
    assert not found.generated, "what it says is no longer believed"


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_pictures_that_move_are_signed_too(name, module_identity, device, tmp_path):
    path = tmp_path / name
    record = write_clip(path, Marks(False, module_identity))
    assert record["signed"]
    found = read_signature(path, f"image/{path.suffix[1:]}", own_root(device))
    assert found.state == "trusted"
    assert found.generated
    plain = tmp_path / f"plain{path.suffix}"
    write_clip(plain)
    assert path.stat().st_size - plain.stat().st_size < 10_000, "no thumbnail"


def test_inputs_keep_their_marks(signed, module_identity, device, tmp_path):
    """A picture that went in and a scene that was placed are ingredients, with the manifests that they had."""
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.fromarray(pictures(count=1)[0]).save(picture)
    path = tmp_path / "film.mp4"
    write_clip(path)
    sign.sign_in_place(path, "mp4", Claim("film", {}, inputs=(picture,), scenes=(signed[0],)), module_identity)
    found = read_signature(path, "video/mp4", own_root(device))
    assert (found.state, found.inputs) == ("trusted", 2)
    with path.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        report = reader.json()
    assert signed[1]["id"] in report, "the scene's own claim"
    assert report.count('"inputTo"') == 1
    assert report.count('"componentOf"') == 1


def test_marks_found_on_inputs_are_kept(signed, module_identity, device, tmp_path):
    """A watermarked clip, a signed one whose bytes were changed, and a camera's picture go into a clip: all are told of."""
    from PIL import Image

    from edgereel.provenance.claim import Origin
    from edgereel.runtime.video.output import Output

    picture, watermarked, altered = tmp_path / "picture.png", tmp_path / "stripped.mkv", tmp_path / "altered.mp4"
    Image.fromarray(pictures(count=1)[0]).save(picture)
    with av.open(str(signed[0])) as source, av.open(str(watermarked), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = bytearray(signed[0].read_bytes())
    media = next(start for kind, _, start, _ in boxes(bytes(content)) if kind == b"mdat")
    content[media + 100] ^= 1
    altered.write_bytes(content)
    frames, path = pictures(), tmp_path / "clip.mp4"
    output = Output.check(path).at(8).marked(Marks(False, module_identity, required=True), None, 192, 144)
    record = output.write(iter(frames), {}, 8, Origin({}, inputs=(picture, watermarked, altered, signed[0]))).marks
    found = read_signature(path, "video/mp4", own_root(device))
    assert found.state == "trusted"
    assert found.inputs == 3, "C2PA has no place in Matroska"
    plain, stripped, changed, whole = record["inputs"]
    assert found.claim["inputs"] == record["inputs"]
    assert set(plain) == {"sha256", "type"}, "nothing is said of a picture without marks"
    assert (stripped["type"], stripped["watermark"]) == ("video/x-matroska", signed[1]["watermark"])
    assert (changed["signature"], changed.get("id")) == ("invalid", None)
    assert (whole["signature"], whole["id"], whole["generated"]) == ("valid", signed[1]["id"], True)
    with path.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        report = reader.json()
    assert "assertion.bmffHash.mismatch" in report, "the changed input's manifest is kept with what is wrong with it"


def test_what_changes_the_file_comes_before_the_signature(module_identity, device, tmp_path):
    """A box that is put into the finished file is signed with it; what is shown to `watch` is what was encoded."""
    from edgereel.media.label import Label
    from edgereel.provenance.claim import Origin
    from edgereel.runtime.video.output import Output

    path, seen = tmp_path / "clip.mp4", []
    note = (16).to_bytes(4, "big") + b"meco" + b"12345678"

    def finish(file):
        assert file != path, "it has not its name yet"
        file.write_bytes(file.read_bytes() + note)

    plain = pictures()
    output = Output.check(path).at(8).marked(Marks(True, module_identity), Label("AI"), 192, 144)
    written = output.write(
        iter(plain), {}, 8, Origin({}), watch=lambda picture: seen.append(picture.copy()), finish=finish
    )
    assert (written.frames, len(seen)) == (8, 8)
    changes = [np.abs(a.astype(int) - b).max(axis=-1) for a, b in zip(plain, seen, strict=True)]
    assert all(change[-12:, -24:].max() > 50 for change in changes), "the label"
    assert all(0 < change[:100, :100].max() < 13 for change in changes), "the watermark"
    found = read_signature(path, "video/mp4", own_root(device))
    assert found.state == "trusted"
    content = path.read_bytes()
    assert note in content
    at = content.index(note) + 10
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    assert read_signature(path, "video/mp4", own_root(device)).state == "invalid"


def test_a_film_that_was_joined_is_signed_with_its_scenes(signed, module_identity, device, tmp_path):
    """Nothing is encoded anew: the film keeps its scenes' watermark, has none of its own, and names them as ingredients."""
    from edgereel.provenance.claim import Origin
    from edgereel.provenance.verify.report import examine
    from edgereel.runtime.video.output import Output

    film = tmp_path / "film.mp4"
    target = Output.check(film).at(8).marked(Marks(False, module_identity, required=True), None, 192, 144)
    record = target.join([signed[0]] * 2, {}, Origin({"scenes": 2}, scenes=(signed[0], signed[0]))).marks
    assert (record["signed"], record["watermark"]) == (True, None)
    report = examine(film, own_root(device))
    assert (report.signature.state, report.signature.inputs) == ("trusted", 2)
    assert report.signature.id == record["id"] != signed[1]["id"]
    assert str(report.watermark.payload) == signed[1]["watermark"]


def test_rows_of_a_campaign_are_signed_where_the_key_is(module_identity, device, tmp_path):
    """Whoever makes a row lays the watermark; the key stays with who asked for the campaign."""
    pytest.importorskip("yaml")
    from conftest import DEMO_REEL

    from edgereel.provenance.verify.report import examine
    from edgereel.runtime.batch import ReelOptions
    from edgereel.story.campaign.run import CampaignOptions, run_campaign

    path = tmp_path / "ads.yaml"
    path.write_text("prompt: a {colour} ball\npictures: 5\nformat: 192x144\naxes: {colour: [red]}\n")
    marks = Marks(True, module_identity, required=True, maker=module_identity.maker)
    run_campaign(path, tmp_path / "ads", CampaignOptions(DEMO_REEL, marks), ReelOptions("cpu", 1, cache=False))
    (entry,) = json.loads((tmp_path / "ads" / "manifest.json").read_text())["rows"]
    report = examine(tmp_path / "ads" / entry["file"], own_root(device))
    assert (report.signature.state, report.signature.id) == ("trusted", entry["marks"]["id"])
    assert str(report.watermark.payload) == entry["marks"]["watermark"]
    assert entry["marks"]["signed"]


def test_encoding_anew_loses_the_signature_and_keeps_the_watermark(signed, tmp_path):
    from edgereel.provenance.verify.report import examine

    path = tmp_path / "again.mp4"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=8, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for frame in frames_of(signed[0]):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="yuv420p")))
        target.mux(stream.encode())
    report = examine(path)
    assert report.signature.state == "none"
    assert str(report.watermark.payload) == signed[1]["watermark"]
    assert report.generated


def test_required_signatures_fail_closed(module_identity, tmp_path, monkeypatch):
    def broken(*_):
        raise OutputError("the key is gone")

    monkeypatch.setattr(sign, "write_signed", broken)
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"an earlier clip")
    with pytest.raises(OutputError, match="not written, since it could not be signed: the key is gone"):
        write_clip(path, Marks(False, module_identity, required=True))
    assert path.read_bytes() == b"an earlier clip"
    assert [each.name for each in tmp_path.iterdir()] == ["clip.mp4"]


def test_else_an_unsigned_clip_says_so_loudly(module_identity, tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise OutputError("the key is gone")

    monkeypatch.setattr(sign, "write_signed", broken)
    path = tmp_path / "clip.mp4"
    with caplog.at_level(logging.WARNING, logger="edgereel"):
        record = write_clip(path, Marks(False, module_identity))
    assert "NOT SIGNED: the key is gone" in caplog.text
    assert (record["signed"], record["not_signed"]) == (False, "the key is gone")
    assert len(frames_of(path)) == 8


def test_a_key_that_c2pa_refuses_is_an_error_of_ours(module_identity, tmp_path):
    import dataclasses

    path = tmp_path / "clip.mp4"
    write_clip(path)
    before = path.read_bytes()
    wrong = dataclasses.replace(
        module_identity, chain=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    with pytest.raises(OutputError, match="cannot sign"):
        sign.sign_in_place(path, "mp4", Claim("1", {}), wrong)
    assert path.read_bytes() == before


def test_anothers_signature_that_names_no_model_is_no_claim(device, tmp_path):
    """A camera's: whole and signed, and no word on whether a model had a hand in what it saw."""
    from edgereel.provenance import keys
    from edgereel.provenance.verify.report import examine

    camera = keys.load(keys.create("Camera Works", tmp_path / "camera"))
    path, photo = tmp_path / "clip.mp4", tmp_path / "photo.mp4"
    write_clip(path)
    actions = [
        {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"}
    ]
    manifest = {
        "claim_generator_info": [{"name": "Camera", "version": "2"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }
    info = c2pa.C2paSignerInfo(b"es256", camera.chain, camera.key, None)
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest, c2pa.Context.from_dict(sign.OFFLINE)) as builder:
        content = (
            path.read_bytes()
            .replace(b"trainedAlgorithmicMedia", b"digitalCapture.........")
            .replace(b"ai_generated", b"xx_generated")
        )
        path.write_bytes(content)
        with path.open("rb") as source, photo.open("w+b") as target:
            builder.sign(signer, "video/mp4", source, target)
    report = examine(photo, own_root(device))
    assert (report.signature.state, report.signature.signer) == ("valid", "Camera Works")
    assert report.signature.sources == ("digitalCapture",)
    assert not report.generated
    assert report.to_json()["generated"] is None
    assert "It is unchanged since Camera Works signed it" in report.words()[0]
    assert "says nothing about how it was made" in report.words()[0]
