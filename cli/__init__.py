"""The command line: it reads arguments, shows progress, prints results, and holds no logic."""

# In this order --help lists their commands.
from . import generate, film, story, campaign, serve, provenance, inspect, models, doctor, plan, cache, export  # isort: skip
from . import calibrate, bench, bench_serve  # isort: skip
from .application import app, main

__all__ = [
    "app",
    "bench",
    "bench_serve",
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
