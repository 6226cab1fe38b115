"""The names that a record gives."""

from __future__ import annotations

import socket

import pytest

from meshproxy.tcp.record import family_of, name_text


@pytest.mark.parametrize(
    ("peer", "family"),
    [
        (("192.0.2.1", 1), socket.AF_INET),
        (("2001:db8::1", 1, 0, 0), socket.AF_INET6),
        ("", socket.AF_UNIX),
        (b"\0abstract", socket.AF_UNIX),
    ],
)
def test_family_of(peer: object, family: int) -> None:
    """What ``accept`` returned tells the family by its form."""
    assert family_of(peer) == family


def test_name_text() -> None:
    """The address of a socket; of one that is closed, or not there, nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert name_text(sock) == b"127.0.0.1:%d" % sock.getsockname()[1]
    assert name_text(sock) == name_text(None) == b""
