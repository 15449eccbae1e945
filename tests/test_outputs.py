"""GIF, WebP and folders of PNGs: read back as others read them, and never half there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from edgereel.errors import GeometryError, OutputError, UsageError
from edgereel.runtime import gif, png, webp
from edgereel.runtime.outputs import SUFFIXES, check_fps, check_output, format_of, write_output
from edgereel.runtime.png import write_pngs

NAMES = ["clip.gif", "clip.webp", "clip"]
SETTINGS = '{"ai_generated": true, "prompt": "a r\u00e9d ball \u2603 <&> \U0001f388", "text": "' + "word " * 200 + '"}'
METADATA = {"title": "a réd ball ☃ <&>", "description": "AI-generated video", "comment": SETTINGS}


def clip(count=5, height=48, width=64):
    """Smooth moving colours, uint8 [H, W, 3] each."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    for index in range(count):
        red = 127 + 120 * np.sin(4 * x + index / 5)
        green = 127 + 120 * np.sin(4 * y + 2)
        blue = 127 + 120 * np.cos(2.5 * (x + y) - index / 7)
        yield np.stack([red, green, blue], -1).astype(np.uint8)


def read_back(path):
    """Return the frames of an output as uint8 [F, H, W, 3] and how long each is shown in ms (None for PNGs)."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.iterdir())]), None
    frames, durations = [], []
    with Image.open(path) as image:
        assert image.info.get("loop") == 0
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return np.stack(frames), durations


def contents(path):
    """Return what is at a path, a folder's files by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()} if path.is_dir() else path.read_bytes()


def signal_to_noise(ours, theirs):
    return 10 * np.log10(255**2 / max(1e-9, ((ours.astype(float) - theirs) ** 2).mean()))


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (1, 1), (2, 300), (480, 832)])
@pytest.mark.parametrize("name", NAMES)
def test_frames_come_back_as_they_went_in(tmp_path, name, size):
    frames = np.stack(list(clip(3, *size)))
    assert write_output(tmp_path / name, iter(frames), 8, METADATA, 3) == 3
    read, _ = read_back(tmp_path / name)
    assert read.shape == frames.shape
    if name == "clip.gif":
        assert signal_to_noise(read, frames) > 28
    else:
        np.testing.assert_array_equal(read, frames)


@pytest.mark.parametrize("name", NAMES)
def test_noise_comes_back_too(tmp_path, name):
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    write_output(tmp_path / name, frames, 8, {})
    read, _ = read_back(tmp_path / name)
    if name != "clip.gif":
        np.testing.assert_array_equal(read, frames)


def test_a_gif_of_few_colours_is_nearly_exact(tmp_path):
    frames = np.random.default_rng(0).choice([0, 60, 130, 255], (4, 30, 30, 3)).astype(np.uint8)
    write_output(tmp_path / "clip.gif", frames, 8, {})
    assert np.abs(read_back(tmp_path / "clip.gif")[0].astype(int) - frames).max() <= 4


@pytest.mark.parametrize("decoder", ["pillow", "ffmpeg"])
def test_a_gif_keeps_nothing_of_the_frame_before(tmp_path, decoder):
    """Frames that are all alike, all different, and differ in a corner: what an encoder of differences gets wrong."""
    frames = np.zeros((8, 40, 50, 3), np.uint8)
    frames[2:] = (250, 30, 60)
    frames[4:, :5, :5] = (0, 255, 0)
    frames[5:] = (10, 200, 220)
    frames[6] = next(clip(1, 40, 50))
    write_output(tmp_path / "clip.gif", frames, 10, {})
    if decoder == "pillow":
        read, _ = read_back(tmp_path / "clip.gif")
    else:
        with av.open(str(tmp_path / "clip.gif")) as container:
            read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read.shape == frames.shape
    for index in range(8):
        assert signal_to_noise(read[index], frames[index]) > 28, index


def test_a_gif_dithers(tmp_path):
    """A gradient of far more than 256 colours: the mean over small blocks is nearer than single pixels can be."""
    frame = next(clip(1, 240, 320))
    write_output(tmp_path / "clip.gif", [frame], 10, {})
    read = read_back(tmp_path / "clip.gif")[0][0]

    def blurred(picture):
        return picture.reshape(60, 4, 80, 4, 3).astype(float).mean((1, 3))

    assert signal_to_noise(blurred(read), blurred(frame)) > signal_to_noise(read, frame) + 5


