"""The command line: it reads arguments, shows progress, prints results, and holds no logic of its own."""

# in this order --help lists their commands

from .application import app, main

__all__ = ["app", "benching", "devices", "generating", "looking", "main", "making"]
