"""The command line: it reads arguments, shows progress, prints results, and holds no logic."""

# In this order --help lists their commands.
from . import generate, film, story, campaign, serve, provenance, inspect, models, doctor, plan, cache, export  # isort: skip
from . import calibrate, bench  # isort: skip
from .application import app, main

__all__ = [
    "app",
    "bench",
    "cache",
    "calibrate",
    "campaign",
    "doctor",
    "export",
    "film",
    "generate",
    "inspect",
    "main",
    "models",
    "plan",
    "provenance",
    "serve",
    "story",
]
