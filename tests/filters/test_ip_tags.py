"""The filter ip_tags."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshproxy.api import Unfit
from meshproxy.filters._networks import UNIX
from meshproxy.filters.ip_tags import IpTags, Tags, read_tags
from meshproxy.testing import Driven, Kit, drive

HEADER = b"x-envoy-ip-tags"


def made(**options: Any) -> IpTags:
    """The filter with these options, as a configuration would write them."""
    return IpTags(IpTags.Options.model_validate(options))


def seen(driven: Driven, header: bytes = HEADER) -> bytes | None:
    """The tags that the endpoint got."""
    assert driven.upstream is not None
    value: bytes | None = driven.upstream.headers.get(header)
    return value


def test_a_client_has_the_tags_of_its_networks() -> None:
    """The longest prefix first, in the header as in the metadata; or it has none."""
    held = made(tags={"office": ["192.0.2.0/24"], "lab": ["192.0.2.8/29", "2001:db8::/32"]})
    kit = Kit()
    driven = kit.drive(held, client=b"192.0.2.9:1")
    assert seen(driven) == b"lab,office"
    assert driven.metadata["ip_tags"] == b"lab,office"
    assert seen(kit.drive(held, client=b"192.0.2.1:1")) == b"office"
    assert seen(kit.drive(held, client=b"[2001:db8::1]:1")) == b"lab"
    stranger = kit.drive(held, client=b"198.51.100.1:1")
    assert seen(stranger) is None
    assert "ip_tags" not in stranger.metadata
    assert (kit.counters["tagged"], kit.counters["untagged"]) == (3, 1)
    assert kit.counters["networks"] == 3


def test_the_longest_alone() -> None:
    """With ``longest`` only the nearest network counts, with all the tags it has."""
    held = made(
        tags={"a": ["192.0.2.0/24"], "b": ["192.0.2.8/29"], "c": ["192.0.2.8/29"]},
        match="longest",
    )
    assert seen(drive(held, client=b"192.0.2.9:1")) == b"b,c"


def test_a_client_cannot_tag_itself() -> None:
    """Its own header is replaced, or taken out."""
    claim = {HEADER: b"admin"}
    held = made(tags={"office": ["192.0.2.0/24"]})
    assert seen(drive(held, headers=claim)) == b"office"
    assert seen(drive(made(tags={"x": ["10.0.0.0/8"]}), headers=claim)) is None
    # CGI and WSGI take an underscore for a dash.
    alike = HEADER.replace(b"-", b"_")
    for tags in ({"office": ["192.0.2.0/24"]}, {"x": ["10.0.0.0/8"]}):
        assert seen(drive(made(tags=tags), headers={alike: b"admin"}), alike) is None


def test_a_long_text_in_place_of_an_address_is_not_remembered() -> None:
    """It has no tag, and takes no memory."""
    tags = Tags([("0.0.0.0/0", "net")], False)
    assert tags.of(b"1" * 60000) == b""
    assert tags._remembered.cache_info().currsize == 0


def test_the_header_can_have_another_name_or_none() -> None:
    """Then nothing else is touched."""
    tags = {"office": ["192.0.2.0/24"]}
    assert seen(drive(made(tags=tags, header="x-tags")), b"x-tags") == b"office"
    driven = drive(made(tags=tags, header=None), headers={HEADER: b"mine"})
    assert seen(driven) == b"mine"
    assert driven.metadata["ip_tags"] == b"office"


def test_unix_sockets_have_a_name() -> None:
    """Clients of a UNIX socket can be tagged as well."""
    assert Tags([("unix", "local")], False).of(UNIX) == b"local"
    assert Tags([("0.0.0.0/0", "net")], False).of(UNIX) == b""


def test_a_mapped_address_is_an_ipv4_address() -> None:
    """In the list as well as in the question."""
    tags = Tags([("::ffff:10.0.0.0/104", "ten"), ("192.0.2.1", "one")], False)
    assert tags.of(b"10.1.2.3") == b"ten"
    assert tags.of(b"::ffff:192.0.2.1") == b"one"


def write(path: Path, text: str) -> None:
    """Put a new file into the place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """At most once a second; inline tags stay."""
    path = tmp_path / "tags"
    write(path, "# ours\n192.0.2.0/24 office  # the house\n\n2001:db8::/32 lab\n")
    kit = Kit(directory=tmp_path)
    held = made(file="tags", tags={"all": ["0.0.0.0/0"]})
    assert seen(kit.drive(held)) == b"office,all"
    write(path, "192.0.2.0/24 home\n")
    kit.advance(0.9)
    assert seen(kit.drive(held)) == b"office,all"
    kit.advance(0.2)
    assert seen(kit.drive(held)) == b"home,all"
    assert kit.counters["reloads"] == 1


