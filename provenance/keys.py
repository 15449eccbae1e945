"""The key that a device signs with, and the certificate that goes with it.

`create` makes a root and, issued by it, a certificate for ten years; the root's key is thrown away, so that nothing else is
ever issued by it. Such a certificate proves "unchanged since this device made it", and to who trusts the root which device
that was. A company puts its own key and chain in its place.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UsageError, brief, one_line, require_packages
from ..core.files import output_errors, read_plain, replace_file, temporary_beside
from ..core.paths import home_folder

KEY, CHAIN, ROOT, FACTS = "key.pem", "chain.pem", "root.pem", "identity.json"
_LARGEST = 2**16
_YEARS = 10
_ROOT_NAME = "edgereel device root"
_NOT_BEFORE = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)
"""This release did not exist before: a clock that says so is wrong."""
_NOT_AFTER = datetime.datetime(2100, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True)
class Identity:
    """Who signs. key, chain: PEM; the chain begins with the signer's certificate. expires: when that ends to be valid.

    maker: 24 bits of the hash of its public key, which the watermark carries. algorithm: `es256`, `es384`, `ps256` or
    `ed25519`. time_stamps: the address of an RFC 3161 service that is asked for a time stamp; None: no one is asked.
    """

    key: bytes
    chain: bytes
    name: str
    expires: datetime.datetime
    maker: int
    algorithm: str
    time_stamps: str | None = None


def keys_folder() -> Path:
    """Return where the key is kept: $EDGEREEL_KEYS, or `keys` in the home folder."""
    chosen = os.environ.get("EDGEREEL_KEYS")
    return Path(os.path.expanduser(chosen)).absolute() if chosen else home_folder() / "keys"


def create(name: str, folder: Path | None = None, *, now: datetime.datetime | None = None) -> Path:
    """Make a key and a certificate of that name, and return the folder that they are in.

    name: what verifiers show as the signer, 1 to 64 characters. Raises UsageError where there is a key already or the clock is
    wrong, OutputError where they cannot be written, MissingExtraError.
    """
    require_packages(["cryptography"], "provenance", "making a key")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise UsageError(f"a signer's name has 1 to 64 printable characters: {name[:70]!r} is none")
    now = check_clock(now)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def subject(common_name: str) -> x509.Name:
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)]
        return x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])

    def certificate(common_name: str, public_key: Any, authority: bool) -> x509.Certificate:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject(common_name))
            .issuer_name(subject(_ROOT_NAME))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365 * _YEARS + _YEARS // 4))
            .add_extension(x509.BasicConstraints(authority, 0 if authority else None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not authority,
                    key_cert_sign=authority,
                    crl_sign=authority,
                    decipher_only=False,
                    **usage,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        if not authority:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
            # The standard refuses certificates for web servers; this use is one of those that it takes.
            use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(use, critical=False).add_extension(issuer, critical=False)
        return builder.sign(root_key, hashes.SHA256())

    root = certificate(_ROOT_NAME, root_key.public_key(), True)
    leaf = certificate("edgereel device", key.public_key(), False)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = serialization.Encoding.PEM
    return _keep(folder or keys_folder(), secret, leaf.public_bytes(pem), root.public_bytes(pem))


def adopt(key: Path, chain: Path, folder: Path | None = None) -> Path:
    """Keep a company's own key and certificate chain, both PEM, as this device's; return the folder that they are in.

    chain: the signer's certificate first, the root last. Raises as `create` and `load`.
    """
    secret, certificates = _read(key), _read(chain)
    _identity(secret, certificates, chain)
    end = b"-----END CERTIFICATE-----\n"
    parts = [part + end for part in certificates.replace(b"\r\n", b"\n").split(end) if part.strip()]
    return _keep(folder or keys_folder(), secret, b"".join(parts[:-1]) or parts[0], parts[-1])


def load(folder: Path | None = None, *, now: datetime.datetime | None = None) -> Identity:
    """Return who signs here. Raises UsageError where there is no key, it is no good, has expired or the clock is wrong."""
    folder = folder or keys_folder()
    if not (folder / KEY).exists():
        raise UsageError(f"there is no key to sign with in {one_line(folder)}: make one with edgereel provenance init")
    secret, chain = _read(folder / KEY), _read(folder / CHAIN)
    identity = _kept_identity(folder, secret, chain) or _identity(secret, chain, folder / CHAIN)
    now = check_clock(now)
    if now > identity.expires:
        raise UsageError(
            f"the certificate in {one_line(folder)} expired on {identity.expires:%Y-%m-%d}: move that folder away and make a "
            "new one with edgereel provenance init"
        )
    return identity


def own_root(folder: Path | None = None) -> bytes | None:
    """Return the root certificate of this device, PEM, None where there is none."""
    with contextlib.suppress(OSError, UsageError):
        return read_plain((folder or keys_folder()) / ROOT, _LARGEST, follow_links=True)
    return None


def check_clock(now: datetime.datetime | None = None) -> datetime.datetime:
    """Return the time. Raises UsageError where the clock is plainly wrong: boards without a battery start in 1970."""
    now = now or datetime.datetime.now(datetime.timezone.utc)
    if not _NOT_BEFORE <= now < _NOT_AFTER:
        raise UsageError(f"the clock says {now:%Y-%m-%d}, so nothing can be signed: set the clock first")
    return now


def _kept_identity(folder: Path, secret: bytes, chain: bytes) -> Identity | None:
    """Return what was found of a key and a chain when they were kept, None if these are others.

    Reading certificates takes a library that doubles the time in which a process that signs starts.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads(read_plain(folder / FACTS, _LARGEST, follow_links=True))
        if facts["of"] == _sha256(secret + chain).hex():
            expires = datetime.datetime.fromisoformat(facts["expires"])
            return Identity(secret, chain, facts["name"], expires, facts["maker"], facts["algorithm"], _time_stamps())
    return None


