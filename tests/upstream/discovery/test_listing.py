"""Rosters as endpoints, in place or in a thread."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from meshproxy.errors import ConfigError
from meshproxy.upstream.discovery import listing
from meshproxy.upstream.discovery.listing import read_aside, read_listing, reason_of
from tests.upstream.discovery.waiting import clean_reactor, result
from tests.upstream.made import cluster


def test_endpoints() -> None:
    """What the text says of each."""
    (spec,) = read_listing(b'[{"address": "[::1]:80", "weight": 2, "zone": "b"}]', "r", False)
    assert (spec.key, spec.weight, spec.zone) == ("[::1]:80", 2, "b")


def test_labels_choose_the_endpoint() -> None:
    """What a source says of an endpoint's labels is what ``subset`` goes by."""
    text = """[
        {"address": "127.0.0.1:1", "labels": {"version": "v1"}},
        {"address": "127.0.0.1:2", "labels": {"version": "v2"}}
    ]"""
    made = cluster(read_listing(text.encode(), "r", False))
    picked = {made.group({"version": "v2"}).pick() for _ in range(4)}
    assert picked == {made.endpoints[1]}


def test_a_reason_is_one_line() -> None:
    """The first mistake, and how many more there are."""
    with pytest.raises(ConfigError) as caught:
        read_listing(b"- x", "r", True)
    assert reason_of(caught.value) == "r:1:3: [0]: the port is missing: write x:PORT"
    with pytest.raises(ConfigError) as caught:
        read_listing(b"[x, y, z]", "r", True)
    assert reason_of(caught.value) == "r:1:2: [0]: the port is missing: write x:PORT (and 2 more)"


def test_a_short_one_is_read_in_place() -> None:
    """Its Deferred has fired when it is returned; a mistake is its failure."""
    got: list[Any] = []
    read_aside(object(), b"[]", "r", True).addCallback(got.append)
    assert got == [()]
    read_aside(object(), b"", "r", True).addErrback(got.append)
    assert got[1].check(ConfigError)


def test_a_long_one_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody waits for it."""
    threads: list[threading.Thread] = []
    read = listing.read_listing

    def spying(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return read(*arguments)

    monkeypatch.setattr(listing, "read_listing", spying)
    addresses = [f"10.0.{number // 250}.{number % 250}:80" for number in range(4000)]
    with clean_reactor() as reactor:
        reading: Deferred[Any] = read_aside(reactor, json.dumps(addresses).encode(), "r", False)
        assert [spec.key for spec in result(reactor, reading)] == addresses
    assert threads
    assert threads[0] is not threading.current_thread()
