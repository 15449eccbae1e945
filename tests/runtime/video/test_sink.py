"""Whatever stops the writing of a clip, nothing half written is left and an earlier output is as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import NAMES, clip, contents, read_back, write_old, write_output
from helpers.small_disk import small_disk

from edgereel.core.errors import GeometryError, OutputError
from edgereel.runtime.video import gif, png, webp

pytestmark = pytest.mark.lean


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


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    from edgereel.runtime.video import sink as writing

    for module, name in ((gif, "clip.gif"), (webp, "clip.webp"), (png, "clip")):
        monkeypatch.setattr(module, "require_encoder", lambda *_: writing.require_encoder("no_such", "best"))
        with pytest.raises(OutputError, match=r"PyAV \d.* has no no_such, the best encoder.*pip install"):
            write_output(tmp_path / name, clip(2), 16, {})
    assert os.listdir(tmp_path) == []


def python_in(path, code, prefix=()):
    """Run code in a process of its own, where `noise` are frames that compress badly and `path` is the output."""
    preamble = f"""
        import os, resource, shutil, signal
        import numpy as np
        from pathlib import Path
        from edgereel.runtime.video.output import Output
        def write_output(path, frames, fps, metadata):
            return Output.check(path).at(fps).write(frames, metadata)
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
    return subprocess.run([*prefix, sys.executable, "-c", program], capture_output=True, text=True, timeout=600)


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
    inside = small_disk(tmp_path, "96k")
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
