"""Who may ask the admin what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.admin.guard import host_refused, post_refused


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST:9901",
        b"localhost.:9901",
        b"a.localhost",
        b"127.0.0.1:9901",
        b"127.8.9.1",
        b"[::1]:9901",
        b"[::ffff:127.0.0.1]",
    ],
)
def test_loopback_names_are_welcome(host: bytes) -> None:
    """Every way to name this machine's loopback."""
    assert host_refused([host], "127.0.0.1", b"HTTP/1.1") is None
    assert host_refused([host], "::1", b"HTTP/1.1") is None


@pytest.mark.parametrize(
    "hosts",
    [
        [b"evil.example"],
        [b"localhost.evil.example"],
        [b"127.0.0.1.evil.example"],
        [b"notlocalhost"],
        [b"10.0.0.1:9901"],
        [b"0.0.0.0"],
        [b"[::]"],
        [b"127.0.0.1:99999999"],
        [b"localhost/x"],
        [b"user@localhost"],
        [b""],
        [],
        [b"localhost", b"localhost"],
    ],
)
@pytest.mark.parametrize("local", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_other_names_are_refused_on_loopback(hosts: list[bytes], local: str) -> None:
    """DNS rebinding brings a foreign name to a loopback connection."""
    assert host_refused(hosts, local, b"HTTP/1.1") is not None


def test_where_no_rebinding_can_be() -> None:
    """UNIX sockets, public addresses and HTTP/1.0 without a Host are not a browser's loopback."""
    assert host_refused([b"x"], None, b"HTTP/1.1") is None
    assert host_refused([b"proxy.example"], "192.0.2.1", b"HTTP/1.1") is None
    assert host_refused([], "127.0.0.1", b"HTTP/1.0") is None


@given(st.binary(max_size=30))
def test_any_host_is_judged(host: bytes) -> None:
    """No bytes make the guard fail."""
    assert host_refused([host], "127.0.0.1", b"HTTP/1.1") != ""


@pytest.mark.parametrize(
    ("origins", "sites", "good"),
    [
        ([], [], True),
        ([b"http://localhost:9901"], [b"same-origin"], True),
        ([], [b"none"], True),
        ([], [b"same-site"], False),
        ([], [b"cross-site"], False),
        ([b"http://evil.example"], [], False),
        ([b"https://localhost:9901"], [], False),
        ([b"http://localhost:1"], [], False),
        ([b"null"], [], False),
        ([b"http://localhost:9901", b"http://evil.example"], [], False),
    ],
)
def test_changes_come_from_here(origins: list[bytes], sites: list[bytes], good: bool) -> None:
    """A change that a browser says comes from elsewhere is refused; curl says nothing."""
    refused = post_refused(b"localhost:9901", origins, sites, False)
    assert (refused is None) is good