@pytest.mark.parametrize("fps", [1, 7, 8, 16, 24, 30, 50])
@pytest.mark.parametrize(("name", "unit"), [("clip.gif", 10), ("clip.webp", 1)])
def test_times_add_up(tmp_path, name, unit, fps):
    write_output(tmp_path / name, clip(33, 4, 4), fps, {})
    _, durations = read_back(tmp_path / name)
    assert len(durations) == 33
    assert max(durations) - min(durations) <= unit
    assert abs(sum(durations) - Fraction(33 * 1000, fps)) <= unit / 2
    if (name, fps) == ("clip.gif", 8):
        assert durations[:4] == [130, 120, 130, 120]


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_a_speed_that_no_player_shows_is_refused(tmp_path, name):
    fastest = {"clip.gif": 50, "clip.webp": 90}[name]
    check_fps(name, fastest)
    with pytest.raises(UsageError, match=f"browsers play at most {fastest}"):
        write_output(tmp_path / name, clip(), fastest + 1, {})
    for write in (gif.write_gif, webp.write_webp):
        with pytest.raises(ValueError, match="fps"):
            write(tmp_path / name, clip(), 0, {})
    for other in ("clip.mp4", "clip"):
        check_fps(other, 240)
    assert list(tmp_path.iterdir()) == []


def test_a_gif_says_what_it_is(tmp_path):
    write_output(tmp_path / "clip.gif", clip(), 8, METADATA)
    with Image.open(tmp_path / "clip.gif") as image:
        comment = image.info["comment"]
    title, description, settings = comment.decode("ascii").split("\n")
    assert title == "a r\\u00e9d ball \\u2603 <&>"
    assert description == "AI-generated video"
    assert "\\ud83c\\udf88" in settings
    assert json.loads(settings) == json.loads(SETTINGS)


def xmp_of(packet):
    """Return the properties of an XMP packet by the last part of their names."""
    return {
        element.tag.rsplit("}")[-1]: "".join(element.itertext())
        for element in ElementTree.fromstring(packet.strip()).iter("*")
    }


@pytest.mark.parametrize("name", ["clip.webp", "clip"])
def test_xmp_says_what_it_is(tmp_path, name):
    write_output(tmp_path / name, clip(), 8, METADATA)
    path = tmp_path / name if name == "clip.webp" else tmp_path / name / "0002.png"
    with Image.open(path) as image:
        packet = image.info["xmp"]
    properties = xmp_of(packet)
    assert properties["title"] == METADATA["title"]
    assert properties["description"] == "AI-generated video"
    assert properties["DigitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert properties.get("UserComment") == (SETTINGS if name == "clip.webp" else None)


def test_xmp_stays_xml_whatever_the_text(tmp_path):
    write_output(tmp_path / "clip.webp", clip(), 8, {"title": "a\x00\x1b]]>\udc80&b"})
    with Image.open(tmp_path / "clip.webp") as image:
        assert xmp_of(image.info["xmp"])["title"] == "a\ufffd\ufffd]]>?&b"


def test_each_png_says_what_it_is(tmp_path):
    write_output(tmp_path / "clip", clip(), 8, METADATA, 5)
    for file in (tmp_path / "clip").iterdir():
        with Image.open(file) as image:
            image.load()
            text = image.text
        assert {key: text[key] for key in ("Title", "Description", "Comment", "Software")} == {
            "Title": METADATA["title"],
            "Description": "AI-generated video",
            "Comment": SETTINGS,
            "Software": "edgereel",
        }


def test_a_webp_is_laid_out_as_its_specification_says(tmp_path):
    write_output(tmp_path / "clip.webp", clip(3, 33, 47), 8, METADATA)
    data = (tmp_path / "clip.webp").read_bytes()
    assert data[:4] + data[8:12] == b"RIFFWEBP"
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    position, names = 12, []
    while position < len(data):
        names.append(data[position : position + 4])
        position += 8 + (int.from_bytes(data[position + 4 : position + 8], "little") + 1) // 2 * 2
    assert position == len(data)
    assert names == [b"VP8X", b"ANIM", b"ANMF", b"ANMF", b"ANMF", b"XMP "]


def test_names_of_pngs_have_digits_enough(tmp_path):
    assert write_pngs(tmp_path / "short", clip(2, 1, 1), {}, 2) == 2
    assert sorted(os.listdir(tmp_path / "short")) == ["0001.png", "0002.png"]
    write_pngs(tmp_path / "long", clip(1, 1, 1), {}, 12345)
    assert os.listdir(tmp_path / "long") == ["00001.png"]
    write_pngs(tmp_path / "long", clip(2, 1, 1), {}, 2)
    assert sorted(os.listdir(tmp_path / "long")) == ["0001.png", "0002.png"]


@pytest.mark.parametrize("name", NAMES)
def test_same_frames_same_bytes(tmp_path, name):
    frames = list(clip(6))
    results = []
    for rubbish in range(6):
        np.full(100_000 + rubbish, rubbish, np.uint8)
        write_output(tmp_path / name, iter(frames), 8, METADATA)
        results.append(contents(tmp_path / name))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.mp4", "mp4"), ("a.GIF", "gif"), ("x/a.b.webp", "webp"), ("a", "png"), ("folder.gif/a", "png"), (".a", "png")],
)
def test_the_name_says_the_format(name, expected):
    assert format_of(name) == expected


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("a.avi", r"\.avi is no known suffix: end it in \.mp4, \.gif or \.webp, or leave"),
        ("a.png", r"\.png is no known"),
        ("v1.5", r"\.5 is no known"),
        ("a.", r"\. is no known"),
        ("x/.gif", r"the name before \.gif is missing"),
        (".MP4", "is missing"),
    ],
)
def test_names_of_no_format(tmp_path, name, complaint):
    for attempt in (format_of, lambda name: check_output(tmp_path / name)):
        with pytest.raises(UsageError, match=complaint):
            attempt(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("frames", "error", "complaint"),
    [
        ([], ValueError, "no frames"),
        ([np.zeros((64, 64, 3), np.float32)], ValueError, "uint8"),
        ([np.zeros((64, 64), np.uint8)], ValueError, r"\[64, 64\]"),
        ([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)], ValueError, "one size"),
        ([np.zeros((0, 64, 3), np.uint8)], GeometryError, "64x0"),
        ([np.zeros((1, 70_000, 3), np.uint8)], GeometryError, "70000x1 cannot be written"),
    ],
)
def test_frames_of_another_kind_are_refused(tmp_path, name, frames, error, complaint):
    with pytest.raises(error, match=complaint):
        write_output(tmp_path / name, frames, 16, {})
    assert os.listdir(tmp_path) == []


