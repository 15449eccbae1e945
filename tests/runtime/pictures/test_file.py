"""Pictures in every form that people have them, and files that are none: read as Pillow reads them, or refused in a line."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from edgereel.core.errors import UsageError
from edgereel.runtime.pictures import file as reading
from edgereel.runtime.pictures.file import read_picture

pytestmark = pytest.mark.lean


def smooth(width=48, height=32, colours=3):
    """Return a picture without sharp edges, so that how chroma is interpolated matters little."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 110 * np.sin(rows / (7 + 3 * c) + columns / (11 - 2 * c) + c) for c in range(colours)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def content_of(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_of_every_mode(tmp_path, mode, interlaced):
    image = Image.fromarray(smooth()).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(smooth(colours=1)[..., 0]))
    read = read_picture(saved(image, tmp_path / "a.png", interlace=int(interlaced)))
    expected = Image.new("RGBA", image.size, "white")
    expected.alpha_composite(image.convert("RGBA"))
    assert np.abs(read.astype(int) - np.asarray(expected.convert("RGB"))).max() <= 1


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}, {"grey": True}]
)
def test_jpeg(tmp_path, options):
    image = Image.fromarray(smooth(80, 64)).convert("L" if options.pop("grey", False) else "RGB")
    path = saved(image, tmp_path / "a.jpg", quality=95, **options)
    difference = np.abs(read_picture(path).astype(int) - np.asarray(Image.open(path).convert("RGB")))
    assert difference.max() <= 3
    assert difference.mean() < 0.6


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp(tmp_path, lossless, mode):
    image = Image.fromarray(smooth(80, 64)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(smooth(80, 64, 1)[..., 0]))
    path = saved(image, tmp_path / "a.webp", lossless=lossless, quality=95, exact=True)
    expected = Image.new("RGBA", image.size, "white")
    expected.alpha_composite(Image.open(path).convert("RGBA"))
    difference = np.abs(read_picture(path).astype(int) - np.asarray(expected.convert("RGB")))
    assert difference.max() <= (1 if lossless else 4)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_way_up_that_exif_tells(tmp_path, kind, orientation):
    image = Image.fromarray(smooth())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    path = saved(image, tmp_path / f"a.{kind}", exif=exif, **options)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    read = read_picture(path)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).max() <= 3


def profile_of(primaries, curve, kind=b"RGB "):
    """Return an ICC profile of three primaries (their XYZ under D50) and a curve each."""
    tags = [(name + b"XYZ", b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in primary))
            for name, primary in zip((b"r", b"g", b"b"), primaries, strict=True)]  # fmt: skip
    tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    white = b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags += [(b"wtpt", white), (b"desc", text), (b"cprt", b"text\0\0\0\0none\0")]
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", kind, b"XYZ ") + bytes(12) + b"acsp"
    head += bytes(128 - 12 - len(head) - 16) + bytes(16)
    illuminant = b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    head = head[:68] + illuminant + head[80:128]
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


