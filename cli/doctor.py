"""The command that looks at the machine."""

from __future__ import annotations

import typer

from ..core.errors import EdgereelError
from ..core.interrupts import interrupts_wait
from .application import app
from .options import JsonOption
from .terminal import print_json, print_report


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine has, what is missing, and the commands that bring it; 0 if a video can be made, 1 if not."""
    with interrupts_wait():
        from ..doctor.report import examine

    report = examine()
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report)
    raise typer.Exit(0 if report.ready else EdgereelError.exit_code)
