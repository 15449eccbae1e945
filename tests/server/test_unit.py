"""The unit that systemd runs a server by: what it may do is held here, where systemd is there to judge it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgereel.server.configuration import DEFAULT_PORT, Limits
from edgereel.server.unit import unit_text

pytestmark = pytest.mark.lean

MOST_EXPOSED = 1.1
"""Of 10: a unit without any of it has 9.6. What is left is the network and the GPU's devices."""


def settings():
    return dict(line.split("=", 1) for line in unit_text().splitlines() if "=" in line and not line.startswith("#"))


@pytest.fixture
def unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    path = tmp_path / "edgereel.service"
    path.write_text(unit_text(Path("/bin/true")))
    return path


def test_it_is_printed(run):
    code, out, err = run("serve", "--print-unit")
    assert (code, err) == (0, "")
    assert out == unit_text()
    assert f"ExecStart={sys.prefix}/bin/edgereel serve" in out
    assert "@" not in re.sub("@(system-service|privileged|resources)", "", out)


def test_paths_that_mean_something_to_systemd():
    assert "ExecStart=/a\\x20b/c%%d/edgereel serve" in unit_text(Path("/a b/c%d/edgereel"))


def test_it_agrees_with_the_server():
    """Time to end a running job, the port, and who is told to end: the server, not its workers."""
    found = settings()
    assert int(found["TimeoutStopSec"]) > Limits().stop_seconds + 10
    assert found["SocketBindAllow"] == f"tcp:{DEFAULT_PORT}"
    assert found["KillMode"] == "mixed"
    assert found["Type"] == "notify"


def test_systemd_knows_every_line(unit):
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_its_exposure_is_held(unit):
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    judged = subprocess.run(command, capture_output=True, text=True)
    if "nrecognized option" in judged.stderr:
        pytest.skip("this systemd judges no file")
    level = re.search(r"exposure level for edgereel.service: ([0-9.]+)", judged.stdout)
    assert level is not None, judged.stderr
    assert float(level[1]) <= MOST_EXPOSED
