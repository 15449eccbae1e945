"""A second reader of C2PA manifests in MP4 files, after the specification: JUMBF, CBOR, COSE, hashes.

It shares nothing with the library c2pa.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def boxes(data: bytes, start: int = 0) -> list[tuple[bytes, int, int, int]]:
    """Return (type, offset, offset of the content, end) of the boxes one after another in ISO base format or JUMBF."""
    found = []
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        end = start + size if size else len(data)
        found.append((kind, start, start + header, end))
        start = end
    return found


def cbor(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Return the value at an offset, and where it ends; tags are dropped."""
    kind, number = data[at] >> 5, data[at] & 31
    at += 1
    if kind == 7:
        return {20: False, 21: True, 22: None}[number], at
    if number >= 24:
        length = 1 << (number - 24)
        number, at = int.from_bytes(data[at : at + length], "big"), at + length
    if kind in (0, 1):
        return (number if kind == 0 else -1 - number), at
    if kind in (2, 3):
        value = data[at : at + number]
        return (value if kind == 2 else value.decode()), at + number
    if kind == 4:
        items = []
        for _ in range(number):
            item, at = cbor(data, at)
            items.append(item)
        return items, at
    if kind == 5:
        pairs = {}
        for _ in range(number):
            key, at = cbor(data, at)
            pairs[key], at = cbor(data, at)
        return pairs, at
    return cbor(data, at)


def byte_string(value: bytes) -> bytes:
    """Return bytes as CBOR has them."""
    return (bytes([0x40 | len(value)]) if len(value) < 24 else b"\x59" + struct.pack(">H", len(value))) + value


def superboxes(data: bytes, path: str = "") -> dict[str, bytes]:
    """Return the content of every JUMBF superbox by its path of labels."""
    found = {}
    for kind, _, start, end in boxes(data):
        if kind == b"jumb":
            content = data[start:end]
            (_, _, description, after), *_ = boxes(content)
            label = content[description + 17 : after].split(b"\0")[0].decode()
            name = f"{path}/{label}"
            found[name] = content
            found |= superboxes(content[after:], name)
    return found


def payload(superbox: bytes) -> bytes:
    """Return the CBOR in a superbox."""
    return next(superbox[start:end] for kind, _, start, end in boxes(superbox) if kind == b"cbor")


def check_mp4(data: bytes) -> tuple[x509.Certificate, dict[str, Any]]:
    """Return who signed a file's active manifest, and its assertions by label. Raises where anything does not fit."""
    top = boxes(data)
    box = next(
        data[start:end] for kind, _, start, end in top if kind == b"uuid" and data[start : start + 16] == C2PA_BOX
    )
    purpose_end = box.index(b"\0", 20)
    assert box[20:purpose_end] == b"manifest"
    store = superboxes(box[purpose_end + 9 :])
    manifest = [name for name in store if name.count("/") == 2][-1]
    claim_bytes = payload(store[f"{manifest}/c2pa.claim.v2"])
    claim, _ = cbor(claim_bytes)
    (protected, unprotected, detached, signature), _ = cbor(payload(store[f"{manifest}/c2pa.signature"]))
    assert detached is None
    headers, _ = cbor(protected)
    assert headers[1] == -7, "ES256"
    chain = headers.get(33) or unprotected.get(33) or unprotected.get("x5chain")
    certificates = [x509.load_der_x509_certificate(each) for each in ([chain] if isinstance(chain, bytes) else chain)]
    signed = b"\x84\x6aSignature1" + byte_string(protected) + byte_string(b"") + byte_string(claim_bytes)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    key = certificates[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    for certificate, issuer in itertools.pairwise(certificates):
        certificate.verify_directly_issued_by(issuer)
    assertions = {}
    for reference in [*claim["created_assertions"], *claim.get("gathered_assertions", [])]:
        name = reference["url"].removeprefix("self#jumbf=")
        superbox = store[name if name.startswith("/") else f"{manifest}/{name}"]
        assert hashlib.sha256(superbox).digest() == reference["hash"], name
        assertions[name.rsplit("/", 1)[-1]], _ = cbor(payload(superbox))
    binding = assertions["c2pa.hash.bmff.v3"]
    excluded = {each["xpath"].strip("/").encode() for each in binding["exclusions"]}
    assert excluded == {b"uuid", b"ftyp", b"mfra", b"free", b"skip"}
    digest = hashlib.sha256()
    for kind, offset, start, end in top:
        if kind not in excluded or (kind == b"uuid" and data[start : start + 16] != C2PA_BOX):
            digest.update(struct.pack(">Q", offset) + data[offset:end])
    assert digest.digest() == binding["hash"], "media data"
    return certificates[0], assertions
