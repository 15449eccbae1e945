"""The key of a device: made once, for its owner's eyes alone, used while it is valid and the clock is right."""

from __future__ import annotations

import datetime
import stat
import sys

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from edgereel.core.errors import UsageError
from edgereel.provenance import keys

NOW = datetime.datetime(2027, 3, 1, tzinfo=datetime.timezone.utc)


def test_a_key_is_made_for_its_owners_eyes(tmp_path):
    folder = keys.create("Booth", tmp_path / "keys", now=NOW)
    assert sorted(path.name for path in folder.iterdir()) == ["chain.pem", "identity.json", "key.pem", "root.pem"]
    if sys.platform != "win32":
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    identity = keys.load(folder, now=NOW)
    assert (identity.name, identity.algorithm) == ("Booth", "es256")
    assert identity.expires > NOW + datetime.timedelta(days=3650)
    assert 0 <= identity.maker < 2**24
    leaf, root = x509.load_pem_x509_certificates(identity.chain)
    leaf.verify_directly_issued_by(root)
    assert root.public_bytes(serialization.Encoding.PEM) == keys.own_root(folder)


def test_a_key_is_never_replaced(tmp_path):
    folder = keys.create("Booth", tmp_path / "keys")
    before = (folder / "key.pem").read_bytes()
    with pytest.raises(UsageError, match="there is a key in"):
        keys.create("Booth", folder)
    assert (folder / "key.pem").read_bytes() == before


@pytest.mark.parametrize("year", [1970, 2025, 2150])
def test_a_wrong_clock_is_noticed(year, tmp_path):
    with pytest.raises(UsageError, match="set the clock first"):
        keys.create("Booth", tmp_path / "keys", now=datetime.datetime(year, 1, 2, tzinfo=datetime.timezone.utc))
    assert not (tmp_path / "keys").exists()


def test_an_expired_certificate_signs_nothing(tmp_path):
    folder = keys.create("Booth", tmp_path / "keys", now=NOW)
    with pytest.raises(UsageError, match="expired on 2037"):
        keys.load(folder, now=NOW + datetime.timedelta(days=3700))


def test_ones_own_key_takes_the_devices_place(tmp_path):
    own = keys.create("Company", tmp_path / "own", now=NOW)
    folder = keys.adopt(own / "key.pem", own / "chain.pem", tmp_path / "keys")
    assert keys.load(folder, now=NOW) == keys.load(own, now=NOW)
    assert keys.own_root(folder) == keys.own_root(own)


def test_keys_that_do_not_fit_are_refused(tmp_path):
    one, other = (keys.create("Booth", tmp_path / name) for name in ("one", "other"))
    with pytest.raises(UsageError, match="that of another key"):
        keys.adopt(one / "key.pem", other / "chain.pem", tmp_path / "keys")
    (one / "chain.pem").write_text("nothing")
    with pytest.raises(UsageError, match="no PEM key with a chain"):
        keys.load(one)
    with pytest.raises(UsageError, match="make one with edgereel provenance init"):
        keys.load(tmp_path / "none")


@pytest.mark.parametrize("name", ["", "x" * 65, "two\nlines"])
def test_names_that_are_none(name, tmp_path):
    with pytest.raises(UsageError, match="1 to 64 printable"):
        keys.create(name, tmp_path / "keys")


def test_what_was_kept_of_a_certificate_is_what_it_says(tmp_path):
    """Certificates are not read each time; one that was put in another's place is."""
    folder, other = (keys.create(name, tmp_path / name, now=NOW) for name in ("one", "other"))
    kept = keys.load(folder, now=NOW)
    facts = (folder / "identity.json").read_bytes()
    (folder / "identity.json").unlink()
    assert keys.load(folder, now=NOW) == kept
    (folder / "identity.json").write_bytes(facts)
    for name in ("key.pem", "chain.pem"):
        (folder / name).write_bytes((other / name).read_bytes())
    assert keys.load(folder, now=NOW).name == "other"
    (folder / "identity.json").write_text("[]")
    assert keys.load(folder, now=NOW).name == "other"
