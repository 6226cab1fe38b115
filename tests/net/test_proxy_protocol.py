"""The PROXY protocol's parser and encoder: what is read is what was written, and nothing else."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.net import proxy_protocol
from meshproxy.net.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    SIGNATURE,
    Header,
    ProxyProtocolError,
    crc32c,
    encode_v1,
    encode_v2,
    parse,
)

PORTS = st.integers(0, 65535)
IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.binary(min_size=16, max_size=16).map(lambda raw: socket.inet_ntop(socket.AF_INET6, raw))
PAIRS = st.one_of(
    st.tuples(st.tuples(IPV4, PORTS), st.tuples(IPV4, PORTS)),
    st.tuples(st.tuples(IPV6, PORTS), st.tuples(IPV6, PORTS)),
)
PATHS = st.text(st.characters(min_codepoint=1, max_codepoint=126), min_size=0, max_size=108)
TLVS = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=200)),
    max_size=8,
).map(tuple)


@given(PAIRS, st.binary(max_size=50))
def test_version_1_round_trip(pair: Any, payload: bytes) -> None:
    """Whatever IP pair is encoded as version 1 is parsed back, and payload is left alone."""
    source, destination = pair
    encoded = encode_v1(source, destination)
    assert len(encoded) <= MAX_V1
    header = parse(encoded + payload)
    assert header is not None
    assert (header.version, header.source, header.destination) == (1, source, destination)
    assert header.consumed == len(encoded)


@given(PAIRS | st.tuples(PATHS, PATHS), TLVS, st.booleans(), st.binary(max_size=50))
def test_version_2_round_trip(pair: Any, tlvs: Any, checksum: bool, payload: bytes) -> None:
    """Whatever pair, TLVs and checksum are encoded as version 2, the pair is parsed back."""
    source, destination = pair
    encoded = encode_v2(source, destination, tlvs=tlvs, checksum=checksum)
    header = parse(encoded + payload)
    assert header is not None
    assert (header.version, header.source, header.destination) == (2, source, destination)
    assert header.consumed == len(encoded)


@given(PAIRS, st.sampled_from([encode_v1, encode_v2]))
def test_incremental(pair: Any, encode: Any) -> None:
    """Every proper prefix of a header asks for more; none is taken for a header or refused."""
    encoded = encode(*pair)
    assert all(parse(encoded[:length]) is None for length in range(len(encoded)))


@given(st.binary(max_size=300))
def test_garbage_never_escapes(data: bytes) -> None:
    """Arbitrary bytes give a header, a wish for more or ProxyProtocolError: nothing else."""
    for lead in (b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21"):
        try:
            result = parse(lead + data)
        except ProxyProtocolError:
            continue
        assert result is None or isinstance(result, Header)


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\n",
        b"PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.256 1 2\r\n",
        b"PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.\xff 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * 100,
    ],
)
def test_bad_version_1(line: bytes) -> None:
    """Lines that break section 2.1 in one way each are refused."""
    with pytest.raises(ProxyProtocolError):
        parse(line)


def test_unknown_version_1() -> None:
    """``UNKNOWN`` names nobody, whatever follows on its line."""
    line = b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"
    assert parse(line + b"payload") == Header(1, 0, None, None, len(line))


def _v2(version_command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + struct.pack("!BBH", version_command, family, size) + body


@pytest.mark.parametrize(
    "header",
    [
        _v2(0x11, 0x11, bytes(12)),
        _v2(0x22, 0x11, bytes(12)),
        _v2(0x21, 0x41, bytes(12)),
        _v2(0x21, 0x13, bytes(12)),
        _v2(0x21, 0x11, bytes(11)),
        _v2(0x21, 0x21, bytes(35)),
        _v2(0x21, 0x31, bytes(215)),
        _v2(0x21, 0x11, b"", length=MAX_V2 - 15),
        _v2(0x21, 0x11, bytes(12) + b"\x01\x00"),
        _v2(0x21, 0x11, bytes(12) + b"\x01\x00\x05abcd"),
        _v2(0x21, 0x11, bytes(12) + b"\x03\x00\x03abc"),
        _v2(0x21, 0x11, bytes(12) + b"\x03\x00\x04abcd"),
        SIGNATURE[:11] + b"\x0b",
    ],
)
def test_bad_version_2(header: bytes) -> None:
    """Headers that break section 2.2, or exceed our bound, are refused."""
    with pytest.raises(ProxyProtocolError):
        parse(header)


def test_local_and_unspec() -> None:
    """LOCAL and UNSPEC name nobody; whatever they carry is skipped."""
    for header in (_v2(0x20, 0, b""), _v2(0x20, 0x11, b"abc"), _v2(0x21, 0, bytes(40))):
        assert parse(header + b"payload") == Header(2, 0, None, None, len(header))


def test_changed_checksum() -> None:
    """One flipped bit under a CRC32c refuses the header."""
    encoded = bytearray(encode_v2(("1.2.3.4", 1), ("5.6.7.8", 2), checksum=True))
    encoded[17] ^= 1
    with pytest.raises(ProxyProtocolError, match="CRC32c"):
        parse(bytes(encoded))


def test_crc32c_vectors() -> None:
    """The vectors of RFC 3720, appendix B.4, hold."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"123456789") == 0xE3069283


def test_what_cannot_be_told() -> None:
    """Mixed, missing and UNIX addresses degrade to the forms that name nobody."""
    for pair in ((None, None), (("1.2.3.4", 1), ("::1", 2)), (("1.2.3.4", 1), "/run/x")):
        assert encode_v1(*pair) == b"PROXY UNKNOWN\r\n"
        assert encode_v2(*pair, checksum=True)[12:14] == b"\x20\x00"
    assert encode_v1("/a", "/b") == b"PROXY UNKNOWN\r\n"
    scoped = encode_v2(("fe80::1%eth0", 1, 0, 2), ("fe80::2%eth0", 2, 0, 2))
    assert parse(scoped) == Header(2, socket.AF_INET6, ("fe80::1", 1), ("fe80::2", 2), 52)


def test_bounds_are_told() -> None:
    """A reader may give up at MAX_HEADER: no accepted header is longer."""
    assert max(MAX_V1, MAX_V2) == proxy_protocol.MAX_HEADER
    with pytest.raises(ValueError, match="longer"):
        encode_v2(("1.2.3.4", 1), ("5.6.7.8", 2), tlvs=((1, bytes(5000)),))
