"""The commands of `edgereel bench`."""

from . import run, serve

__all__ = ["run", "serve"]