P3 = [(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)]
TABLE = [round(65535 * (index / 63) ** 1.8) for index in range(64)]
SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CURVES = {
    "gamma 2.2": b"curv\0\0\0\0" + struct.pack(">IH", 1, 563),
    "a table": b"curv\0\0\0\0" + struct.pack(">I64H", 64, *TABLE),
    "sRGB's, in parameters": b"para\0\0\0\0\0\x03\0\0" + struct.pack(">5i", *(round(v * 65536) for v in SRGB)),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_colour_profiles_are_applied_as_littlecms_applies_them(tmp_path, curve, kind):
    profile = profile_of(P3, CURVES[curve])
    image = Image.fromarray(smooth())
    options = {"quality": 100, "subsampling": 0} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    path = saved(image, tmp_path / f"a.{kind}", icc_profile=profile, **options)
    opened = Image.open(path).convert("RGB")
    expected = ImageCms.profileToProfile(
        opened, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    read = read_picture(path).astype(int)
    difference = np.abs(read - np.asarray(expected))
    assert difference.max() <= 2 or (
        kind == "jpg" and difference.mean() < 0.6
    )  # a level apart may be many in dark places
    assert np.abs(read - np.asarray(opened)).max() > 10


def test_a_profile_that_is_srgb_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(Image.fromarray(smooth()), tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(read_picture(path), smooth())


def test_arrays_are_taken_as_they_are():
    assert read_picture(smooth()).shape == (32, 48, 3)
    for wrong in (smooth().astype(np.float32), smooth()[..., 0], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UsageError, match=r"must be uint8 \[H, W, 3\]"):
            read_picture(wrong)
    with pytest.raises(UsageError, match="give a file's path"):
        read_picture(7)


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with_header(width, height, depth=8):
    """Return a PNG whose header says that size, with the pixels of a small one."""
    whole = content_of(Image.fromarray(smooth(4, 4)), "PNG")
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return whole[:8] + header + whole[8 + 25 :]


def with_chunk(content, name, data):
    return content[:33] + png_chunk(name, data) + content[33:]


def jpeg_with_size(width, height):
    content = content_of(Image.fromarray(smooth(16, 16)), "JPEG")
    at = content.index(b"\xff\xc0")
    return content[: at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]


def animated(kind):
    frames = [Image.fromarray(np.roll(smooth(), shift, axis=0)) for shift in (0, 3)]
    return content_of(frames[0], kind, save_all=True, append_images=frames[1:])


PNG = content_of(Image.fromarray(smooth()), "PNG")
JPEG = content_of(Image.fromarray(smooth()), "JPEG", quality=95)
WEBP = content_of(Image.fromarray(smooth()), "WEBP", lossless=True)

REFUSED = {
    "nothing": (b"", "is not a PNG, JPEG or WebP picture"),
    "text": (b"hello, world, this is a text", "is not a PNG, JPEG or WebP picture"),
    "a GIF": (content_of(Image.fromarray(smooth()), "GIF"), "is not a PNG, JPEG or WebP picture"),
    "a sound": (b"RIFF\x24\0\0\0WAVEfmt ", "is not a PNG, JPEG or WebP picture"),
    "half a PNG": (PNG[: len(PNG) // 2], "is cut short"),
    "a PNG without its end": (PNG[:-12], "is cut short"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "is cut short"),
    "a JPEG without its end": (JPEG[:-2], "is cut short"),
    "a JPEG that ends in its headers": (JPEG[:30], "is cut short"),
    "half a WebP": (WEBP[: len(WEBP) // 2], "is cut short"),
    "an animated PNG": (animated("PNG"), "is animated"),
    "an animated WebP": (animated("WEBP"), "is animated"),
    "a JPEG for print": (content_of(Image.fromarray(smooth(colours=4), "CMYK"), "JPEG"), "CMYK"),
    "16 bits": (
        content_of(Image.fromarray(smooth(colours=1)[..., 0].astype(np.uint16) * 256), "PNG"),
        "16 bits a colour",
    ),
    "a PNG that says it is huge": (png_with_header(40_000, 40_000), "more than 67 million"),
    "a JPEG that says it is huge": (jpeg_with_size(60_000, 60_000), "more than 67 million"),
    "a PNG whose header lies": (png_with_header(40, 40), "is damaged"),
    "a PNG of no pixels": (png_with_header(0, 4), "no pixels"),
    "a JPEG of no pixels": (jpeg_with_size(0, 16), "no pixels"),
    "a JPEG whose header lies": (jpeg_with_size(640, 480), "is damaged"),
    "a flipped byte in a PNG": (PNG[:-30] + bytes([PNG[-30] ^ 1]) + PNG[-29:], "a checksum differs"),
    "a profile that unpacks without end": (
        with_chunk(PNG, b"iCCP", b"x\0\0" + zlib.compress(bytes(2**24))),
        "a colour profile of more than",
    ),
    "a profile of noise": (with_chunk(PNG, b"iCCP", b"x\0\0" + zlib.compress(bytes(range(256)))), "colour profile"),
    "a profile that cannot be unpacked": (with_chunk(PNG, b"iCCP", b"x\0\0nonsense"), "colour profile"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, case):
    content, reason = REFUSED[case]
    path = tmp_path / "picture"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        read_picture(path)
    assert reason in str(refusal.value)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    path.write_bytes(png_with_header(40_000, 40_000))
    monkeypatch.setattr(reading, "_decode", lambda container: pytest.fail("was decoded"))
    with pytest.raises(UsageError, match="scale it down"):
        read_picture(path)
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(reading.LARGEST_FILE + 1)
    with pytest.raises(UsageError, match="more than 256 MiB"):
        read_picture(tmp_path / "sparse.png")


def test_places_where_there_is_no_picture(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        read_picture(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        read_picture(tmp_path / "nothing.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(UsageError, match="is not a file"):
            read_picture(tmp_path / "pipe.png")


@pytest.mark.parametrize("whole", [PNG, JPEG, WEBP], ids=["png", "jpeg", "webp"])
def test_damage_anywhere_is_a_line_or_a_picture(tmp_path, whole):
    """A decoder may not notice a flipped bit of a pixel; nothing else may come out than a picture of that size or a line."""
    generator = np.random.default_rng(0)
    path = tmp_path / "picture"
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for at in generator.integers(0, len(whole), 2):
            content[at] = generator.integers(0, 256)
        path.write_bytes(bytes(content[: len(whole) - int(generator.integers(0, 2)) * int(generator.integers(1, 40))]))
        line = ""
        try:
            assert read_picture(path).dtype == np.uint8
        except UsageError as error:
            line = str(error)
        refused += bool(line)
        assert "\n" not in line
    assert refused > 30
