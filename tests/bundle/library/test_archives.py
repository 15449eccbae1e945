"""Archives of bundles: what we pack, anyone's tools open; what anyone packs, honest or not, is added whole or refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile

import pytest
from helpers.small_bundle import edit, write_small_bundle

from edgereel.bundle.library.models import add_model
from edgereel.bundle.library.names import models_folder
from edgereel.bundle.library.packing import pack_bundle
from edgereel.core.errors import BundleError, Cancelled, EdgereelError, OutputError, UsageError

pytestmark = pytest.mark.lean


@pytest.fixture
def reel(tmp_path):
    return write_small_bundle(tmp_path / "small.reel")


def there():
    return sorted(os.listdir(models_folder())) if models_folder().is_dir() else []


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".tar", ".zip", ".TAR"])
def test_packed_and_added_again_to_the_byte(reel, tmp_path, suffix, run):
    archive = tmp_path / f"carried{suffix}"
    code, out, err = run("pack", reel, "-o", archive)
    assert (code, out.split()[0], err) == (0, str(archive), "")
    added = add_model(archive)
    assert (added.model.name, added.left_out) == ("small", [])
    assert content(added.model.path) == content(reel)
    before = archive.read_bytes()
    assert pack_bundle("small", archive) == len(before)
    assert archive.read_bytes() == before


def test_other_tools_open_what_we_pack(reel, tmp_path):
    for name, unpack in (("a.tar", ["tar", "xf"]), ("a.zip", ["unzip", "-q"])):
        pack_bundle(reel, tmp_path / name)
        place = tmp_path / f"{name} unpacked"
        place.mkdir()
        if shutil.which(unpack[0]):
            subprocess.run([*unpack, str(tmp_path / name)], cwd=place, check=True)
        else:
            shutil.unpack_archive(tmp_path / name, place)
        assert content(place / "small.reel") == content(reel)


@pytest.mark.skipif(shutil.which("tar") is None, reason="tar is not installed")
@pytest.mark.parametrize("format", ["gnu", "ustar", "pax", "v7", "oldgnu", "posix"])
@pytest.mark.parametrize("what", ["small.reel", "."])
def test_what_tar_packs(reel, tmp_path, format, what):
    archive = tmp_path / "carried.reel.tar"
    place = tmp_path if what == "small.reel" else reel
    command = ["tar", f"--format={format}", "-cf", str(archive), "-C", str(place), what]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this tar does not know the format")
    added = add_model(archive).model
    assert added.name == ("small" if what == "small.reel" else "carried")
    assert content(added.path) == content(reel)


def test_what_other_systems_pack(reel, tmp_path):
    """A Mac adds files of its own; Windows' explorer deflates, PowerShell 5 writes its own separators."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("small.reel\\", b"")
        for path in reel.iterdir():
            file.write(path, f"small.reel\\{path.name}")
        file.writestr("small.reel\\.DS_Store", b"x")
        file.writestr("__MACOSX/small.reel/._reel.json", b"x")
        file.writestr("__MACOSX/small.reel/reel.json", b"x")
    added = add_model(archive)
    assert content(added.model.path) == content(reel)
    assert added.left_out == ["__MACOSX/small.reel/._reel.json", "__MACOSX/small.reel/reel.json", ".DS_Store"]


