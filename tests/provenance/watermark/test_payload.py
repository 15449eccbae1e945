"""A payload's codeword: read back through noise, refused where it is none."""

from __future__ import annotations

import numpy as np
import pytest

from edgereel.core.errors import UsageError
from edgereel.provenance.watermark.payload import CODE_BITS, Payload, decode, encode

pytestmark = pytest.mark.lean


def payloads(count):
    random = np.random.default_rng(3)
    extremes = [Payload(0, 0), Payload(2**24 - 1, 2**40 - 1)]
    return extremes + [Payload(int(random.integers(2**24)), int(random.integers(2**40))) for _ in range(count)]


def test_a_payload_is_read_back():
    for payload in payloads(10):
        code = encode(payload)
        assert code.shape == (CODE_BITS,)
        assert set(np.unique(code)) <= {-1, 1}
        assert decode(code.astype(np.float32)) == payload


def test_a_quarter_of_wrong_bits_is_mended():
    """Noise at 0 dB makes 16% of the bits wrong; the code's limit lies near 25%."""
    random = np.random.default_rng(5)
    wrong = []
    for payload in payloads(20):
        soft = encode(payload) + random.standard_normal(CODE_BITS)
        wrong.append(np.mean(np.sign(soft) != encode(payload)))
        assert decode(soft.astype(np.float32)) == payload
    assert 0.1 < np.mean(wrong) < 0.22


def test_noise_holds_no_payload():
    random = np.random.default_rng(7)
    assert all(decode(random.standard_normal(CODE_BITS).astype(np.float32)) is None for _ in range(300))


def test_silence_holds_no_payload():
    assert decode(np.zeros(CODE_BITS, np.float32)) is None


def test_a_payload_is_written_and_parsed():
    payload = Payload(0xA1B2C, 0x12345)
    assert str(payload) == "0a1b2c-0000012345"
    assert Payload.parse(str(payload)) == payload


@pytest.mark.parametrize("text", ["", "xyz", "12", "1000000-0", "0-10000000000", "-1-2"])
def test_what_is_no_payload_is_refused(text):
    with pytest.raises(UsageError):
        Payload.parse(text)
