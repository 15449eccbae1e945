"""Output streams of a program that are closed, full or hung up: no traceback, and who asks is told."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO, cast

_STDERR: Final = 2
_held = threading.RLock()


class OutputStreams:
    """How a program's output went. lost: why what it printed on stdout has not all arrived, None where it has."""

    def __init__(self, stdout: TextIO, stderr: TextIO) -> None:
        self.lost: OSError | None = None
        self._stdout, self._stderr = stdout, stderr

    def settle(self) -> None:
        """Have everything written, and note where that fails; Python would complain once more, and end with code 120."""
        try:
            self._stdout.flush()
        except OSError as error:
            self.lost = self.lost or error
            _leave(self._stdout)
        try:
            self._stderr.flush()
        except OSError:
            _leave(self._stderr)


@contextmanager
def output_streams() -> Iterator[OutputStreams]:
    """Give stdout and stderr that can be printed on, for the time of the block, whatever there is in their place.

    Where stdout is closed, or there is none as in a windowed program, what is printed goes nowhere, and `lost` says so:
    a command does its work all the same. What cannot be written on stderr goes nowhere.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        stdout, stderr = (stream if _is_open(stream) else nothing for stream in before)
        for stream in (stdout, stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        streams = OutputStreams(stdout, stderr)
        if stdout is nothing:
            streams.lost = OSError(errno.EBADF, "it is closed")
        sys.stdout, sys.stderr = cast(TextIO, _Noting(stdout, streams)), cast(TextIO, _Forgiving(stderr))
        try:
            yield streams
        finally:
            streams.settle()
            sys.stdout, sys.stderr = before


def open_standard_files() -> None:
    """Open what is closed of a process's first three files as nothing.

    Otherwise the next file that is opened, such as a video, takes the number, and whatever is printed goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest number that is free


@contextmanager
def native_words_held() -> Iterator[None]:
    """Hold back what native libraries print on stderr in the block: where it raises, the error says it, and nothing else.

    Libraries write to the process's file past Python, a panic in Rust before it becomes an exception. Where the block does
    not raise, what was held is printed at its end.
    """
    with _held, contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(_STDERR)
        except OSError:  # no stderr, or nowhere to hold anything
            yield
            return
        opened.callback(os.close, stderr)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
        os.dup2(file.fileno(), _STDERR)
        try:
            yield
        except BaseException:
            os.dup2(stderr, _STDERR)
            raise
        os.dup2(stderr, _STDERR)
        file.seek(0)
        if words := file.read():
            with contextlib.suppress(OSError):
                os.write(stderr, words)


class _Noting:
    """A text stream that notes what cannot be written: an unbuffered one says so once only."""

    def __init__(self, stream: TextIO, streams: OutputStreams) -> None:
        self._stream, self._streams = stream, streams

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._streams.lost = self._streams.lost or error
            raise

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._streams.lost = self._streams.lost or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Forgiving:
    """A text stream that drops what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_open(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed


def _leave(stream: TextIO) -> None:
    """Point a stream's file to nothing, so that what is still in its buffer can be written at last."""
    with contextlib.suppress(OSError, ValueError):
        number, nothing = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)
        stream.flush()
