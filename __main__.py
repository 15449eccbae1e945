"""`python -m edgereel`, and what the `edgereel` command starts."""

from __future__ import annotations

import sys

from .core.interrupts import end_on_signals, how_it_ended, interrupts_wait
from .core.processes import leave_current_folder
from .core.streams import open_standard_files, output_streams


def main() -> None:
    """Run the command line; ctrl-C and SIGTERM while it is still being imported end it as quietly as later."""
    open_standard_files()
    end_on_signals()
    try:
        with interrupts_wait():
            from .cli import main as run
    except KeyboardInterrupt:
        word, exit_code = how_it_ended()
        with output_streams():
            print(f"edgereel: {word}", file=sys.stderr)
        sys.exit(exit_code)
    run()


if __name__ == "__main__":
    leave_current_folder()
    main()