def write_old(path):
    """Write an earlier output and return what it is."""
    write_output(path, clip(2, 8, 8), 4, {"title": "old"})
    return contents(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("the decoder died"), OSError(28, "elsewhere")])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_failure_on_the_way_leaves_the_old_output(tmp_path, name, failure, after):
    old = write_old(tmp_path / name)

    def frames():
        yield from clip(after)
        raise failure

    with pytest.raises(type(failure)) as caught:
        write_output(tmp_path / name, frames(), 16, {})
    assert caught.value is failure
    assert os.listdir(tmp_path) == [name]
    assert contents(tmp_path / name) == old


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_output_is_replaced_only_at_the_end(tmp_path, name):
    old = write_old(tmp_path / name)

    def frames():
        for frame in clip(12):
            assert contents(tmp_path / name) == old
            yield frame

    write_output(tmp_path / name, frames(), 16, {})
    assert len(read_back(tmp_path / name)[0]) == 12
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_an_output_through_a_link_is_written_where_it_points(tmp_path, name):
    (tmp_path / "real").mkdir()
    link = tmp_path / f"link{Path(name).suffix}"
    link.symlink_to(tmp_path / "real" / name)
    for _ in range(2):
        write_output(link, clip(2), 16, {})
        assert link.is_symlink()
        assert len(read_back(tmp_path / "real" / name)[0]) == 2


# --- folders


