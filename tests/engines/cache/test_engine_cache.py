"""Built engines in a folder: what comes back is to the bit what was built, or it is built again, whoever is killed when."""

from __future__ import annotations

import dataclasses
import errno
import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import HELPERS, helpers_environment
from helpers.fake_builder import STAGES, key_of
from helpers.small_disk import small_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgereel.core import paths
from edgereel.core.errors import EngineError, UsageError
from edgereel.core.files import sha256_of
from edgereel.engines.cache import entry as entry_module
from edgereel.engines.cache import lock as cache_lock
from edgereel.engines.cache import parts, store
from edgereel.engines.cache.engines import LIMIT, LIMIT_VARIABLE, EngineCache, EngineKey, parse_limit
from edgereel.engines.cache.entry import Description, Places
from edgereel.runtime.text.embedding_cache import CachedEmbedding, EmbeddingCache

KEY, OTHER = key_of("a"), key_of("b")
CONTENT = b"native code" * 100
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals, links and permissions of POSIX")
NAMESPACES = pytest.mark.skipif(sys.platform != "linux", reason="namespaces of Linux")


def builder_of(content=CONTENT, calls=None):
    def build(path):
        if calls is not None:
            calls.append(path)
        path.write_bytes(content)

    return build


def never(path):
    raise AssertionError("it must not be built")


def use(cache, key=KEY, build=None, **callbacks):
    """Return (source, bytes, kept) of an engine."""
    with cache.get_or_build(key, build or builder_of(), **callbacks) as engine:
        assert engine.path.read_bytes() == engine.data[:]
        assert (engine.build_seconds > 0) == (engine.source == "built")
        return engine.source, engine.data[:], engine.kept


def found(cache, key=KEY):
    engine = cache.get(key)
    if engine is None:
        return None
    with engine:
        return engine.data[:]


def suffixes(cache):
    return sorted(path.name.partition(".")[2] for path in cache.folder.iterdir())


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache" / "engines")


@pytest.fixture
def places(cache):
    return Places.of(cache.folder, KEY.digest())


class Program:
    """fake_builder.py in a process of its own."""

    def __init__(self, cache, *arguments):
        command = [sys.executable, str(HELPERS / "fake_builder.py"), str(cache.folder), *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def until(self, start):
        """Read what it prints up to a line that starts so."""
        for line in self.process.stdout:
            if line.startswith(start):
                return line.split()
        raise AssertionError(f"ended before {start!r}: {self.process.stderr.read()}")

    def end(self, line=""):
        """Let it go on, and return (exit status, lines printed, the last one's words)."""
        out, err = self.process.communicate(line, timeout=120)
        assert err == "" or self.process.returncode
        lines = out.splitlines()
        return self.process.returncode, lines, lines[-1].split() if lines else []

    def kill(self):
        self.process.kill()
        return self.end()


@pytest.fixture
def start(cache):
    programs = []

    def run(*arguments):
        programs.append(Program(cache, *arguments))
        return programs[-1]

    yield run
    for program in programs:
        with program.process as process:
            process.kill()


def test_what_was_built_is_found(cache):
    calls = []
    assert use(cache, build=builder_of(calls=calls)) == ("built", CONTENT, True)
    assert use(cache, build=never) == ("cache", CONTENT, True)
    assert found(EngineCache(cache.folder)) == CONTENT
    assert found(cache, OTHER) is None
    assert len(calls) == 1
    assert suffixes(cache) == ["engine", "json", "lock"]


def test_the_folder_is_in_the_users_cache_and_nobody_elses():
    assert use(EngineCache())[0] == "built"
    folder = paths.cache_folder() / "engines"
    assert len(list(folder.iterdir())) == 3
    assert os.name == "nt" or folder.stat().st_mode & 0o777 == 0o700


def test_the_description_can_be_read(cache, places):
    use(cache)
    data = json.loads(places.description.read_text())
    assert EngineKey(**data["key"]) == KEY
    assert (data["size"], data["sha256"]) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert 0 < data["build_seconds"] < 60 > abs(data["created"] - time.time())


CHANGES = {
    **{field.name: "other" for field in dataclasses.fields(EngineKey)},
    "shapes": (("x", (1, 5)),),
    "options": {"level": "4"},
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(EngineKey)])
def test_everything_in_the_key_matters(name):
    assert dataclasses.replace(KEY, **{name: CHANGES[name]}).digest() != KEY.digest()


