"""The application that commands are added to, and how a run of it ends."""

from __future__ import annotations

import sys
from copy import copy
from typing import Annotated, Any, NoReturn

import typer

from ..core.errors import Cancelled, EdgereelError, UsageError, one_line
from ..core.interrupts import how_it_ended
from ..core.streams import OutputStreams, output_streams
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


def main() -> NoReturn:
    """Run the command line: 0 done, 1 failed, 2 wrong usage or input, 129 hung up, 130 interrupted, 143 terminated.

    What could not be printed on stdout is a failure too, once the work is done.
    """
    with output_streams() as streams:
        message, exit_code = _run(streams)
        streams.settle()
        if streams.lost is not None and not exit_code:
            message, exit_code = _lost_output(streams.lost)
        if message:
            text = f"edgereel: {one_line(message)}"
            stderr.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(exit_code)


def _run(streams: OutputStreams) -> tuple[str, int]:
    """Run the command that the arguments say; return what is to be said of its end, "" for nothing, and the exit code."""
    try:
        arguments = sys.argv[1:] or ["--help"]
        status = _with_one_command(arguments[0])(args=arguments, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort, Cancelled):
        return how_it_ended()
    except EdgereelError as error:
        return str(error), error.exit_code
    except _WrongUsage as error:
        message = error.format_message()
        quotes = ": put the prompt in quotes" if "extra argument" in message and sys.argv[1:2] == ["generate"] else ""
        return f"{message}{quotes}", UsageError.exit_code
    except MemoryError as error:
        advice = ": try a smaller size or fewer frames" if sys.argv[1:2] in (["generate"], ["decode"]) else ""
        return f"not enough memory{advice} ({error})", EdgereelError.exit_code
    except OSError as error:
        streams.settle()
        if streams.lost is not None and streams.lost.errno == error.errno:
            return _lost_output(streams.lost)
        return str(error), EdgereelError.exit_code
    if status == Cancelled.exit_code:
        return how_it_ended()
    return "", status if isinstance(status, int) else 0


def _with_one_command(name: str) -> typer.Typer:
    """Return the application with the command or group of that name alone, or whole: building all takes 0.1 s."""
    one = copy(app)
    one.registered_commands = [each for each in app.registered_commands if name == _name_of(each)]
    one.registered_groups = [each for each in app.registered_groups if name == each.name]
    return one if one.registered_commands or one.registered_groups else app


def _name_of(command: Any) -> str:
    return str(command.name or typer.main.get_command_name(command.callback.__name__))


def _lost_output(error: OSError) -> tuple[str, int]:
    # Whoever read the output and has closed it knows.
    message = "" if isinstance(error, BrokenPipeError) else f"cannot write to stdout: {error.strerror or error}"
    return message, EdgereelError.exit_code
