"""The command line: it reads arguments, shows progress, prints results, and holds no logic of its own."""

from . import bench, devices, export, generate, inspect  # in this order --help lists their commands
from .application import app, main

__all__ = ["app", "bench", "devices", "export", "generate", "inspect", "main"]
