"""The command line: it reads arguments, shows progress, prints results, and holds no logic."""

# In this order --help lists their commands.
from . import generate, film, story, provenance, inspect, models, doctor, plan, cache, export, calibrate, bench  # isort: skip
from .application import app, main

__all__ = [
    "app",
    "bench",
    "cache",
    "calibrate",
    "doctor",
    "export",
    "film",
    "generate",
    "inspect",
    "main",
    "models",
    "plan",
    "provenance",
    "story",
]
