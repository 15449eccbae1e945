"""Processes of Python that edgereel starts: they run the edgereel that started them, and no module of the current folder.

Python looks for modules in the current folder first where it is started with `-m` or `-c`. A `json.py` or `numpy.py` that
happens to be there would run in the place of the real one.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

_START = """\
import sys
sys.path[:] = {path}
import os, runpy
from importlib.util import module_from_spec, spec_from_file_location
os.environ["PYTHONSAFEPATH"] = "1"
spec = spec_from_file_location("edgereel", {package})
sys.modules["edgereel"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["edgereel"])
runpy.run_module({module}, run_name="__main__", alter_sys=True)
"""
"""Until its second line the program may import nothing but `sys`, which is built in."""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of edgereel as a program of its own, wherever it is started.

    It is the edgereel that runs here, with the packages that are found here. Processes that it starts in turn look for no
    modules in the current folder either, from Python 3.11 on.
    """
    path, package = safe_path(), str(Path(__file__).resolve().parent.parent / "__init__.py")
    # Escaped, so that folders whose names are not UTF-8 come through; without `-P` Python 3.13 imports before it begins.
    program = _START.format(path=ascii(path), package=ascii(package), module=ascii(module))
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-c", program, *arguments]


def safe_path() -> list[str]:
    """Return the folders that modules are imported from here, without the current one.

    It stays where it is one that packages are installed in, or is named in full in PYTHONPATH.
    """
    try:
        here = os.path.realpath(os.curdir)
    except OSError:  # the current folder was removed
        here = ""
    wanted = {os.path.realpath(folder) for folder in _folders_of_python()}
    return [
        folder for folder in sys.path if os.path.isabs(folder) and (os.path.realpath(folder) != here or here in wanted)
    ]


def leave_current_folder() -> None:
    """Take the current folder out of this process's own path: for `python -m edgereel`, where Python has put it first."""
    sys.path[:] = safe_path()


def _folders_of_python() -> list[str]:
    """Return the folders of the standard library, of installed packages and, those named in full, of PYTHONPATH."""
    named = filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [os.path.dirname(os.__file__), *site.getsitepackages(), *user, *named]
