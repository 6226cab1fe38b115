"""Endpoints that come and go while clients ask: nobody notices, and who is gone is left alone."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.dnsserver import DnsServer
from tests.harness import HttpUpstream, Proxy, Received
from tests.integration.faults.mesh import RETRY
from tests.integration.faults.servers import Honest
from tests.integration.faults.traffic import Ask, Clients, ask_on
from tests.integration.wire import eventually, metric

CONFIG = """
listeners:
  web: { listen: '127.0.0.1:$web', http: { routes: [{ %s to: site }] } }
clusters:
  site: { connect_timeout: 300ms, limits: { retries: 1000 }, %s }
"""

#: Tells a source which servers there are.
Say = Callable[[Sequence[Honest]], None]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


def _by_file(stack: ExitStack, tmp_path: Path) -> tuple[str, Say]:
    roster = tmp_path / "site.json"

    def say(servers: Sequence[Honest]) -> None:
        new = tmp_path / "new.json"
        new.write_text(json.dumps([server.address for server in servers]))
        os.rename(new, roster)

    return f"discovery: {{ file: '{roster}', interval: 20ms }}", say


def _by_http(stack: ExitStack, tmp_path: Path) -> tuple[str, Say]:
    said = [b"[]"]

    def answer(request: Received) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said[0]), said[0])

    def say(servers: Sequence[Honest]) -> None:
        said[0] = json.dumps({"endpoints": [server.address for server in servers]}).encode()

    server = stack.enter_context(HttpUpstream(answer))
    return f"discovery: {{ http: 'http://{server.address}/site', interval: 20ms }}", say


def _by_name(stack: ExitStack, tmp_path: Path) -> tuple[str, Say]:
    names = stack.enter_context(DnsServer())

    def say(servers: Sequence[Honest]) -> None:
        for server in servers:
            names.put(f"n{server.port}.test", "A", [server.host], ttl=1)
        values = [f"0 1 {server.port} n{server.port}.test." for server in servers]
        names.put("_site._tcp.test", "SRV", values, ttl=0)

    dns = f"dns: {{ servers: ['{names.address}'], min_ttl: 50ms, max_ttl: 50ms }}"
    return f"endpoints: [{{ srv: _site._tcp.test }}], resolve: strict, {dns}", say


def _listed(proxy: Proxy) -> set[str]:
    (cluster,) = json.loads(proxy.get("admin", "/clusters").body)["clusters"]
    return {entry["address"] for entry in cluster["endpoints"]}


def _wait_for(proxy: Proxy, servers: Sequence[Honest]) -> None:
    wanted = {server.address for server in servers}
    eventually(lambda: _listed(proxy) == wanted, f"the endpoints {wanted}")


@pytest.mark.parametrize("way", [_by_file, _by_http, _by_name])
def test_servers_come_and_go(
    way: Callable[[ExitStack, Path], tuple[str, Say]], stack: ExitStack, tmp_path: Path
) -> None:
    """
    Without any retry every response is right, for servers leave the list before they end.

    The first too: a proxy that accepts a client knows its endpoints. A server that left gets no
    request any more, and ends as soon as it has none; one that comes gets its share.
    """
    source, say = way(stack, tmp_path)
    servers = [stack.enter_context(Honest()) for _ in range(3)]
    say(servers)
    proxy = stack.enter_context(Proxy(CONFIG % ("", source), ready="web"))
    with Clients(Ask(proxy.ports["web"], "/"), 5) as clients:
        ask_on(clients)
        for _ in range(3):
            gone = servers.pop(random.randrange(len(servers)))
            say(servers)
            _wait_for(proxy, servers)
            # What was under way when the list changed is there soon.
            ask_on(clients, 20)
            met = sum(gone.arrived.values())
            ask_on(clients, 50)
            assert sum(gone.arrived.values()) == met
            gone.close()
            servers.append(stack.enter_context(Honest()))
            say(servers)
            eventually(lambda: servers[-1].arrived, "traffic at the new one")
        clients.stop().judge()
    assert metric(proxy, "meshproxy_cluster_discovery_updates_total", cluster="site") > 4
    assert proxy.stdout.count("discovery cluster=site endpoints=") >= 6


@pytest.mark.parametrize("way", [_by_file, _by_name])
def test_servers_that_are_killed_first(
    way: Callable[[ExitStack, Path], tuple[str, Say]], stack: ExitStack, tmp_path: Path
) -> None:
    """With retries every response is right even where a server ends before its source says so."""
    source, say = way(stack, tmp_path)
    servers = [stack.enter_context(Honest()) for _ in range(3)]
    say(servers)
    proxy = stack.enter_context(Proxy(CONFIG % (RETRY, source)))
    with Clients(Ask(proxy.ports["web"], "/"), 5) as clients:
        for _ in range(3):
            servers.pop(random.randrange(len(servers))).close()
            ask_on(clients)
            servers.append(stack.enter_context(Honest()))
            say(servers)
            _wait_for(proxy, servers)
        clients.stop().judge()