def test_the_order_in_a_key_does_not_matter():
    shapes = (("x", (1, 2)), ("y", ()))
    one = dataclasses.replace(KEY, shapes=shapes, options={"a": "1", "b": "2"})
    other = dataclasses.replace(KEY, shapes=shapes[::-1], options={"b": "2", "a": "1"})
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest() == other.digest() != dataclasses.replace(one, options={"a": "2", "b": "1"}).digest()


def test_a_key_keeps_its_own_options():
    options = {"a": "1"}
    key = dataclasses.replace(KEY, options=options)
    digest = key.digest()
    options["a"] = "2"
    assert key.digest() == digest


@pytest.mark.parametrize(
    "change",
    [
        {"card": 3},
        {"driver": None},
        {"shapes": (("x", ("batch",)),)},
        {"shapes": ((1, (1,)),)},
        {"shapes": 3},
        {"options": {"level": 3}},
        {"options": [("level", "3")]},
        {"card": "x" * 2**20},
    ],
)
def test_a_key_of_other_types_is_refused(change):
    with pytest.raises(ValueError, match=r"key|shapes"):
        dataclasses.replace(KEY, **change)


@POSIX
@pytest.mark.parametrize("before", ["nothing", "damaged"])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_stage(cache, start, places, stage, before):
    """A fresh process gets a good engine, none gets a part of one, and what was left goes."""
    if before == "damaged":
        use(cache)
        places.engine.write_bytes(CONTENT[:-1])
    status, _, last = start("a", "--kill", stage).end()
    assert (status, last) == (-signal.SIGKILL, ["stage", stage])
    if stage == "kept":
        sha256 = hashlib.sha256(found(cache)).hexdigest()
    else:
        assert found(cache) is None
        if before == "nothing" or stage not in ("missing", "locked"):
            assert {entry.state for entry in cache.list_entries()} <= {"left over"}
    status, _, last = start("a").end()
    assert (status, last[:2]) == (0, ["cache" if stage == "kept" else "built", "kept"])
    assert stage != "kept" or last[2] == sha256
    content = found(cache)
    assert hashlib.sha256(content).hexdigest() == last[2]
    assert len(content) == 100_000
    use(cache, OTHER)
    assert suffixes(cache) == ["engine", "engine", "json", "json", "lock", "lock"]
    assert cache.verify() == [(entry, None) for entry in cache.list_entries()]


def test_two_processes_build_once(cache, start):
    first = start("a", "--stop", "half")
    first.until("stage half")
    second = start("a")
    second.until("wait")
    assert found(cache) is None
    assert [entry.state for entry in cache.list_entries()] == ["being built"]
    assert cache.verify() == []
    assert cache.remove() == 0
    _, _, built = first.end("\n")
    status, lines, read = second.end()
    assert (built[0], read[0], status) == ("built", "cache", 0)
    assert built[1:] == read[1:]
    assert not any("half" in line or "explain" in line for line in lines)


def test_many_processes_build_once(cache, start):
    ended = [program.end() for program in [start("a") for _ in range(4)]]
    assert [status for status, *_ in ended] == [0] * 4
    assert sorted(last[0] for *_, last in ended) == ["built", "cache", "cache", "cache"]
    assert len({last[2] for *_, last in ended}) == 1
    assert sum("stage half" in lines for _, lines, _ in ended) == 1


@POSIX
def test_a_builder_killed_while_another_waits(cache, start):
    first = start("a", "--stop", "half")
    first.until("stage half")
    second = start("a")
    second.until("wait")
    first.kill()
    status, _, last = second.end()
    assert (status, last[:2]) == (0, ["built", "kept"])
    assert suffixes(cache) == ["engine", "json", "lock"]


def test_a_build_that_fails_while_another_waits(cache, start, tmp_path):
    """The other one builds, at a lock file that was not made anew behind its back."""
    waiting = []

    def fail(path):
        path.write_bytes(b"x")
        waiting.append(start("a"))
        waiting[0].until("wait")
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        use(cache, build=fail)
    assert waiting[0].end()[2][:2] == ["built", "kept"]


