"""`python -m edgereel`."""

from .cli import main

main()
