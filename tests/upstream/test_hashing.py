"""The hash: the same everywhere, and well mixed."""

from __future__ import annotations

from meshproxy.upstream.hashing import hash64, rehash, token_of


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


def test_rehash_is_another_number_each_time() -> None:
    """Attempts differ, numbers do not collide, and half of the bits change."""
    assert len({rehash(5, attempt) for attempt in range(1000)}) == 1000
    assert len({rehash(number, 3) for number in range(1000)}) == 1000
    ones = [(rehash(number, 1) ^ rehash(number, 2)).bit_count() for number in range(1000)]
    assert 31 < sum(ones) / len(ones) < 33
    assert all(0 <= rehash(2**64 - number, 7) < 2**64 for number in range(1, 100))


def test_tokens() -> None:
    """16 digits, the same everywhere, different by cluster and by endpoint."""
    token = token_of("api", "127.0.0.1:9001")
    assert token == token_of("api", "127.0.0.1:9001")
    assert len(token) == 16
    assert int(token, 16)
    others = {token_of("web", "127.0.0.1:9001"), token_of("api", "127.0.0.1:9002")}
    assert len(others | {token}) == 3
