"""`python -m edgereel`, and what the `edgereel` command starts."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; ctrl-C while it is still being imported ends it as quietly as later."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
