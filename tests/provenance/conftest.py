"""A device with a key, and a clip that it signed."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """Keep the user's own keys and log out of the tests."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EDGEREEL_HOME", str(folder))
    for name in ("EDGEREEL_KEYS", "EDGEREEL_MARK", "EDGEREEL_TIME_STAMPS", "EDGEREEL_WATERMARK_KEY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def device(tmp_path_factory):
    """The folder of a key."""
    from edgereel.provenance import keys

    return keys.create("Test Booth 7", tmp_path_factory.mktemp("device") / "keys")


@pytest.fixture
def identity(device):
    from edgereel.provenance import keys

    return keys.load(device)