@pytest.mark.parametrize(
    "text", ["192.0.2.0/24\n", "192.0.2.1/24 a\n", "x a\n", "10.0.0.0/8 a,b\n"]
)
def test_a_wrong_file_changes_nothing(tmp_path: Path, text: str) -> None:
    """It is told once, with its line, and what was read last stays."""
    path = tmp_path / "tags"
    write(path, "192.0.2.0/24 office\n")
    kit = Kit(directory=tmp_path)
    held = made(file="tags")
    kit.attach(held)
    write(path, text)
    for _ in range(3):
        kit.advance(1.1)
        assert seen(kit.drive(held)) == b"office"
    assert kit.counters["reload_failures"] == 1
    (line,) = kit.log
    assert "tags:1: " in line


def test_a_file_that_vanishes_changes_nothing(tmp_path: Path) -> None:
    """It is told once, and read when it is back."""
    path = tmp_path / "tags"
    write(path, "192.0.2.0/24 office\n")
    kit = Kit(directory=tmp_path)
    held = made(file="tags")
    kit.attach(held)
    path.unlink()
    for _ in range(3):
        kit.advance(1.1)
        assert seen(kit.drive(held)) == b"office"
    assert len(kit.log) == 1
    write(path, "192.0.2.0/24 home\n")
    kit.advance(1.1)
    assert seen(kit.drive(held)) == b"home"


def test_a_missing_or_wrong_file_keeps_the_proxy_from_starting(tmp_path: Path) -> None:
    """At start there is nothing that could stay."""
    with pytest.raises(OSError, match="tags"):
        Kit(directory=tmp_path).attach(made(file="tags"))
    write(tmp_path / "tags", "nonsense\n")
    with pytest.raises(ValueError, match=r"tags:1: a line is a network and a tag"):
        Kit(directory=tmp_path).attach(made(file="tags"))


@given(
    st.lists(
        st.tuples(
            st.ip_addresses(v=4) | st.ip_addresses(v=6), st.integers(0, 128), st.sampled_from("abc")
        ),
        max_size=20,
    ),
    st.ip_addresses(v=4) | st.ip_addresses(v=6),
)
def test_as_the_standard_library_has_it(
    entries: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int, str]],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Every network that holds the address, and no other, gives its tags."""
    networks = [
        (ipaddress.ip_network(f"{base}/{length % (base.max_prefixlen + 1)}", strict=False), tag)
        for base, length, tag in entries
        if not getattr(base, "ipv4_mapped", None)
    ]
    # A prefix of fewer than 96 bits may hold mapped addresses, which are IPv4's here.
    tags = Tags([(str(network), tag) for network, tag in networks], False)
    expected = {tag for network, tag in networks if address in network}
    if not getattr(address, "ipv4_mapped", None):
        assert set(filter(None, tags.of(str(address).encode()).decode().split(","))) == expected


@given(st.text(max_size=60))
def test_any_file_is_read_or_refused(text: str) -> None:
    """Whatever is in it, it is pairs or a message with its line."""
    message = "f:1: "
    pairs: list[tuple[str, str]] = []
    try:
        pairs = list(read_tags(text, "f"))
    except ValueError as error:
        message = str(error)
    Tags(pairs, False)
    assert re.match(r"f:[0-9]+: ", message)


@pytest.mark.parametrize(
    "options", [{}, {"tags": {"a b": ["10.0.0.0/8"]}}, {"tags": {"a": ["10.0.0.1/8"]}}]
)
def test_tags_that_are_none_are_refused(options: dict[str, Any]) -> None:
    """They are found at start."""
    with pytest.raises((ValidationError, Unfit)):
        made(**options)