def test_waiting_can_be_given_up(cache, start):
    start("a", "--stop", "locked").until("stage locked")
    seconds = []

    def give_up(waited):
        seconds.append(waited)
        if len(seconds) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        use(cache, build=never, on_wait=give_up)
    assert seconds == sorted(seconds)


def test_leftovers_of_a_living_process_stay(cache, start):
    program = start("b", "--stop", "half")
    program.until("stage half")
    use(cache)
    status, _, last = program.end("\n")
    assert (status, last[:2]) == (0, ["built", "kept"])
    assert found(cache, OTHER) is not None


@POSIX
def test_interrupted(cache, start):
    program = start("a", "--stop", "half")
    program.until("stage half")
    program.process.send_signal(signal.SIGINT)
    program.process.wait(timeout=60)
    assert suffixes(cache) == ["lock"]
    assert cache.list_entries() == []


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("missing", "half", "kept")])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ArithmeticError])
def test_an_error_at_any_stage_leaves_nothing(cache, stage, error):
    def fail(reached):
        if reached == stage:
            raise error

    with pytest.raises(error):
        use(EngineCache(cache.folder, on_stage=fail))
    assert suffixes(cache) == ["lock"]
    assert use(cache)[0] == "built"


def damaged(cache, complaint, content=b"another"):
    """Check that an entry counts as missing, and is built again with one line that says why."""
    assert found(cache) is None
    lines = []
    assert use(cache, build=builder_of(content), explain=lines.append) == ("built", content, True)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert complaint in lines[0]
    assert KEY.digest()[:12] in lines[0]
    assert use(cache, build=never, explain=lines.append) == ("cache", content, True)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda content: content[:-1], "has 1099 bytes, not 1100"),
        (lambda content: b"", "has 0 bytes"),
        (lambda content: content + b"x", "has 1101 bytes"),
        (lambda content: content[:500] + b"\0" + content[501:], "not those that were built"),
        (None, "its file is missing"),
    ],
)
def test_a_damaged_engine(cache, places, change, complaint):
    use(cache)
    if change is None:
        places.engine.unlink()
    else:
        places.engine.write_bytes(change(CONTENT))
    ((entry, problem),) = cache.verify()
    assert complaint in problem
    assert entry.digest == KEY.digest()
    damaged(cache, complaint)


def test_an_engine_is_hashed_when_it_is_built_and_where_its_file_was_written_since(cache, places, monkeypatch):
    """Engines have weights of gigabytes: at each open samples of them are looked at, `verify` reads all."""
    content = bytes(64 * 2**16 + 2**20)
    use(cache, build=builder_of(content))
    hashed = []
    monkeypatch.setattr(entry_module, "sha256_of", lambda file: hashed.append(file.name) or sha256_of(file))
    assert use(cache, build=never)[0] == "cache"
    assert hashed == []
    os.utime(places.engine, ns=(0, 0))
    assert use(cache, build=never)[0] == "cache"
    assert len(hashed) == 1
    assert cache.verify()[0][1] is None
    assert len(hashed) == 2
    with places.engine.open("r+b") as file:
        file.seek(2**16)
        file.write(b"\1")  # between two samples
    ((_, problem),) = cache.verify()
    assert "not those that were built" in problem
    damaged(cache, "not those that were built")


def test_what_one_object_has_handed_out_stays_beyond_the_limit(tmp_path):
    """Two experts that are larger than the limit together: each clip would build both again."""
    bound, build = bounded(tmp_path, 1)
    cache = EngineCache(tmp_path, bound.limit, keep_used=True)
    use(cache, key_of("a"), build)
    use(cache, key_of("b"), build)
    assert names(cache) == "ab"
    for name in "ab":
        assert use(cache, key_of(name), never)[0] == "cache"
    use(EngineCache(tmp_path, bound.limit), key_of("c"), build)
    assert names(cache) == "c"


def test_an_engine_of_another_size_is_not_read(cache, places):
    use(cache)
    with places.engine.open("r+b") as file:
        file.truncate(2**40)  # takes no room on the disk, and hours to be hashed
    damaged(cache, f"has {2**40} bytes")


