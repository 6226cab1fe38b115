"""Addresses of listeners and endpoints."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.address import (
    Address,
    is_name,
    parse_endpoint,
    parse_listen,
    parse_target,
)
from meshproxy.config.unfit import Unfit

#: Text that is nearly an address more often than chance would have it.
PIECES = """127.0.0.1 ::1 [ ] : 80 0 99999 unix: /run/x localhost tcp: tcp6: a.example = %eth0
* http:// é ²"""
almost = st.lists(st.sampled_from([*PIECES.split(), " ", "\0"]), max_size=6).map("".join)


@pytest.mark.parametrize(
    ("text", "canonical", "family", "sockaddr"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", socket.AF_INET, ("127.0.0.1", 80)),
        (":80", "0.0.0.0:80", socket.AF_INET, ("0.0.0.0", 80)),
        ("localhost:0", "127.0.0.1:0", socket.AF_INET, ("127.0.0.1", 0)),
        ("[::1]:80", "[::1]:80", socket.AF_INET6, ("::1", 80)),
        ("[0:0::1]:080", "[::1]:80", socket.AF_INET6, ("::1", 80)),
        ("unix:/run/x.sock", "unix:/run/x.sock", socket.AF_UNIX, "/run/x.sock"),
    ],
)
def test_where_to_listen(
    text: str, canonical: str, family: int, sockaddr: tuple[str, int] | str
) -> None:
    """Each form gives what socket.bind takes, and one canonical text."""
    address = parse_listen(text)
    assert (address.text, address.family, address.sockaddr) == (canonical, family, sockaddr)
    assert str(address) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "tcp:8080:interface=127.0.0.1",
        "tcp:8080",
        "tcp:port=8080",
        "tcp:interface=127.0.0.1:port=80",
        "tcp6:8080",
        "systemd:domain=INET:index=0",
        "haproxy:tcp:8080",
        "unix:/run/x.sock:mode=660",
        "onion:80:controlPort=9051",
    ],
)
def test_endpoint_descriptions(text: str) -> None:
    """A Twisted endpoint description is kept as it is written, and is no socket address."""
    address = parse_listen(text)
    assert (address.text, address.family, address.description) == (text, 0, text)
    assert not address.is_local
    with pytest.raises(ValueError, match="no socket address"):
        _ = address.sockaddr


@pytest.mark.parametrize(
    ("text", "message", "suggestion"),
    [
        (8080, "only a number", ":8080"),
        ("8080", "only a number", ":8080"),
        ("*:80", "not an address", ":80"),
        ("::1:80", "in brackets", "[::1]:80"),
        ("fe80::1", "the port is missing", None),
        ("[::1]", "the port is missing", None),
        ("127.0.0.1", "the port is missing", None),
        ("127.0.0.1:", "a port is", None),
        ("127.0.0.1:65536", "a port is", None),
        ("127.0.0.1:-1", "a port is", None),
        ("127.0.0.1:8²", "a port is", None),
        ("127.0.0.300:80", "not an IPv4 address", None),
        ("127.0.0.01:80", "not an IPv4 address", None),
        ("[::g]:80", "not an IPv6 address", None),
        ("[fe80::1%eth0]:80", "not supported by this version", None),
        ("web.example:80", "is a name", None),
        ("http://127.0.0.1:80/", "no scheme", "127.0.0.1:80"),
        ("unix:x.sock", "begins with '/'", None),
        ("unix:/run/", "a file", None),
        ("unix:/" + "x" * 200, "at most 107 bytes", None),
        ("tcp:http", "not a port", None),
        ("", "not nothing", None),
        (" :80", "is expected", None),
        (None, "is expected", None),
        (True, "is expected", None),
        (10**50, "only a number", None),
    ],
)
def test_refused_listening(text: object, message: str, suggestion: str | None) -> None:
    """What cannot be listened on is refused in words, with what was meant."""
    with pytest.raises(Unfit) as caught:
        parse_listen(text)
    assert message in caught.value.message
    assert caught.value.suggestion == suggestion
    if suggestion is not None:
        parse_listen(suggestion)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("LOCALHOST:80", "127.0.0.1:80"),
        ("[2001:DB8::1]:80", "[2001:db8::1]:80"),
        ("unix:/run/a:b", "unix:/run/a:b"),
    ],
)
def test_endpoints(text: str, canonical: str) -> None:
    """Numbers, localhost and UNIX sockets are endpoints."""
    assert parse_endpoint(text).text == canonical


