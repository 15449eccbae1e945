"""The command line: it reads arguments, shows progress, prints results, and holds no logic."""

# In this order --help lists their commands.
from . import (
    bench,
    cache,
    calibrate,
    campaign,
    doctor,
    export,
    film,
    generate,
    inspect,
    models,
    plan,
    provenance,
    story,
)  # isort: skip
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
    "story",
]