def test_an_entry_of_another_key(cache, places):
    use(cache, OTHER)
    for one, other in zip(places[:2], Places.of(cache.folder, OTHER.digest())[:2], strict=True):
        other.rename(one)
    assert [entry.state for entry in cache.list_entries() if entry.digest == KEY.digest()] == ["damaged"]
    damaged(cache, "belongs to another engine")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"key": 3}',
        b'{"size": 1' + b"0" * 5000 + b"}",
        b" " * 2**21,
    ],
)
def test_a_description_that_is_none(cache, places, content):
    use(cache)
    places.description.write_bytes(content)
    assert [(entry.state, entry.key) for entry in cache.list_entries()] == [("damaged", None)]
    damaged(cache, "its description is damaged")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sha256": "0" * 64, "modified": 0}, "not those that were built"),
        ({"sha256": 3, "modified": 0}, "not those that were built"),
        ({"samples": "0" * 64}, "not those that were built"),
        ({"samples": None}, "not those that were built"),
        ({"modified": "0"}, "description is damaged"),
        ({"size": 1099}, "has 1100 bytes, not 1099"),
        ({"size": 2**60}, "has 1100 bytes"),
        ({"size": True}, "description is damaged"),
        ({"size": "1100"}, "description is damaged"),
        ({"build_seconds": "1"}, "description is damaged"),
        ({"created": None}, "description is damaged"),
        ({"key": OTHER}, "belongs to another engine"),
    ],
)
def test_a_description_with_a_good_checksum_and_something_wrong_in_it(cache, places, change, complaint):
    use(cache)
    description = Description.from_bytes(places.description.read_bytes())
    places.description.write_bytes(dataclasses.replace(description, **change).to_bytes())
    damaged(cache, complaint)


FLIPS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4, unique_by=lambda f: f[0]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(FLIPS, st.sampled_from(["engine", "description"]))
def test_any_flipped_bytes(cache, places, flips, name):
    use(cache)
    path = getattr(places, name)
    good = path.read_bytes()
    content = bytearray(good)
    for position, mask in flips:
        content[position % len(content)] ^= mask
    path.write_bytes(content)
    assert found(cache) == (CONTENT if content == good else None)
    assert use(cache)[1] == CONTENT
    assert use(cache, build=never)[1] == CONTENT


@POSIX
@pytest.mark.parametrize("name", ["engine", "description", "part"])
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to(path.parent.parent / "elsewhere")],
    ids=["pipe", "folder", "link"],
)
def test_what_is_no_regular_file(cache, places, name, make):
    elsewhere = cache.folder.parent / "elsewhere"
    use(cache)
    path = getattr(places, name)
    elsewhere.write_bytes(path.read_bytes() if path.exists() else b"")
    path.unlink(missing_ok=True)
    make(path)
    assert found(cache) == (CONTENT if name == "part" else None)
    assert use(cache)[1:] == (CONTENT, True)
    use(cache, OTHER)
    assert suffixes(cache) == ["engine", "engine", "json", "json", "lock", "lock"]
    assert all(item.is_file() and not item.is_symlink() for item in cache.folder.iterdir())
    assert elsewhere.exists()


@POSIX
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("elsewhere")],
    ids=["pipe", "folder", "link"],
)
def test_a_lock_that_is_no_regular_file(cache, places, make):
    """Nothing is locked by it, so nothing is kept."""
    cache.folder.mkdir(0o700, parents=True)
    make(places.lock)
    lines = []
    assert use(cache, explain=lines.append) == ("built", CONTENT, False)
    assert len(lines) == 1
    assert [path.name for path in cache.folder.iterdir()] == [places.lock.name]
    assert use(cache, OTHER)[2]


@POSIX
@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(HELPERS / "fake_builder.py"),
    ],
    ids=["nothing", "empty", "folder", "link"],
)
def test_a_builder_that_builds_no_engine(cache, make):
    with pytest.raises(EngineError, match="the builder wrote"):
        use(cache, build=make)
    assert suffixes(cache) == ["lock"]