@pytest.mark.parametrize(
    "strange",
    [
        {"notes.txt": b"mine"},
        {"0001.png": b"mine"},
        {"0001.png": "ours", "0002.png": b"\x89PNG mine"},
        {"0001.png": "ours", "notes.txt": b"mine"},
        {"0002.png": "ours"},
        {"0001.png": "ours", "sub": None},
        {"0001.png": "link"},
        {"0001.png": None},
    ],
    ids=str,
)
def test_a_folder_with_something_else_in_it_is_never_touched(tmp_path, strange):
    write_pngs(tmp_path / "made", clip(1), {})
    ours = tmp_path / "made" / "0001.png"
    folder = tmp_path / "clip"
    folder.mkdir()
    for name, content in strange.items():
        if content is None:
            (folder / name).mkdir()
        elif content == "link":
            (folder / name).symlink_to(ours)
        else:
            (folder / name).write_bytes(ours.read_bytes() if content == "ours" else content)
    before = sorted(folder.rglob("*")), {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for attempt in (check_output, lambda path: write_output(path, clip(), 8, {})):
        with pytest.raises(OutputError, match="holds something other than the frames of an earlier clip"):
            attempt(folder)
    assert before == (
        sorted(folder.rglob("*")),
        {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()},
    )
    assert sorted(os.listdir(tmp_path)) == ["clip", "made"]


def test_a_file_that_comes_into_the_folder_while_writing_is_kept(tmp_path):
    folder = tmp_path / "clip"
    old = write_old(folder)

    def frames():
        yield from clip(3)
        (folder / "notes.txt").write_text("mine")

    with pytest.raises(OutputError, match="holds something other"):
        write_output(folder, frames(), 8, {})
    assert contents(folder) == {**old, "notes.txt": b"mine"}
    assert os.listdir(tmp_path) == ["clip"]


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_a_failure_while_folders_change_places(tmp_path, monkeypatch, step, failure):
    folder = tmp_path / "clip"
    old = write_old(folder)
    rename, calls = os.rename, []

    def failing(*paths):
        calls.append(paths)
        if len(calls) == step:
            raise failure
        rename(*paths)

    monkeypatch.setattr(png.os, "rename", failing)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        write_output(folder, clip(5), 8, {})
    assert contents(folder) == old
    assert os.listdir(tmp_path) == ["clip"]


def test_empty_folders_may_be_used(tmp_path):
    (tmp_path / "clip").mkdir()
    write_output(tmp_path / "clip", clip(2), 8, {})
    assert len(os.listdir(tmp_path / "clip")) == 2


def test_folders_in_use_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    for path in (".", "..", tmp_path / "a"):
        with pytest.raises(OutputError, match=r"cannot write .*this folder is in use"):
            check_output(path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file is in the place of the folder"):
        check_output(tmp_path / "file")
    with pytest.raises(OutputError, match="missing does not exist"):
        check_output(tmp_path / "missing" / "clip")
    assert sorted(os.listdir(tmp_path)) == ["a", "file"]


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    from edgereel.runtime import writing

    for module, name in ((gif, "clip.gif"), (webp, "clip.webp"), (png, "clip")):
        monkeypatch.setattr(module, "require_encoder", lambda *_: writing.require_encoder("no_such", "best"))
        with pytest.raises(OutputError, match=r"PyAV \d.* has no no_such, the best encoder.*pip install"):
            write_output(tmp_path / name, clip(2), 16, {})
    assert os.listdir(tmp_path) == []


# --- in processes of their own


def python_in(path, code, prefix=()):
    """Run code in a process of its own, where `noise` are frames that compress badly and `path` is the output."""
    preamble = f"""
        import os, resource, shutil, signal
        import numpy as np
        from pathlib import Path
        from edgereel.runtime.outputs import write_output
        generator = np.random.default_rng(0)
        path = {str(path)!r}
        def noise(count):
            for _ in range(count):
                yield generator.integers(0, 256, (64, 64, 3), np.uint8)
        def contents():
            files = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]
            return [(file.name, file.read_bytes()) for file in files]
    """
    program = textwrap.dedent(preamble) + textwrap.dedent(code)
    return subprocess.run([*prefix, sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
@pytest.mark.parametrize("name", NAMES)
def test_every_size_at_which_writing_can_fail_is_noticed(tmp_path, name):
    code = """
        write_output(path, noise(3), 16, {"title": "x" * 500})
        size = max(len(content) for _, content in contents())
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        for limit in [*range(0, size, size // 20), size - 1]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            generator = np.random.default_rng(0)
            try:
                write_output(path, noise(3), 16, {"title": "x" * 500})
            except Exception as error:
                assert str(error) == f"cannot write {path}: File too large", repr(error)
            else:
                raise AssertionError(f"{limit} of {size} bytes passed")
            assert os.listdir(os.path.dirname(path)) == []
        print("done")
    """
    finished = python_in(tmp_path / name, code)
    assert (finished.stdout, finished.stderr) == ("done\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces")
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(tmp_path, name):
    mount = f'mount -t tmpfs -o size=96k none "{tmp_path}" && exec "$@"'
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "-"]
    try:
        possible = subprocess.run([*inside, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no right to mount a small file system")
    code = """
        write_output(path, noise(1), 16, {})
        old = contents()
        try:
            write_output(path, noise(200), 16, {})
        except Exception as error:
            print(type(error).__name__, str(error))
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
        assert contents() == old
    """
    finished = python_in(tmp_path / name, code, inside)
    expected = f"OutputError cannot write {tmp_path / name}: No space left on device\n"
    assert (finished.stdout, finished.stderr) == (expected, "")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_the_clip(tmp_path, name):
    code = """
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
        def moving(count):
            picture = generator.integers(0, 256, (160, 240, 3), np.uint8)
            for index in range(count):
                yield np.roll(picture, index, 1)
        write_output(path, moving(10), 16, {})
        short = peak()
        write_output(path, moving(150), 16, {})
        print(short * 1024, peak() * 1024)
    """
    finished = python_in(tmp_path / name, code)
    short, long = map(int, finished.stdout.split())
    assert long - short < 4e6, "the 140 more frames are 16 MB raw, and not much less in a file"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", NAMES)
def test_control_c_leaves_nothing(tmp_path, name):
    code = """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
        def interrupted():
            yield from noise(20)
            os.kill(os.getpid(), signal.SIGINT)
            yield from noise(20)
        write_output(path, interrupted(), 16, {})
    """
    finished = python_in(tmp_path / name, code)
    assert finished.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in finished.stderr
    assert os.listdir(tmp_path) == []


def test_every_format_has_a_test():
    assert {format_of(name) for name in NAMES} | {"mp4"} == set(SUFFIXES)
