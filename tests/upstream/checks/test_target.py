"""Where a check asks: ports of the endpoint, of the configuration, of its own."""

from __future__ import annotations

import socket

from meshproxy.upstream.checks.target import target_of
from meshproxy.upstream.endpoint import Endpoint, EndpointSpec
from tests.upstream.checks.asking import endpoint, unix_endpoint


def test_the_endpoints_own_port_unless_told_otherwise() -> None:
    """The endpoint's ``check_port`` goes before the cluster's."""
    target = target_of(endpoint(80))
    assert (target.sockaddr, target.host, target.port) == (("127.0.0.1", 80), "127.0.0.1", 80)
    assert target.text == "127.0.0.1:80"
    assert target.is_internet
    assert target_of(endpoint(80), 81).sockaddr == ("127.0.0.1", 81)
    assert target_of(endpoint(80, check_port=82), 81).sockaddr == ("127.0.0.1", 82)
    assert target_of(endpoint(80, check_port=82)).text == "127.0.0.1:82"


def test_ipv6() -> None:
    """In brackets as text, and with whatever else its address has."""
    target = target_of(endpoint(80, "::1"), 81)
    assert (target.sockaddr, target.host, target.text) == (("::1", 81), "::1", "[::1]:81")
    scoped = EndpointSpec("x", socket.AF_INET6, ("fe80::1", 80, 0, 2), "[fe80::1]:80")
    assert target_of(Endpoint(scoped), 81).sockaddr == ("fe80::1", 81, 0, 2)


def test_a_unix_socket_has_no_ports() -> None:
    """It is asked where it is, whatever port is configured."""
    target = target_of(unix_endpoint("/run/x.sock"), 81)
    assert (target.family, target.sockaddr) == (socket.AF_UNIX, "/run/x.sock")
    assert (target.host, target.port, target.text) == ("", 0, "unix:/run/x.sock")
    assert not target.is_internet