@POSIX
@pytest.mark.parametrize("change", [lambda path: path.chmod(0o777), lambda path: os.chown(path, 12345, -1)])
def test_a_folder_that_others_can_write_is_not_trusted(cache, change):
    use(cache)
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    change(cache.folder)
    lines = []
    assert found(cache) is None
    assert use(cache, build=builder_of(b"mine"), explain=lines.append) == ("built", b"mine", False)
    assert len(lines) == 1
    assert str(cache.folder) in lines[0]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        cache = EngineCache(folder)
        lines = []
        assert use(cache, explain=lines.append) == ("built", CONTENT, False)
        assert len(lines) == 1
        assert str(folder) in lines[0]
        assert (cache.list_entries(), cache.verify(), cache.remove()) == ([], [], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def in_namespace(inside, script, **environment):
    builder = [sys.executable, str(HELPERS / "fake_builder.py")]
    ended = subprocess.run(
        [*inside, "sh", "-c", script, "-", *builder],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert ended.stderr == ""
    return ended.stdout.splitlines()


@NAMESPACES
@pytest.mark.parametrize("size", [60_000, 200_000, 400_000], ids=["room", "for the engine alone", "for half"])
def test_a_full_disk(tmp_path, size):
    """The engine is built elsewhere and used, with one line that says so; nothing of it stays."""
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    script = f'"$@" "{disk}/engines" a --size {size}; ls "{disk}/engines" | cut -d. -f2; ls "{elsewhere}" | wc -l'
    lines = in_namespace(small_disk(disk, "200k"), script, TMPDIR=str(elsewhere))
    explained = [line for line in lines if line.startswith("explain")]
    source = next(index for index, line in enumerate(lines) if line.startswith("built"))
    if size == 60_000:
        assert explained == []
        assert lines[source].startswith("built kept")
        assert lines[source + 1 :] == ["engine", "json", "lock", "0"]
    else:
        reason = f"it cannot be kept in {disk}/engines (No space left on device)"
        assert explained == [f"explain The engine is built for this run only: {reason}"]
        assert lines[source].startswith("built not kept")
        assert lines[source + 1 :] == ["lock", "0"]


@NAMESPACES
def test_no_room_anywhere(tmp_path):
    inside = small_disk(tmp_path, "200k")
    script = f'"$@" "{tmp_path}/engines" a --size 400000 2>&1 | tail -1; ls -A "{tmp_path}" "{tmp_path}/engines"'
    lines = in_namespace(inside, script, TMPDIR=str(tmp_path))
    assert lines[0].startswith("edgereel.core.errors.EngineError: there is no room for the engine")
    assert [line.rpartition(".")[2] for line in lines[1:] if line and "/" not in line] == ["engines", "lock"]


@NAMESPACES
def test_a_read_only_folder(tmp_path):
    """What is in it is used, what is not is built for one run."""
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    use_a, use_b = (f'"$@" "{disk}/engines" {name}' for name in "ab")
    script = f'{use_a}; mount -o remount,ro "{disk}"; {use_a}; {use_b}; ls "{disk}/engines" | wc -l; ls "{elsewhere}" | wc -l'
    lines = [
        line for line in in_namespace(small_disk(disk, "900k"), script, TMPDIR=str(elsewhere)) if "stage" not in line
    ]
    built, cached, explained, other, *left = lines
    assert built.replace("built", "cache") == cached
    assert "Read-only file system" in explained
    assert other.startswith("built not kept")
    assert left == ["3", "0"]


@POSIX
def test_a_process_with_no_files_left_removes_nothing(cache, tmp_path, monkeypatch):
    import resource

    use(cache)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # what is let go of later would leave a lower number free
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        assert found(cache) is None
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            use(cache)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))  # for the lock, and none for the entry
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            use(cache, explain=lambda line: None, build=lambda path: os.close(os.pipe()[0]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert use(cache, build=never) == ("cache", CONTENT, True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_disk_that_fills_up_under_the_builder(cache, wrapped):
    calls, lines = [], []

    def build(path):
        calls.append(path)
        path.write_bytes(CONTENT)
        if len(calls) == 1:
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                if wrapped:
                    raise EngineError("cannot write the engine") from error
                raise

    with cache.get_or_build(KEY, build, explain=lines.append) as engine:
        assert (engine.source, engine.data[:], engine.kept) == ("built", CONTENT, False)
        assert suffixes(cache) == ["lock"]
        assert cache.folder not in engine.path.parents
    assert not engine.path.parent.exists()
    assert len(lines) == 1
    assert os.strerror(errno.ENOSPC) in lines[0]


def test_other_errors_of_the_builder_come_through(cache):
    calls = []

    def build(path):
        calls.append(path)
        raise FileNotFoundError(errno.ENOENT, "no such graph")

    with pytest.raises(FileNotFoundError, match="no such graph"):
        use(cache, build=build)
    assert len(calls) == 1


def bounded(folder, count, content=bytes(10_000)):
    """Return a cache with room for so many engines of the same size."""
    probe = EngineCache(folder)
    use(probe, key_of("probe"), builder_of(content))
    (entry,) = probe.list_entries()
    probe.remove()
    return EngineCache(folder, int(entry.size * (count + 0.5))), builder_of(content)


def names(cache):
    known = {key_of(name).digest(): name for name in "abcdefgh"}
    return "".join(sorted(known[entry.digest] for entry in cache.list_entries()))


def test_those_not_used_for_longest_go_first(tmp_path):
    cache, build = bounded(tmp_path, 3)
    for name in "abc":
        use(cache, key_of(name), build)
    found(cache, key_of("a"))
    cache.list_entries()
    cache.verify()  # looking is no use
    use(cache, key_of("d"), build)
    assert names(cache) == "acd"
    use(cache, key_of("c"), never)
    use(cache, key_of("e"), build)
    assert names(cache) == "cde"


def test_what_is_in_use_does_not_go(tmp_path, start, cache):
    limited, build = bounded(cache.folder, 2)
    holder = start("a", "--hold", "--size", 10_000)
    holder.until("built")
    assert [entry.state for entry in limited.list_entries()] == ["in use"]
    use(limited, key_of("b"), build)
    with limited.get_or_build(key_of("c"), build):
        assert names(limited) == "ac"
        use(limited, key_of("d"), build)
        assert names(limited) == "acd"
        assert limited.remove() > 0
        assert names(limited) == "ac"
    assert holder.end("\n")[0] == 0
    use(limited, key_of("e"), build)
    assert names(limited) == "ce"


def test_an_engine_larger_than_the_limit_is_kept_until_the_next(tmp_path):
    cache = EngineCache(tmp_path, 100)
    assert use(cache)[0] == "built"
    assert use(cache, build=never)[0] == "cache"
    use(cache, OTHER)
    assert names(cache) == "b"
    assert suffixes(cache) == ["engine", "json", "lock"]


def test_entries_from_the_future_go_first(tmp_path):
    """As after a clock was set back."""
    cache, build = bounded(tmp_path, 2)
    use(cache, key_of("a"), build)
    os.utime(Places.of(tmp_path, key_of("a").digest()).description, (time.time() + 9e5,) * 2)
    use(cache, key_of("b"), build)
    use(cache, key_of("c"), build)
    assert names(cache) == "bc"


@POSIX
@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_deleted_between_opening_and_locking(tmp_path, monkeypatch, replaced):
    """A lock of a file that lies nowhere any more would keep nobody out."""
    import fcntl

    path, real, deleted = tmp_path / "file", fcntl.flock, []

    def delete_first(descriptor, operation):
        if not deleted:
            path.unlink()
            deleted.append(path.touch() if replaced else None)
        return real(descriptor, operation)

    path.touch()
    monkeypatch.setattr(fcntl, "flock", delete_first)
    with cache_lock.try_lock(path):
        assert cache_lock.try_lock(path) is None
        assert cache_lock.is_locked(path)
    assert not cache_lock.is_locked(path)
    deleted.clear()
    with pytest.raises(FileNotFoundError):
        cache_lock.open_shared(path)


@POSIX
@pytest.mark.parametrize("damaged", [False, True])
def test_an_entry_built_again_while_it_is_verified_is_not_damaged(cache, monkeypatch, damaged):
    """Between opening the engine's file and locking it another process removes the entry and builds it."""
    import fcntl

    real, built_again = fcntl.flock, []

    def build_first(descriptor, operation):
        if not built_again and os.path.samestat(os.fstat(descriptor), os.stat(places.engine)):
            built_again.append(True)
            other = EngineCache(cache.folder)
            for path in places:
                path.unlink(missing_ok=True)
            use(other)
            if damaged:
                places.engine.write_bytes(CONTENT[:-1])
        return real(descriptor, operation)

    use(cache)
    places = Places.of(cache.folder, KEY.digest())
    monkeypatch.setattr(fcntl, "flock", build_first)
    ((_, problem),) = cache.verify()
    assert built_again
    assert problem == (f"it has {len(CONTENT) - 1} bytes, not {len(CONTENT)}" if damaged else None)


@POSIX
def test_a_lock_that_others_keep_out(tmp_path):
    path = tmp_path / "lock"
    with cache_lock.shared(path) as free:
        assert free
        assert not path.exists()
    with cache_lock.try_lock(path), cache_lock.shared(path) as free:
        assert not free
    with cache_lock.shared(path) as free, cache_lock.shared(path) as free_too:
        assert free
        assert free_too
        assert cache_lock.try_lock(path) is None
    cache_lock.try_lock(path).release()


def test_other_files_are_left_alone(cache):
    use(cache)
    for name in ("notes.txt", "a.engine", KEY.digest(), f"{'g' * 64}.json", f"x{OTHER.digest()}.part"):
        (cache.folder / name).write_text("mine")
    assert EngineCache(cache.folder, 0).remove() > 0
    use(cache)
    cache.remove()
    assert len(list(cache.folder.iterdir())) == 5


STRESS = """
import contextlib, os, sys
from pathlib import Path
from edgereel.engines.cache.engines import EngineCache
from helpers.fake_builder import key_of
folder, building, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
cache = EngineCache(folder, 25_000)
for turn in range(60):
    name = "abcd"[(turn * (number + 1) + number) % 4]
    def build(path):
        os.close(os.open(building / name, os.O_CREAT | os.O_EXCL))  # nobody else builds the same
        path.write_bytes(name.encode() * 10_000)
        (building / name).unlink()
    with cache.get_or_build(key_of(name), build, explain=print) as engine:
        assert engine.kept and engine.data[:] == name.encode() * 10_000
    if turn % 9 == number:
        cache.remove()
    assert all(problem is None for _, problem in cache.verify())
"""


def test_several_processes_build_remove_and_verify_at_once(tmp_path):
    building = tmp_path / "building"
    building.mkdir()
    environment = helpers_environment()
    command = [sys.executable, "-c", STRESS, str(tmp_path / "cache"), str(building)]
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([*command, str(number)], stdout=pipe, stderr=pipe, text=True, env=environment)
        for number in range(3)
    ]
    for process in running:
        out, err = process.communicate(timeout=240)
        assert (process.returncode, out, err) == (0, "", "")
    assert {name.rpartition(".")[2] for name in os.listdir(tmp_path / "cache")} <= {"engine", "json", "lock"}


def test_entries_are_listed_and_removed_by_the_beginning_of_their_digest(cache):
    use(cache)
    use(cache, OTHER, builder_of(b"x"))
    sizes = {KEY: len(CONTENT), OTHER: 1}
    entries = {entry.key: entry for entry in cache.list_entries()}
    assert set(entries) == set(sizes)
    assert {entry.state for entry in entries.values()} == {"complete"}
    for entry in entries.values():
        used, created = entry.last_used, entry.created
        assert abs(used - created) < 60
        assert entry.build_seconds > 0
    for entry in entries.values():
        files = [path for path in cache.folder.iterdir() if path.name.startswith(entry.digest)]
        assert entry.size == sum(path.stat().st_size for path in files) > sizes[entry.key]
    for start in ("", "zz", KEY.digest() + "0"):
        with pytest.raises(UsageError, match="is the beginning of no built engines"):
            cache.remove([start])
    assert cache.remove([KEY.digest()[:10]]) == entries[KEY].size
    assert found(cache) is None
    assert cache.remove() == entries[OTHER].size
    assert list(cache.folder.iterdir()) == []


def test_a_beginning_of_several_digests(cache):
    keys = [key_of(str(number)) for number in range(17)]
    for key in keys:
        use(cache, key)
    starts = [key.digest()[0] for key in keys]
    double = next(start for start in starts if starts.count(start) > 1)
    with pytest.raises(UsageError, match=f"beginning of {starts.count(double)} built engines"):
        cache.remove([double])
    assert len(cache.list_entries()) == 17


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("500000", 500_000), (" 8 MiB ", 2**23), ("20GiB", LIMIT), ("1KiB", 1024), ("2TiB", 2**41)],
)
def test_limits(text, expected, monkeypatch):
    assert parse_limit(text) == expected
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    assert EngineCache().limit == expected
    assert EngineCache(limit=7).limit == 7


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1.5GiB", "20GB", "1e9", "٣", "20 gib", "9" * 30])
def test_limits_that_are_none(text, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(UsageError, match=LIMIT_VARIABLE):
        EngineCache()


def test_the_limit_without_the_variable(monkeypatch):
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    assert EngineCache().limit == 20 * 2**30


def test_the_parts_of_the_cache(tmp_path):
    folder = paths.cache_folder()
    use(EngineCache())
    for text in ("a", "b"):
        store.write_entry("lowered", store.key_of(text), {}, text.encode())
    kept = CachedEmbedding(np.ones((1, 3, 4), np.float32), "CPUExecutionProvider", "float32")
    embedding = EmbeddingCache().put(store.key_of("c"), kept)
    for name, size in (("photos/d", 40), ("hashes.json", 50)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    listed = {part.name: part for part in parts.cache_parts()}
    assert list(listed) == ["embeddings", "engines", "lowered", "photos"]
    assert {name: part.ours for name, part in listed.items()} == {
        "embeddings": True,
        "engines": True,
        "lowered": True,
        "photos": False,
    }
    assert (listed["embeddings"].bytes, listed["embeddings"].files) == (embedding, 1)
    assert listed["engines"].files == 3
    assert listed["engines"].bytes == EngineCache().list_entries()[0].size
    assert parts.clear_part("lowered") == listed["lowered"].bytes >= 30
    assert parts.clear_part("embeddings") == embedding
    assert parts.clear_part("engines") == listed["engines"].bytes
    assert parts.clear_part("costs") == 0
    assert {part.name: part.files for part in parts.cache_parts()} == {**dict.fromkeys(listed, 0), "photos": 1}
    for name in ("photos", "..", "", "hashes.json", "lowered/.."):
        with pytest.raises(UsageError, match="there is no part"):
            parts.clear_part(name)
    assert (folder / "photos" / "d").exists()


@pytest.mark.parametrize("part", sorted(parts.OURS))
def test_files_of_other_programs_stay(part):
    """EDGEREEL_CACHE may name a folder where another program has an `embeddings/`, and files are named by their hash there."""
    store.write_entry(part, store.key_of("ours"), {}, b"body")
    folder = paths.cache_folder() / part
    key = store.key_of("theirs")
    for name in ("EasyNegative.safetensors", key, f"{key}.embedding", "mine/x.pt", f".{key}.part", f"{key[:16]}.part"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"of another program")
    before = {path for path in folder.rglob("*") if path.is_file()}
    parts.clear_part(part)
    gone = {path.name for path in before if not path.exists()}
    assert gone == (set() if part == "engines" else {store.key_of("ours")})


@POSIX
@pytest.mark.parametrize("part", sorted(parts.OURS))
def test_a_part_that_is_a_link_is_not_cleared(tmp_path, part):
    elsewhere = tmp_path / "Pictures"
    elsewhere.mkdir()
    store.write_entry(part, store.key_of("ours"), {}, b"body")
    places = Places.of(elsewhere, KEY.digest())
    for place in places[:2]:
        place.write_bytes(b"a picture")
    folder = paths.cache_folder() / part
    (folder / store.key_of("ours")).rename(elsewhere / store.key_of("ours"))
    folder.rmdir()
    folder.symlink_to(elsewhere)
    (listed,) = parts.cache_parts()
    assert not listed.ours  # so that --all passes it over
    with pytest.raises(UsageError, match=f"{part} is no folder of edgereel's but a link"):
        parts.clear_part(part)
    assert len(list(elsewhere.iterdir())) == 3


def test_no_parts_where_there_is_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path / "none"))
    assert parts.cache_parts() == []
    assert parts.clear_part("lowered") == parts.clear_part("engines") == 0
    monkeypatch.setenv("EDGEREEL_CACHE", str(Path(__file__)))
    assert parts.cache_parts() == []
    with pytest.raises(EngineError, match="cannot clear"):
        parts.clear_part("lowered")
