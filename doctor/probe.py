"""Loading the native packages and asking the engines, in a process of its own: one that is broken can end Python.

The process prints a line of JSON before and after each thing that it tries, so that a crash says what it was.
"""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ..core.errors import brief, one_line
from ..core.processes import python_command

PACKAGES = ("numpy", "tokenizers", "av", "onnxruntime")


@dataclass
class Probe:
    """What could be loaded. engines: why each engine of ours cannot run, None where it can.

    loaded: what each package tells of itself (`libx264`: whether PyAV has it; `providers`: ONNX Runtime's).
    failed: the reason for each package that cannot be loaded. choice, why: the engine that `auto` takes, and one sentence
    that says why. problem: why there is no answer on the engines.
    """

    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    engines: dict[str, str | None] = field(default_factory=dict)
    choice: str = ""
    why: str = ""
    problem: str = ""


def probe(timeout: float = 60) -> Probe:
    """Load the packages and ask the engines in another process. timeout: seconds."""
    command = python_command("edgereel.doctor.probe")
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        return read_probe(output.decode(errors="replace") if isinstance(output, bytes) else output, "hangs")
    except OSError as error:
        return Probe(problem=f"Python cannot be started again: {brief(error)}")
    if ended.returncode < 0:
        try:
            name = signal.Signals(-ended.returncode).name
        except ValueError:
            name = f"signal {-ended.returncode}"
        return read_probe(ended.stdout, f"ends Python ({name})")
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        return read_probe(ended.stdout, f"failed: {one_line(last[:200]) or f'exit code {ended.returncode}'}")
    return read_probe(ended.stdout, "")


def read_probe(output: str, end: str) -> Probe:
    """Return what the lines that `main` printed say. end: how its process went wrong, "" if it did not."""
    found = Probe()
    trying = ""
    for line in output.splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # a library that prints
            continue
        if not isinstance(event, dict):
            continue
        name = str(event.get("name"))
        kind = event.get("event")
        trying = name if kind == "try" else ""
        if kind == "loaded":
            found.loaded[name] = event["facts"]
        elif kind == "failed":
            found.failed[name] = event["reason"]
        elif kind == "engine":
            found.engines[name] = event["reason"]
        elif kind == "choice":
            found.choice, found.why = name, event["why"]
    if trying in PACKAGES:
        found.failed[trying] = f"loading it {end}"
        found.problem = f"loading {trying} {end}"
    elif end:
        found.problem = f"trying {trying or 'them'} {end}"
    return found


def main() -> None:
    """Try everything and print a line of JSON before and after each."""
    for name in PACKAGES:
        _say("try", name)
        try:
            _say("loaded", name, facts=_facts(name, import_module(name)))
        except Exception as error:
            _say("failed", name, reason=one_line(brief(error)) or type(error).__name__)
    from ..engines import ENGINES
    from ..engines.choosing import choose

    reasons = {}
    for name, engine in ENGINES.items():
        _say("try", name)
        reasons[name] = engine().unavailable()
        _say("engine", name, reason=reasons[name])
    choice = choose(reasons)
    _say("choice", choice.name, why=choice.why)


def _facts(name: str, module: Any) -> dict[str, Any]:
    if name == "av":
        return {"libx264": _has_encoder(module, "libx264")}
    if name == "onnxruntime":
        return {"version": module.__version__, "providers": list(module.get_available_providers())}
    return {}


def _has_encoder(av: Any, name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


def _say(event: str, name: str, **more: Any) -> None:
    print(json.dumps({"event": event, "name": name, **more}), flush=True)


if __name__ == "__main__":
    main()
