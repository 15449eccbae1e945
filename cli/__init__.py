"""The command line: it reads arguments, shows progress, prints results, and holds no logic of its own."""

from . import bench as benching  # in this order --help lists their commands
from . import devices
from . import export as making
from . import generate as generating
from . import inspect as looking
from .application import app, main

__all__ = ["app", "benching", "devices", "generating", "looking", "main", "making"]
