"""One server for all tests of a process, with the demo, in a process of its own: a start costs three seconds."""

from __future__ import annotations

import pytest
from helpers.served import Served, home


@pytest.fixture(scope="session")
def served_home(tmp_path_factory):
    """A home and a cache that all servers of this run share: graphs are lowered once."""
    return home(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(tmp_path_factory, served_home):
    served = Served(tmp_path_factory.mktemp("server") / "data", "--queue", "20", environment=served_home)
    yield served
    assert served.end() == 0, "".join(served.lines)
