"""The lists of addresses and networks that filters judge clients by."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.api import Unfit
from meshproxy.filters._networks import (
    UNIX,
    Networks,
    _prefix_of,
    check_network,
    number_of,
    prefix_of,
)


def test_addresses_and_networks_are_found() -> None:
    """A single address, networks of several lengths and both families each hold what is theirs."""
    networks = Networks(["192.0.2.7", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "fe80::1"])
    for inside in (b"192.0.2.7", b"10.255.0.1", b"10.1.2.3", b"2001:db8:1::9", b"fe80::1"):
        assert networks.contains(inside), inside
    for outside in (b"192.0.2.8", b"11.0.0.1", b"2001:db9::1", b"fe80::2", UNIX, b"", b"x"):
        assert not networks.contains(outside), outside


def test_a_mapped_address_is_the_ipv4_address() -> None:
    """::ffff:a.b.c.d is a.b.c.d, in the list as well as in the question."""
    assert Networks(["10.0.0.0/8"]).contains(b"::ffff:10.1.1.1")
    assert Networks(["::ffff:10.0.0.0/104"]).contains(b"10.1.1.1")
    assert not Networks(["::/0"]).contains(b"::ffff:10.1.1.1")


def test_a_scope_and_brackets_do_not_hide_an_address() -> None:
    """An interface's name behind a link-local address is no part of it."""
    assert Networks(["fe80::/10"]).contains(b"fe80::1%eth0")
    assert Networks(["::1"]).contains(b"[::1]")


def test_everything() -> None:
    """A prefix of no bits holds its whole family and not the other."""
    assert Networks(["0.0.0.0/0"]).contains(b"255.255.255.255")
    assert not Networks(["0.0.0.0/0"]).contains(b"::1")
    assert Networks(["::/0"]).contains(b"::1")


def test_unix_clients_are_named() -> None:
    """Clients of UNIX sockets are in a list that says so, and in no other."""
    assert Networks(["unix"]).contains(UNIX)
    assert not Networks(["0.0.0.0/0", "::/0"]).contains(UNIX)


def test_nothing_is_in_an_empty_list() -> None:
    """A list without entries holds nobody."""
    assert not Networks([]).contains(b"127.0.0.1")
    assert len(Networks([])) == 0


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.0/33", "10.0.0", "1.2.3.4:80", "::/129"])
def test_what_is_no_network_is_refused(text: str) -> None:
    """The message shows what was written."""
    with pytest.raises(Unfit, match="an address or a network"):
        check_network(text)


def test_host_bits_are_a_mistake_with_a_suggestion() -> None:
    """10.0.0.1/8 may mean either: the network is suggested."""
    with pytest.raises(Unfit) as caught:
        check_network("10.0.0.1/8")
    assert caught.value.suggestion == "10.0.0.0/8"


def test_one_spelling() -> None:
    """A network is kept in its shortest form."""
    assert check_network("2001:0DB8::/32") == "2001:db8::/32"
    assert check_network("192.0.2.1/32") == "192.0.2.1"


def test_prefixes() -> None:
    """An address is cut to the bits of its family; what is no address stays."""
    assert prefix_of(b"192.0.2.77", 24, 64) == b"192.0.2.0/24"
    assert prefix_of(b"192.0.2.77") == b"192.0.2.77"
    assert prefix_of(b"2001:db8:1:2:3::4") == b"2001:db8:1:2::/64"
    assert prefix_of(b"2001:db8:0::4", 32, 128) == b"2001:db8::4"
    assert prefix_of(b"::ffff:192.0.2.77", 16, 64) == b"192.0.0.0/16"
    assert prefix_of(b"192.0.2.77", 0, 0) == b"0.0.0.0/0"
    assert prefix_of(UNIX) == UNIX


def test_the_cache_is_bounded() -> None:
    """However many addresses are asked for, only so many answers are kept."""
    networks = Networks(["10.0.0.0/8"])
    for number in range(10_000):
        networks.contains(b"10.0.%d.%d" % divmod(number, 250))
    assert networks._remembered.cache_info().currsize <= 4096


@given(
    st.lists(
        st.ip_addresses().flatmap(
            lambda ip: st.integers(0, ip.max_prefixlen).map(
                lambda length: ipaddress.ip_network((ip, length), strict=False)
            )
        ),
        max_size=8,
    ),
    st.ip_addresses(),
)
def test_as_the_standard_library_says(
    nets: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Membership agrees with ipaddress for any set of networks, and for an address of each."""
    networks = Networks(map(str, nets))
    for asked in (ip, *(net[-1] for net in nets)):
        if isinstance(asked, ipaddress.IPv6Address) and asked.ipv4_mapped is not None:
            continue
        mapped = [
            n
            for n in nets
            if isinstance(n, ipaddress.IPv6Network) and n.network_address.ipv4_mapped is not None
        ]
        if mapped:
            continue
        expected = any(asked.version == net.version and asked in net for net in nets)
        assert networks.contains(str(asked).encode()) is expected


@given(st.binary(max_size=40))
def test_any_bytes_are_answered(ip: bytes) -> None:
    """Nothing that a client or a header can say raises."""
    assert number_of(ip)[0] in (0, 32, 128)
    prefix_of(ip, 24, 48)
    assert Networks(["10.0.0.0/8"]).contains(ip) in (True, False)


def test_a_port_does_not_hide_an_address() -> None:
    """What a proxy in front wrote with a port is in the same networks, and the same client."""
    networks = Networks(["10.0.0.0/8", "2001:db8::/32"])
    assert networks.contains(b"10.1.1.1:5000")
    assert networks.contains(b"[2001:db8::1]:5000")
    assert prefix_of(b"10.1.1.1:5000") == prefix_of(b"10.1.1.1:5001") == b"10.1.1.1"
    assert number_of(b"10.1.1.1:x") == number_of(b"10.1.1:1") == (0, 0)


def test_long_texts_are_not_remembered() -> None:
    """A client's address may be any text of a header: none that is long stays in memory."""
    networks = Networks(["10.0.0.0/8"])
    before = networks._remembered.cache_info().currsize, _prefix_of.cache_info().misses
    long = b"10.0.0.1" + b"0" * 60000
    assert not networks.contains(long)
    assert prefix_of(long) == long
    assert number_of(long) == (0, 0)
    assert (networks._remembered.cache_info().currsize, _prefix_of.cache_info().misses) == before
