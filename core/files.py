"""Writing files whole or not at all: under its name a result is complete, or what was there before still is.

A file is written under a hidden name beside its target and takes the target's place when it is whole. What a process that
was killed has left behind goes when the same folder is written to again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

from .errors import OutputError

_PART = re.compile(
    r"\.edgereel-(?P<place>[0-9a-f]{8})-(?P<process>[0-9]+)-[0-9a-f]{16}\.part"
    # Folders, whose prefixes are their makers': before the last part there is a name of ours, or a dot.
    r"|(?:\.|edgereel-).*-(?P<folder_place>[0-9a-f]{8})-(?P<folder_process>[0-9]+)-[0-9a-z_]{8}(?:\.partial)?"
)

_CHUNK: Final = 2**22


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write a file to, which becomes `path` at the end of the block, or vanishes where the block raises.

    Links are followed. Raises OutputError, which names `path`, for what check_file_target refuses and for any system error
    of the block.
    """
    path = Path(path)
    target = check_file_target(path)
    temporary = temporary_beside(target)
    try:
        with output_errors(path):
            yield temporary
            replace_file(temporary, target)
    finally:
        remove(temporary)


def write_text(path: Path, text: str) -> Path:
    """Write a text file, UTF-8, whole or not at all, and return its path. Raises OutputError."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def replace_file(temporary: Path, target: Path) -> None:
    """Give a complete file its name. Raises OSError."""
    synchronise(temporary)
    os.replace(temporary, target)


def synchronise(path: Path) -> None:
    """Have a file's content on the disk: some file systems tell of a full disk only here. Raises OSError."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def synchronise_folder(folder: Path) -> None:
    """Bring renames in a folder to the disk, in the order they were made, where the system can."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):  # some file systems cannot; what power loss leaves is verified when it is read
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(file: BinaryIO) -> str:
    """Return the sha256, in hexadecimal, of what is left to be read of a file. Raises OSError."""
    import hashlib  # loads OpenSSL, which a process that hashes nothing starts without

    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def check_file_target(path: Path, tried: set[Path] | None = None) -> Path:
    """Return the absolute path, links followed, of a file to write, after making sure that it can be.

    tried: folders that are known to take new files; this one's is added.
    Raises OutputError where the folder is missing or cannot be written to, or something other than a file is in the way.
    """
    with output_errors(path):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {path}: it is not a regular file")
        check_parent(path, target, tried)
    return target


def check_parent(path: Path, target: Path, tried: set[Path] | None = None) -> None:
    """Make sure that a target's folder takes new files. Raises OutputError, naming the path that was asked for.

    tried: folders that are known to; this one is added.
    """
    if tried is not None and target.parent in tried:
        return
    with output_errors(path):
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {target.parent} does not exist")
        sweep(target.parent)
        # Permission bits do not tell of read-only and network file systems: only trying does.
        probe = temporary_beside(target)
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    if tried is not None:
        tried.add(target.parent)


def temporary_beside(target: Path, suffix: str = ".part") -> Path:
    """Return a hidden name in the target's folder that nothing has yet, and that says which process it belongs to.

    suffix: any but `.part` for what is still of value should this process end: `sweep` leaves it.
    """
    # The output's own name is left out: with it, a name near the file system's limit would grow past it.
    return target.with_name(f".edgereel-{_place()}-{os.getpid()}-{os.urandom(8).hex()}{suffix}")


def sweep(folder: Path, *, alone: bool = False) -> None:
    """Remove what processes of this machine that no longer run have left half written in a folder, as far as it can be.

    Only names that `temporary_beside` or `folder_prefix` gave are touched, and of those none that another machine or
    container gave, or this one before it was started anew: whether its process still runs cannot be seen from here. alone:
    the caller holds the lock of who may write there, so that whatever is half written goes, after a power cut too.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            match = _PART.fullmatch(name)
            if match is None:
                continue
            ours = (match["place"] or match["folder_place"]) == _place()
            if alone or (ours and not _runs(int(match["process"] or match["folder_process"]))):
                remove(folder / name)


def keep_within(folder: Path, suffix: str, limit: int, needed: Collection[Path] = ()) -> None:
    """Remove files of a suffix, those not used for longest first, until they have at most `limit` bytes; the newest one stays.

    A file was used when it was last changed: who reads one calls os.utime. needed: what stays in any case. What cannot be removed
    is left.
    """
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if path.suffix == suffix and not path.name.startswith("."):
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found)[:-1]:
        if total <= limit:
            return
        if path not in needed:
            remove(path)
            total -= size


def folder_prefix(prefix: str) -> str:
    """Return how the name of a temporary folder begins that `sweep` takes away when this process is gone.

    prefix: begins with a dot or `edgereel-`, ends with a hyphen. Eight characters that tempfile chooses follow.
    """
    return f"{prefix}{_place()}-{os.getpid()}-"


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, where there is one; links are removed, not followed."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Say in one line that a path cannot be written, and why, where the block meets a system error."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@lru_cache(maxsize=1)
def _place() -> str:
    """Return a short name of where process numbers are this process's own: a machine since it started, a container."""
    # Slow to import, and seldom needed.
    import hashlib
    import platform

    facts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError, ValueError):
            facts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    """Tell whether a process of that number runs here; True where that cannot be told."""
    if process == os.getpid() or os.name == "nt":
        return True  # os.kill ends a process on Windows, whatever the signal
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def read_plain(path: Path, limit: int, *, follow_links: bool = False) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises OSError for anything else: for pipes, which are not waited for, devices, folders, and unless follow_links, links.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags if follow_links else flags | getattr(os, "O_NOFOLLOW", 0))
    with open(descriptor, "rb") as file:
        information = os.fstat(descriptor)
        if not stat.S_ISREG(information.st_mode):
            raise OSError("it is not a regular file")
        if information.st_size > limit:
            raise OSError(f"{information.st_size} bytes are more than the {limit} that it may have")
        content = file.read(limit + 1)  # it may have grown since
    if len(content) > limit:
        raise OSError(f"it has more than {limit} bytes")
    return content
