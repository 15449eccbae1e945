"""`python -m edgereel`, and what the `edgereel` command starts."""

from __future__ import annotations

import sys

from .interrupts import interrupts_wait


def main() -> None:
    """Run the command line; ctrl-C while it is still being imported ends it as quietly as later."""
    try:
        with interrupts_wait():
            from .cli import main as run
    except KeyboardInterrupt:
        print("edgereel: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
