from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers import pictures
from helpers.pictures import write_mp4
from helpers.small_disk import small_disk

from edgereel.core.errors import GeometryError, OutputError, UsageError
from edgereel.demo.clips import Subject, render
from edgereel.runtime.video import mp4 as video
from edgereel.runtime.video.output import Output

pytestmark = pytest.mark.lean

SETTINGS = {"title": "a réd ball ☃", "comment": '{"seed": 7, "prompt": "' + "word " * 2000 + '"}'}


def clip(count=17, height=64, width=96):
    """Smooth moving colours that differ between the channels, uint8 [H, W, 3] each."""
    return pictures.clip(count, height, width)


def read_video(path):
    """Return the frames of a video as uint8 [F, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def peak_signal_to_noise(ours, theirs):
    """Return dB per channel."""
    error = (ours.astype(np.float64) - theirs.astype(np.float64)) ** 2
    return 10 * np.log10(255**2 / error.mean(axis=(0, 1, 2)))


def top_level_boxes(data):
    position, names = 0, []
    while position < len(data):
        names.append(data[position + 4 : position + 8].decode())
        position += int.from_bytes(data[position : position + 4], "big")
    return names


@pytest.mark.parametrize("size", [(64, 96), (128, 128), (34, 2), (480, 832)])
def test_frames_come_back_as_they_went_in(tmp_path, size):
    path = tmp_path / "clip.mp4"
    assert write_mp4(path, clip(9, *size), 16, {}) == 9
    decoded = read_video(path)
    assert decoded.shape == (9, *size, 3)
    if min(size) > 2:
        assert peak_signal_to_noise(decoded, np.stack(list(clip(9, *size)))).min() > 35


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 200, 30), (0, 0, 0), (255, 255, 255)])
def test_colours_are_right(tmp_path, colour):
    path = tmp_path / "clip.mp4"
    write_mp4(path, [np.full((64, 64, 3), colour, np.uint8)] * 3, 8, {})
    assert np.abs(read_video(path).astype(int) - colour).max() <= 3


@pytest.mark.parametrize("fps", [1, 16, 24, 60, Fraction(24000, 1001), Fraction(25, 2)])
def test_the_stream_is_what_players_expect(tmp_path, fps):
    path = tmp_path / "clip.mp4"
    write_mp4(path, clip(17), fps, {})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == fps
        assert stream.frames == 17
        assert float(stream.duration * stream.time_base) == pytest.approx(float(17 / fps), abs=1e-3)
        assert stream.start_time == 0
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([float(index / fps) for index in range(17)], abs=1e-3)
    boxes = top_level_boxes(path.read_bytes())
    assert boxes.index("moov") < boxes.index("mdat")


def test_metadata_comes_back(tmp_path):
    path = tmp_path / "clip.mp4"
    everything = {key: f"value of {key}" for key in video.METADATA_KEYS} | {"date": "2024"} | SETTINGS
    write_mp4(path, clip(2), 16, everything)
    with av.open(str(path)) as container:
        read = container.metadata
    assert {key: read.get(key) for key in everything} == everything
    assert "creation_time" not in read


def test_same_frames_same_bytes(tmp_path):
    """Many times, with other rubbish in memory each time: an encoder that reads what it never wrote shows it rarely."""
    rng = np.random.default_rng()
    subject = Subject("ball", "red", "bounces", "ocean")
    frames = render(subject, np.random.RandomState(0))
    files = set()
    for _ in range(40):
        rubbish = [rng.integers(0, 255, rng.integers(1000, 400_000), dtype=np.uint8) for _ in range(8)]
        del rubbish
        write_mp4(tmp_path / "clip.mp4", iter(frames), 16, SETTINGS)
        files.add((tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 1


def test_a_lower_crf_is_a_better_picture(tmp_path):
    for crf in (10, 40):
        write_mp4(tmp_path / f"{crf}.mp4", clip(), 16, {}, crf=crf)
    assert (tmp_path / "10.mp4").stat().st_size > (tmp_path / "40.mp4").stat().st_size


def test_frames_are_let_go_as_they_are_written(tmp_path):
    alive = weakref.WeakSet()
    most = 0

    class Kept(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def frames():
        nonlocal most
        for frame in clip(60):
            kept = frame.view(Kept)
            alive.add(kept)
            most = max(most, len(alive))
            del frame
            yield kept

    write_mp4(tmp_path / "clip.mp4", frames(), 16, {})
    assert most <= 2


def test_arrays_of_any_memory_layout(tmp_path):
    path = tmp_path / "clip.mp4"
    frames = list(clip(3))
    write_mp4(path, (np.asfortranarray(frame) for frame in frames), 16, {})
    assert peak_signal_to_noise(read_video(path), np.stack(frames)).min() > 35


def test_an_output_through_a_link_is_written_where_it_points(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.mp4"
    link.symlink_to(tmp_path / "real" / "clip.mp4")
    write_mp4(link, clip(2), 16, {})
    assert link.is_symlink()
    assert len(read_video(tmp_path / "real" / "clip.mp4")) == 2


@pytest.mark.skipif(os.name == "nt", reason="permission bits")
def test_the_file_is_as_readable_as_any_other(tmp_path):
    other = tmp_path / "other"
    other.touch()
    write_mp4(tmp_path / "clip.mp4", clip(1), 16, {})
    assert stat.S_IMODE((tmp_path / "clip.mp4").stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


@pytest.mark.parametrize("name", ["x" * 251 + ".mp4", "50% {done}: né ☃.mp4", "-o.MP4"])
def test_odd_file_names(tmp_path, name):
    write_mp4(tmp_path / name, clip(2), 16, {})
    assert os.listdir(tmp_path) == [name]


def test_a_relative_path_with_a_colon_is_not_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("http:")
    write_mp4("http:/clip.mp4", clip(2), 16, {})
    assert os.listdir("http:") == ["clip.mp4"]


def never():
    raise AssertionError("a frame was asked for")
    yield


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("clip.avi", ".avi is no known suffix"),
        ("missing/clip.mp4", "missing does not exist"),
        ("folder.mp4", "it is a folder"),
        ("file/clip.mp4", r"file does not exist|Not a directory"),
        ("y" * 300 + ".mp4", "name too long"),
        ("pipe.mp4", "not a regular file"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="pipes and links")
def test_paths_that_cannot_be_written(tmp_path, name, complaint):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    before = sorted(os.listdir(tmp_path))
    for attempt in (Output.check, lambda path: write_mp4(path, never(), 16, {})):
        with pytest.raises((OutputError, UsageError), match=complaint) as caught:
            attempt(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_folder_that_takes_no_files():
    """True of /proc even for root, to whom permission bits mean nothing."""
    with pytest.raises(OutputError, match=r"cannot write /proc/clip\.mp4"):
        write_mp4("/proc/clip.mp4", never(), 16, {})


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permission bits do not hold root back")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            Output.check(tmp_path / "clip.mp4")
    finally:
        tmp_path.chmod(0o755)


def test_checking_leaves_nothing_behind(tmp_path):
    path = tmp_path / "clip.mp4"
    assert Output.check(path).path == path.resolve()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("height", "width", "error"), [(63, 64, GeometryError), (64, 97, GeometryError), (0, 0, GeometryError)]
)
def test_odd_sizes_are_refused(tmp_path, height, width, error):
    with pytest.raises(error, match=f"{width}x{height}.*must be even"):
        write_mp4(tmp_path / "clip.mp4", [np.zeros((height, width, 3), np.uint8)], 16, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([], "no frames"),
        ([np.zeros((64, 64, 3), np.float32)], "uint8"),
        ([np.zeros((3, 64, 64), np.uint8)], r"not uint8 \[3, 64, 64\]"),
        ([np.zeros((64, 64), np.uint8)], r"\[64, 64\]"),
        ([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)], "one size"),
    ],
)
def test_frames_of_another_kind_are_refused(tmp_path, frames, complaint):
    with pytest.raises(ValueError, match=complaint):
        write_mp4(tmp_path / "clip.mp4", frames, 16, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"fps": 0}, "fps"), ({"crf": 52}, "crf"), ({"metadata": {"seed": "7"}}, "does not keep seed: use .*comment")],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        write_mp4(tmp_path / "clip.mp4", never(), **{"fps": 16, "metadata": {}} | settings)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("the decoder died"), OSError(28, "elsewhere")])
@pytest.mark.parametrize("after", [0, 1, 60])
def test_a_failure_on_the_way_leaves_the_old_output(tmp_path, failure, after):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the old one")

    def frames():
        yield from clip(after)
        raise failure

    with pytest.raises(type(failure)) as caught:
        write_mp4(path, frames(), 16, {})
    assert caught.value is failure
    assert os.listdir(tmp_path) == ["clip.mp4"]
    assert path.read_bytes() == b"the old one"


def test_an_existing_output_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the old one")

    def frames():
        for frame in clip(40):
            assert path.read_bytes() == b"the old one"
            yield frame

    write_mp4(path, frames(), 16, {})
    assert len(read_video(path)) == 40


def test_an_encoder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_ENCODER", "no_such_encoder")
    with pytest.raises(OutputError, match=r"PyAV \d.* has no no_such_encoder.*pip install"):
        write_mp4(tmp_path / "clip.mp4", clip(2), 16, {})
    assert os.listdir(tmp_path) == []


def python_in(folder, code, prefix=()):
    """Run code in a process of its own, where `noise` are frames that compress badly and `path` is an old output."""
    preamble = f"""
        import os, resource, signal
        import numpy as np
        from edgereel.runtime.video.output import Output
        def write_mp4(path, frames, fps, metadata):
            return Output.check(path).at(fps).write(frames, metadata)
        generator = np.random.default_rng(0)
        path = {str(folder / "clip.mp4")!r}
        def noise(count):
            for _ in range(count):
                yield generator.integers(0, 256, (64, 64, 3), np.uint8)
    """
    program = textwrap.dedent(preamble) + textwrap.dedent(code)
    return subprocess.run([*prefix, sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_every_size_at_which_writing_can_fail_is_noticed(tmp_path):
    """Header, pictures, index, the pass that puts the index in front: a short file never passes for a whole one."""
    code = """
        write_mp4(path, noise(4), 16, {})
        size = os.path.getsize(path)
        os.remove(path)
        for limit in [*range(0, size, size // 40), size - 1]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            generator = np.random.default_rng(0)
            try:
                write_mp4(path, noise(4), 16, {})
            except Exception as error:
                assert str(error) == f"cannot write {path}: File too large", repr(error)
            else:
                raise AssertionError(f"{limit} of {size} bytes passed")
            assert os.listdir(os.path.dirname(path)) == []
        print("done")
    """
    finished = python_in(tmp_path, code)
    assert finished.stdout == "done\n", finished.stderr
    assert finished.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces")
def test_a_full_disk(tmp_path):
    inside = small_disk(tmp_path, "96k")
    code = """
        write_mp4(path, noise(1), 16, {})
        old = open(path, "rb").read()
        try:
            write_mp4(path, noise(200), 16, {})
        except Exception as error:
            print(type(error).__name__, str(error))
        assert os.listdir(os.path.dirname(path)) == ["clip.mp4"]
        assert open(path, "rb").read() == old
    """
    finished = python_in(tmp_path, code, inside)
    assert finished.stdout == f"OutputError cannot write {tmp_path / 'clip.mp4'}: No space left on device\n", (
        finished.stderr
    )


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_does_not_grow_with_the_clip(tmp_path):
    code = """
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
        def moving(count):
            picture = generator.integers(0, 256, (480, 832, 3), np.uint8)
            for index in range(count):
                yield np.roll(picture, index, 1)
        write_mp4(path, moving(17), 16, {})
        short = peak()
        write_mp4(path, moving(80), 16, {})
        print(short, peak())
    """
    short, long = map(int, python_in(tmp_path, code).stdout.split())
    assert long < 1.1 * short


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_control_c_leaves_nothing(tmp_path):
    code = """
        def interrupted():
            yield from noise(50)
            os.kill(os.getpid(), signal.SIGINT)
            yield from noise(50)
        write_mp4(path, interrupted(), 16, {})
    """
    finished = python_in(tmp_path, code)
    assert finished.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in finished.stderr
    assert os.listdir(tmp_path) == []
