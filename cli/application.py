"""The application that commands are added to, and how a run of it ends."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from ..core.errors import Cancelled, EdgereelError, UsageError, one_line
from ..core.interrupts import how_it_ended
from ..core.version import __version__
from .terminal import stderr

app = typer.Typer(
    name="edgereel",
    help="Run text-to-video diffusion models offline: export once, then generate with no torch installed.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
# ClickException: typer brings a click of its own from some version on, so it is found as what both have in common.
_WrongUsage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _show_version(value: bool) -> None:
    if value:
        print(f"edgereel {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


def main() -> None:
    """Run the command line: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted, 143 terminated."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has closed it; Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort, Cancelled):
        status = Cancelled.exit_code
    except EdgereelError as error:
        _fail(str(error), error.exit_code)
    except _WrongUsage as error:
        message = error.format_message()
        quotes = ": put the prompt in quotes" if "extra argument" in message and sys.argv[1:2] == ["generate"] else ""
        _fail(f"{message}{quotes}", UsageError.exit_code)
    except MemoryError as error:
        advice = ": try a smaller size or fewer frames" if sys.argv[1:2] in (["generate"], ["decode"]) else ""
        _fail(f"not enough memory{advice} ({error})", EdgereelError.exit_code)
    except OSError as error:
        _fail(str(error), EdgereelError.exit_code)
    if status == Cancelled.exit_code:
        _fail(*how_it_ended())
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, exit_code: int) -> NoReturn:
    stderr.print(f"edgereel: {one_line(message)}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(exit_code)
