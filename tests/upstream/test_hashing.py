"""The hash: the same everywhere, and well mixed."""

from __future__ import annotations

from meshproxy.upstream.hashing import hash64


def test_the_same_in_every_process() -> None:
    """Known answers: another process, machine or version sends a key to the same endpoint."""
    assert hash64(b"") == int.from_bytes(bytes.fromhex("e4a6a0577479b2b4"), "big")
    assert hash64(b"10.1.2.3") == 0xB36B3BDBF6874D89


def test_every_bit_depends_on_every_bit() -> None:
    """Flipping one bit of a short key flips each bit of the number about half of the time."""
    flips = [0] * 64
    tried = 0
    for number in range(64):
        key = b"10.0.0.%d" % number
        plain = hash64(key)
        for bit in range(len(key) * 8):
            other = bytearray(key)
            other[bit // 8] ^= 1 << bit % 8
            changed = plain ^ hash64(bytes(other))
            tried += 1
            for place in range(64):
                flips[place] += changed >> place & 1
    # The numbers are fixed, so this holds always or never; a fair coin strays by 1 % of them.
    assert all(abs(flipped / tried - 0.5) < 0.05 for flipped in flips)