@pytest.mark.parametrize(
    ("text", "message", "suggestion"),
    [
        (
            "site.example:443",
            "an IP address is needed, and 'site.example' is a name",
            None,
        ),
        (":80", "needs a host", "127.0.0.1:80"),
        ("0.0.0.0:80", "nobody can connect", "127.0.0.1:80"),
        ("[::]:80", "nobody can connect", "[::1]:80"),
        ("127.0.0.1:0", "1 to 65535", None),
        ("a b:80", "neither an IP address nor a host name", None),
        (9001, "only a number", "127.0.0.1:9001"),
        ("tcp:127.0.0.1:80", "neither an IP address nor a host name", None),
    ],
)
def test_refused_endpoints(text: object, message: str, suggestion: str | None) -> None:
    """What cannot be connected to is refused in words, with what was meant."""
    with pytest.raises(Unfit) as caught:
        parse_endpoint(text)
    assert message in caught.value.message
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    ("text", "canonical", "name"),
    [
        ("site.example:443", "site.example:443", True),
        ("Site.EXAMPLE.:443", "site.example.:443", True),
        ("_http._tcp.a:1", "_http._tcp.a:1", True),
        ("127.0.0.1:80", "127.0.0.1:80", False),
        ("localhost:80", "127.0.0.1:80", False),
        ("unix:/run/x", "unix:/run/x", False),
    ],
)
def test_targets(text: str, canonical: str, name: bool) -> None:
    """A name to look up is a target too, in lower case, and has no socket address yet."""
    address = parse_target(text)
    assert (address.text, address.family == 0, is_name(text)) == (canonical, name, name)
    assert parse_target(address) is address
    if name:
        with pytest.raises(ValueError, match="a host name has no socket address"):
            _ = address.sockaddr


@pytest.mark.parametrize("text", ["a..b:80", "-a:80", "site.example", "site.example:0", ""])
def test_no_names(text: str) -> None:
    """What is neither a number nor a name is refused, and is no name either."""
    with pytest.raises(Unfit):
        parse_target(text)
    assert not is_name(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [("127.9.9.9:1", True), ("[::1]:1", True), ("unix:/x", True), (":1", False), ("[::]:1", False)],
)
def test_who_can_reach_it(text: str, local: bool) -> None:
    """Loopback numbers and UNIX sockets are local; every address is not."""
    assert parse_listen(text).is_local is local


def test_a_number_too_long_to_print_is_refused() -> None:
    """Python refuses to write such a number out; a message about it does not try to."""
    for parse in (parse_listen, parse_endpoint):
        with pytest.raises(Unfit, match="only a number"):
            parse(10**5000)


def test_an_address_is_taken_as_it_is() -> None:
    """A value that was parsed may be given again, as when a model is built in Python."""
    address = parse_listen(":80")
    assert parse_listen(address) is address
    assert parse_endpoint(address) is address


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_number_is_read_back(
    number: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    """The canonical text of any number is read as the same address."""
    host = f"[{number}]" if number.version == 6 else str(number)
    address = parse_listen(f"{host}:{port}")
    assert parse_listen(address.text) == address
    assert (ipaddress.ip_address(address.host), address.port) == (number, port)


@given(st.one_of(st.text(), almost, st.integers(), st.none(), st.floats(), st.binary()))
def test_anything_is_an_address_or_unfit(value: object) -> None:
    """No value raises anything else, and what is accepted is read back as the same."""
    for parse in (parse_listen, parse_endpoint):
        try:
            address = parse(value)
        except Unfit:
            continue
        assert isinstance(address, Address)
        assert parse(address.text) == address