def _time_stamps() -> str | None:
    return os.environ.get("EDGEREEL_TIME_STAMPS") or None


def _identity(secret: bytes, chain: bytes, path: Path) -> Identity:
    require_packages(["cryptography"], "provenance", "signing")
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        certificates = x509.load_pem_x509_certificates(chain)
        key = serialization.load_pem_private_key(secret, None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{one_line(path)}: no PEM key with a chain of certificates: {brief(error)}") from error
    first = certificates[0]
    if key.public_key() != first.public_key():
        raise UsageError(f"{one_line(path)}: its first certificate is that of another key")
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp256r1", "secp384r1"):
        algorithm = "es256" if key.curve.name == "secp256r1" else "es384"
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    else:
        raise UsageError(f"{one_line(path)}: C2PA signs with P-256, P-384, RSA or Ed25519 keys, not this one")
    public = first.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    names = first.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME) or list(first.subject)
    return Identity(
        secret,
        chain,
        str(names[0].value) if names else "",
        first.not_valid_after_utc,
        int.from_bytes(_sha256(public)[:3], "big"),
        algorithm,
        _time_stamps(),
    )


def _keep(folder: Path, secret: bytes, leaf: bytes, root: bytes) -> Path:
    """Write the key, last and for its owner's eyes alone, where there is none yet."""
    if (folder / KEY).exists():
        raise UsageError(
            f"there is a key in {one_line(folder)} already, which signed earlier clips: move it away first"
        )
    chain = leaf if leaf == root else leaf + root
    identity = _identity(secret, chain, folder / CHAIN)
    facts = {
        "of": _sha256(secret + chain).hex(),
        "name": identity.name,
        "expires": identity.expires.isoformat(),
        "maker": identity.maker,
        "algorithm": identity.algorithm,
    }
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, content in ((ROOT, root), (CHAIN, chain), (FACTS, json.dumps(facts).encode()), (KEY, secret)):
            temporary = temporary_beside(folder / name)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(content)
            replace_file(temporary, folder / name)
    return folder


def _sha256(content: bytes) -> bytes:
    import hashlib  # loads OpenSSL, which a process that signs nothing starts without

    return hashlib.sha256(content).digest()


def _read(path: Path) -> bytes:
    try:
        return read_plain(path, _LARGEST, follow_links=True)
    except OSError as error:
        raise UsageError(f"{one_line(path)}: cannot be read: {error.strerror or error}") from error
