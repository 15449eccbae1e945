"""Every error edgereel raises on purpose, in one tree.

    EdgereelError                     anything below; the command line prints it as one line
    ├── UsageError                    the caller's input cannot be used as given (exit code 2)
    │   ├── PromptError               empty, too long, or made of words the model does not know
    │   └── GeometryError             a size or number of frames the model cannot do
    ├── BundleError                   a .reel folder is damaged, unsafe or too new
    │   └── MissingBundle             there is none of that name (exit code 2, as for every input that is not there)
    ├── CheckpointError               a checkpoint folder or a LoRA cannot be exported
    ├── ParityError                   an exported graph does not compute what the torch module computes
    ├── QualityError                  a quantized bundle is further from its source than was asked for
    ├── EngineError                   a graph cannot be opened or run on the asked device
    │   └── OutOfMemory               the device has not enough memory to open or run it
    ├── PlanError                     nothing that could be done fits into the memory there is (exit code 1)
    ├── OutputError                   the result cannot be written
    ├── MissingExtraError             an optional dependency is not installed
    └── Cancelled                     the caller's progress callback asked to stop (exit code 130)

Messages say what is wrong, with which file or value, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec


def one_line(text: object) -> str:
    """Return text as one line that cannot steer a terminal: what is not printable, line ends included, is escaped.

    File names and what a bundle says of itself end up in messages, and neither is to be trusted.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(text)
    )


def brief(error: BaseException, limit: int = 200) -> str:
    """Return another library's message on one line, at most `limit` characters, to be quoted in one of ours."""
    return " ".join(str(error).split())[:limit]


class EdgereelError(Exception):
    """Base of every error that edgereel raises on purpose."""

    exit_code = 1


class UsageError(EdgereelError):
    """The caller's input cannot be used as given."""

    exit_code = 2


class PromptError(UsageError):
    """The prompt is empty, too long, or has words the model does not know."""


class GeometryError(UsageError):
    """The model cannot produce this size or number of frames."""


class BundleError(EdgereelError):
    """A bundle is missing, damaged, unsafe or of an unknown schema version."""


class MissingBundle(BundleError):
    """There is no bundle of the name that was given."""

    exit_code = UsageError.exit_code


class CheckpointError(EdgereelError):
    """A checkpoint folder or a LoRA cannot be exported."""


class ParityError(EdgereelError):
    """An exported graph differs from its torch module by more than is allowed."""


class QualityError(EdgereelError):
    """A quantized bundle is further from its source than was asked for."""


class EngineError(EdgereelError):
    """A graph cannot be opened or run on the asked device."""


class OutOfMemory(EngineError):
    """The device has not enough free memory to open a graph or to run it."""


class PlanError(EdgereelError):
    """No way of running the bundle fits into the memory that may be used."""


class OutputError(EdgereelError):
    """The result cannot be written where it was asked for."""


class MissingExtraError(EdgereelError):
    """An optional dependency is not installed; the message carries the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {package}, which is not installed: pip install "edgereel[{extra}]"')


def require_packages(packages: Sequence[str], extra: str, purpose: str) -> None:
    """Raise MissingExtraError, naming the first, where packages of an extra are not installed; none is imported."""
    for package in packages:
        try:
            found = find_spec(package) is not None
        except ValueError:  # blocked by sys.modules[package] = None
            found = False
        if not found:
            raise MissingExtraError(package, extra, purpose)


class Cancelled(EdgereelError):
    """The caller's progress callback asked to stop."""

    exit_code = 130
