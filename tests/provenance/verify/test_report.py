"""What is said of files from anywhere: no claim without a mark, no crash on what is damaged."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
from helpers.marked_clips import pictures, write_clip

from edgereel.core.errors import UsageError
from edgereel.provenance.marks import Marks
from edgereel.provenance.verify.report import examine

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.lean


def foreign(path, codec="libx264"):
    """Write a video as any other program does."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for frame in pictures(96, 72, 4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def examined(path):
    """Return the report on a file, None where it is refused in words that name it."""
    try:
        return examine(path)
    except UsageError as error:
        refusal = str(error)
    assert path.name in refusal
    assert "no picture or video of a known kind" in refusal
    return None


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of many kinds that no one marked."""
    folder = tmp_path_factory.mktemp("foreign")
    picture = Image.fromarray(pictures(96, 72, 1)[0])
    moving = [Image.fromarray(frame) for frame in pictures(96, 72, 3)]
    made = []
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "a.gif"):
        picture.save(folder / name)
        made.append(folder / name)
    for name in ("moving.gif", "moving.webp", "moving.png"):
        moving[0].save(folder / name, save_all=True, append_images=moving[1:])
        made.append(folder / name)
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mov", "mpeg4")):
        made.append(foreign(folder / name, codec))
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(folder / "dot.png")
    return [*made, folder / "dot.png"]


def test_unmarked_files_are_not_claimed(files):
    for path in files:
        report = examine(path)
        assert not report.generated, path
        assert not report.altered, path
        facts = json.loads(json.dumps(report.to_json()))
        assert facts["generated"] is None, "never false"
        assert facts["signature"]["state"] in ("none", "unchecked"), (path, facts["signature"])
        assert "says nothing about how it was made" in report.words()[0]
        assert "not AI" not in " ".join(report.words())
        assert "human" not in " ".join(report.words())


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_looked_at_all_the_same(seed, files, tmp_path):
    """Cut off, overwritten, with zeros in them: a report or one line that names the file."""
    random = np.random.default_rng(seed)
    for path in files[seed::2]:
        content = bytearray(path.read_bytes())
        start = int(random.integers(0, len(content)))
        if seed == 0:
            del content[start:]
        elif seed == 1:
            content[start : start + 200] = random.bytes(min(200, len(content) - start))
        else:
            content[start : start + 200] = bytes(min(200, len(content) - start))
        damaged = tmp_path / path.name
        damaged.write_bytes(content)
        report = examined(damaged)
        assert report is None or not (report.generated or report.altered), report
        assert report is None or json.dumps(report.to_json())


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG", b"hello, world, this is text", bytes(5000), b"GIF89a", b"\0\0\0\x08ftyp"]
)
def test_what_is_no_picture_is_refused_or_unmarked(content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    report = examined(path)
    assert report is None or (report.unwatchable and not report.generated)


def test_metadata_of_others_are_read(tmp_path):
    """The IPTC's term as an attribute, as other programs write it; a camera's term is not a model's."""
    picture = Image.fromarray(pictures(96, 72, 1)[0])
    for term, generated in (("trainedAlgorithmicMedia", True), ("digitalCapture", False)):
        packet = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{term}"/>'
            "</rdf:RDF></x:xmpmeta>"
        )
        path = tmp_path / f"{term}.jpg"
        picture.save(path, xmp=packet.encode())
        report = examine(path)
        assert report.metadata.source_type == term
        assert report.generated == generated


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "folder"])
def test_our_own_metadata_are_found_in_every_format(name, tmp_path):
    path = tmp_path / name
    write_clip(path)
    report = examine(path / "0001.png" if path.is_dir() else path)
    assert report.metadata.source_type == "trainedAlgorithmicMedia"
    assert report.metadata.note
    assert report.generated
    assert "nothing proves who wrote that" in report.words()[0]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
def test_a_watermark_alone_is_found_in_every_format(name, tmp_path):
    path = tmp_path / name
    record = write_clip(path, Marks(True, None, maker=0xABC))
    assert record["watermark"].startswith("000abc-")
    assert not record["signed"]
    assert str(examine(path).watermark.payload) == record["watermark"]


def test_large_pictures_are_made_smaller_before_they_are_searched(tmp_path):
    from edgereel.provenance.verify.frames import lumas

    Image.fromarray(np.zeros((300, 4000, 3), np.uint8)).save(tmp_path / "wide.png")
    assert next(lumas(tmp_path / "wide.png", "image/png")).shape == (96, 1280)
