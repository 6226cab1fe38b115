"""Choosing a protocol."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from meshproxy.tls.alpn import LONGEST, MOST, Alpn
from tests.tls.authority import Authority
from tests.tls.exchange import Exchange, client


def offer(*names: bytes) -> bytes:
    """An offer as it is in a hello."""
    return b"".join(bytes([len(name)]) + name for name in names)


def test_choose() -> None:
    """The server's order decides, not the client's."""
    alpn = Alpn(["h2", "http/1.1"])
    assert alpn.choose(offer(b"http/1.1", b"h2")) == b"h2"
    assert alpn.choose(offer(b"x", b"http/1.1")) == b"http/1.1"
    assert alpn.choose(offer(b"x", b"http/1.0")) is None
    # The name inside another one is none.
    assert alpn.choose(offer(b"xh2", b"h2x")) is None


def test_bad_names() -> None:
    """A name that no hello can hold is refused."""
    for bad in ([], [""], ["x" * 256]):
        with pytest.raises(ValueError, match="1 to 255 bytes"):
            Alpn(bad)


def test_in_handshakes() -> None:
    """Remembered offers are answered as new ones are; what is remembered is bounded."""
    issued = Authority().issue("a.example")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(issued.cert)
    context.use_privatekey(issued.key)
    alpn = Alpn(["a", "b"])
    alpn.apply(context)

    def chosen(*names: str) -> bytes:
        done = Exchange(context, client(alpn=names))
        if done.refused:
            assert "no application protocol" in done.alert
            return b""
        found: bytes = done.client.get_alpn_proto_negotiated()
        return found

    for _ in range(2):
        assert chosen("b", "a") == b"a"
        assert chosen("b", "c") == b"b"
        assert chosen("c") == b""
    assert len(alpn._known) == 3
    assert chosen("x" * 200, "y" * 200, "b") == b"b"
    assert not any(len(known) > LONGEST for known in alpn._known)
    alpn._known |= {bytes([2, 1, number]): None for number in range(MOST)}
    many = len(alpn._known)
    assert chosen("zz", "a") == b"a"
    assert len(alpn._known) == many