def test_where_an_archive_cannot_go(reel, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"end its name in \.tar or \.zip"):
        pack_bundle(reel, tmp_path / "a.7z")
    with pytest.raises(UsageError, match="is inside the bundle"):
        pack_bundle(reel, reel / "a.tar")
    with pytest.raises(OutputError, match="does not exist"):
        pack_bundle(reel, tmp_path / "missing" / "a.tar")
    (tmp_path / "a.tar").write_bytes(b"before")
    with pytest.raises(Cancelled):
        pack_bundle(reel, tmp_path / "a.tar", lambda stage, done, total: False)
    content = (reel / "denoiser.data").read_bytes()
    (reel / "denoiser.data").write_bytes(content[:-1] + b"!")
    for name in ("a.tar", "a.zip"):
        (tmp_path / name).write_bytes(b"before")
        with pytest.raises(BundleError, match=r"content of denoiser\.data is not what"):
            pack_bundle(reel, tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"before"
    usage = shutil.disk_usage(reel)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(OutputError, match="are free: free some, or choose another folder"):
        pack_bundle(reel, tmp_path / "a.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.zip", "small.reel"]


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_stick_that_takes_no_file_of_that_size(reel, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for work in (lambda: pack_bundle(reel, tmp_path / "a.tar"), lambda: add_model(reel)):
            with pytest.raises(OutputError, match="File too large: FAT32, as on many USB sticks, takes 4 GB at most"):
                work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.reel"]
    assert there() == []


class Hostile:
    """Writes archives of a good bundle with one thing in it that is not."""

    def __init__(self, reel, folder):
        self.reel = reel
        self.folder = folder

    def tar(self, *extra, skip=(), change=lambda info: None):
        path = self.folder / "a.tar"
        with tarfile.open(path, "w") as file:
            for source in sorted(self.reel.iterdir()):
                if source.name not in skip:
                    info = file.gettarinfo(source, f"small.reel/{source.name}")
                    change(info)
                    with source.open("rb") as body:
                        file.addfile(info, body)
            for info, body in extra:
                file.addfile(info, io.BytesIO(body))
        return path

    def zip(self, *extra, skip=()):
        path = self.folder / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for source in sorted(self.reel.iterdir()):
                if source.name not in skip:
                    file.write(source, f"small.reel/{source.name}")
            for info, body in extra:
                file.writestr(info, body)
        return path


@pytest.fixture
def hostile(reel, tmp_path):
    (tmp_path / "archives").mkdir()
    return Hostile(reel, tmp_path / "archives")


def refused(archive, reason):
    before = {path: path.stat().st_mtime_ns for path in archive.parent.parent.iterdir()}
    with pytest.raises(BundleError, match=reason) as found:
        add_model(archive)
    assert "\n" not in str(found.value)
    assert str(found.value).startswith(f"{archive}: ")
    assert there() == []
    assert {path: path.stat().st_mtime_ns for path in archive.parent.parent.iterdir()} == before


def tar_entry(name, kind=tarfile.REGTYPE, body=b"x", target=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(body), target
    return info, body


NAMES = ["../x", "/etc/x", "small.reel/../../x", "C:/x", "c:x", "..", "small.reel/a\tb", "small.reel/\x1b[31m"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out(hostile, name):
    refused(hostile.tar(tar_entry(name)), "is not a name inside an archive")
    refused(hostile.zip((zipfile.ZipInfo(name.replace("/", "\\")), b"x")), "is not a name inside an archive")
    refused(hostile.zip((zipfile.ZipInfo(name), b"x")), "is not a name inside an archive")


def test_a_tar_with_a_backslash_in_a_name(hostile):
    refused(hostile.tar(tar_entry("small.reel\\..\\..\\x")), "is not a name inside an archive")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.BLKTYPE, "is a device"),
        (tarfile.FIFOTYPE, "is a pipe"),
        (b"V", "is of an unknown kind"),
        (tarfile.GNUTYPE_SPARSE, "is stored with holes"),
    ],
)
def test_entries_that_are_no_files(hostile, kind, reason):
    refused(hostile.tar(tar_entry("small.reel/x", kind, b"", "/etc/passwd")), reason)
    refused(hostile.tar(tar_entry("small.reel/denoiser.data", kind, b"", "x"), skip=["denoiser.data"]), reason)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_entries_of_a_zip_that_are_no_files(hostile, mode):
    info = zipfile.ZipInfo("small.reel/x")
    info.external_attr = (mode | 0o777) << 16
    refused(hostile.zip((info, b"/etc/passwd")), "is a link or a device")


@pytest.mark.parametrize("name", ["small.reel/denoiser.data", "small.reel/DENOISER.data", "SMALL.reel/tokenizer.json"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_twice(hostile, name):
    refused(hostile.tar(tar_entry(name)), "twice, or as names that differ in letters' case")
    refused(hostile.zip((zipfile.ZipInfo(name), b"x")), "twice, or as names that differ in letters' case")


def test_more_bundles_than_one_or_none(hostile, reel):
    manifest = (reel / "reel.json").read_bytes()
    refused(hostile.tar(tar_entry("other.reel/reel.json", body=manifest)), "holds 2 bundles")
    refused(hostile.tar(skip=["reel.json"]), r"holds no reel\.json")
    refused(hostile.zip(skip=["reel.json"]), r"holds no reel\.json")
    deep = tar_entry("a/b/reel.json", body=manifest)
    refused(hostile.tar(deep, skip=["reel.json"]), "2 folders deep")
    refused(hostile.tar(skip=["tokenizer.json"]), r"tokenizer\.json is missing in it")
    refused(hostile.zip(skip=["tokenizer.json"]), r"tokenizer\.json is missing in it")


def test_sizes_are_bounded_before_they_are_spent(hostile, reel, monkeypatch):
    large = b" " * (5 * 2**20)
    refused(
        hostile.tar(tar_entry("small.reel/reel.json", body=large), skip=["reel.json"]), r"reel\.json is larger than"
    )
    refused(hostile.zip((zipfile.ZipInfo("small.reel/reel.json"), large), skip=["reel.json"]), r"reel\.json is larger")
    other = tar_entry("small.reel/denoiser.data", body=bytes(10**6))
    refused(
        hostile.tar(other, skip=["denoiser.data"]), r"denoiser\.data has 1000000 bytes in it, reel\.json declares 512"
    )
    many = [tar_entry(f"small.reel/{index}", body=b"") for index in range(5000)]
    refused(hostile.tar(*many), "holds more than 4096 entries")
    refused(hostile.zip(*((zipfile.ZipInfo(info.name), body) for info, body in many)), "holds more than 4096 entries")


def test_a_zip_that_grows_without_measure(hostile, reel):
    """Ten gigabytes of zeros in ten megabytes would pass every hash."""
    zeros = bytes(2**25)
    (reel / "denoiser.data").write_bytes(zeros)
    record = {"size": len(zeros), "sha256": hashlib.sha256(zeros).hexdigest()}
    edit(reel, lambda data: data["files"].update({"denoiser.data": record}))
    refused(hostile.zip(), "would grow from .* no model is packed so small")


def test_a_zip_whose_sizes_lie(hostile, reel):
    """The list of files declares what the manifest does; the data inflates to more, or to less."""
    for body in (bytes(10**6), bytes(10)):
        path = hostile.zip((zipfile.ZipInfo("small.reel/denoiser.data"), body), skip=["denoiser.data"])
        listed = struct.pack("<L", len(body))
        path.write_bytes(path.read_bytes().replace(listed, struct.pack("<L", 512)))
        refused(path, r"denoiser\.data|no whole zip archive")


def test_what_is_packed_otherwise_says_what_to_do(hostile, reel, tmp_path):
    plain = hostile.tar().read_bytes()
    for compress, kind in ((gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")):
        path = hostile.folder / "a.tar.packed"
        path.write_bytes(compress(plain))
        refused(path, f"is packed by {kind}: unpack it and add the bundle's folder")
    path = hostile.folder / "lzma.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.write(reel / "reel.json", "small.reel/reel.json")
    refused(path, "is packed in a way that is not read")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_is_cut_off(hostile, kind):
    path = getattr(hostile, kind)()
    whole = path.read_bytes()
    for part in (100, 512, 700, len(whole) // 2, len(whole) - 11000 if kind == "tar" else len(whole) - 1):
        path.write_bytes(whole[:part])
        refused(path, "cut off|missing|damaged|no whole zip|neither|holds no")
    path.write_bytes(b"")
    refused(path, "neither")


@pytest.mark.parametrize(
    "field", [b"-0000000777\0", b"0o000000777\0", b"0_000000777\0", b"\xff" * 12, b"\x80" + b"\xff" * 11]
)
def test_sizes_of_a_tar_that_are_none(hostile, field):
    path = hostile.tar()
    header = bytearray(path.read_bytes()[:512])
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + path.read_bytes()[512:])
    refused(path, "is damaged at byte 0|is cut off|has a header of")


def test_extended_headers_of_a_tar(hostile, reel, tmp_path):
    """Large sizes and long names are read; headers without end, or that say something else of a file, are not."""
    long = tar_entry("small.reel/" + "n" * 300)
    assert add_model(hostile.tar(long)).left_out == ["n" * 300]
    shutil.rmtree(models_folder())
    records = {
        b"30 path=small.reel/../../../x\n": "is not a name inside",
        b"20 GNU.sparse.size=9\n": "damaged",
        b"21 GNU.sparse.size=9\n": "is stored with holes",
        b"999 path=x\n": "damaged",
        b"0 path=x\n": "damaged",
        b"path=x\n": "damaged",
        b"13 size=-100\n": "damaged",
        b"23 size=99999999999999\n": "cut off",
        b"12 path=\xff\xff\n": "not UTF-8|damaged",
    }
    for record, reason in records.items():
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, len(record)
        path = hostile.tar()
        path.write_bytes(header.tobuf() + record + bytes(-len(record) % 512) + path.read_bytes())
        refused(path, reason)
    header.size = 2**30
    path.write_bytes(header.tobuf() + path.read_bytes())
    refused(path, "has a header of 1073741824 bytes")
    header.size = 0
    path.write_bytes(header.tobuf() * 5000)
    refused(path, "more than 4096 entries")


def damaged_tar(whole, generator):
    """Change a few bytes of headers, and in one of two cases write the sums that belong to them."""
    changed = bytearray(whole)
    headers = [at for at in range(0, len(whole), 512) if whole[at : at + 11] == b"small.reel/"]
    for at in generator.sample(headers, generator.choice((1, 1, 3))):
        changed[at + generator.randrange(512)] = generator.randrange(256)
        if generator.random() < 0.5:
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return changed


def damaged_zip(whole, generator):
    """Change a few bytes of the list of files."""
    changed = bytearray(whole)
    for _ in range(generator.choice((1, 1, 3))):
        changed[len(whole) - 1 - generator.randrange(1200)] = generator.randrange(256)
    return changed


@pytest.mark.parametrize("damaged", [damaged_tar, damaged_zip])
def test_damage_anywhere_is_refused_or_does_not_matter(hostile, reel, damaged, monkeypatch):
    """Bytes changed at random: what is added all the same is the bundle, to the byte, and nothing lies beside it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which is most of the time
    path = hostile.tar() if damaged is damaged_tar else hostile.zip()
    whole = path.read_bytes()
    generator = random.Random(0)
    added = 0
    for _ in range(150):
        path.write_bytes(damaged(whole, generator))
        try:
            found = add_model(path, "found").model
        except EdgereelError:
            pass
        else:
            added += 1
            assert content(found.path) == content(reel)
            shutil.rmtree(found.path)
        assert there() == []
    assert 0 < added < 150
