"""Upstreams that fail and come back while clients ask on: nobody notices, and traffic returns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.harness import Proxy
from tests.integration.faults.mesh import BREAKER, RETRY, Mesh, mesh, slug
from tests.integration.faults.servers import Answers500, Honest
from tests.integration.faults.traffic import Ask, Clients, Outcome, ask_on
from tests.integration.wire import LOG, ask, eventually, log_lines, metric, refusing

CHECK = (
    "health_check: { http: /healthz, interval: 100ms, unhealthy_threshold: 1, "
    "healthy_threshold: 1, timeout: 1s }, "
)
CONFIG = f"""
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      routes: [{{ {RETRY} to: site }}]
clusters:
  site:
    {{ %s connect_timeout: 300ms, limits: {{ retries: 1000 }}, endpoints: [%s] }}
"""


@pytest.fixture(scope="module")
def ill() -> Iterator[Mesh]:
    """A proxy with breaker and retries before a server that may answer 500."""
    with mesh((("both", Answers500), ("breaker", Answers500))) as running:
        yield running


def breakers(proxy: Proxy, cluster: str) -> dict[str, str]:
    """What the admin says of each endpoint's breaker, by its address."""
    return {entry["address"]: entry["breaker"] for entry in endpoints(proxy, cluster)}


def endpoints(proxy: Proxy, cluster: str) -> list[dict[str, Any]]:
    """The endpoints of a cluster, as the admin shows them."""
    clusters = json.loads(proxy.get("admin", "/clusters").body)["clusters"]
    found: list[dict[str, Any]]
    (found,) = (entry["endpoints"] for entry in clusters if entry["name"] == cluster)
    return found


@pytest.mark.parametrize("way", ["both", "breaker"])
def test_a_server_that_recovers(ill: Mesh, way: str) -> None:
    """Its breaker opens, lets probes through, and closes; its share of traffic is back then."""
    cluster = f"{slug(Answers500)}-{way}"
    server = ill.faulty[slug(Answers500)]
    assert isinstance(server, Answers500)
    server.ill = True
    server.arrived.clear()
    with Clients(ill.ask(way, Answers500), 4) as clients:
        eventually(lambda: "open" in breakers(ill.proxy, cluster).values(), "the breaker to open")
        ask_on(clients)
        # A probe that fails opens it again.
        opened = ill.count(way, Answers500, "ejections_total")
        eventually(lambda: ill.count(way, Answers500, "ejections_total") > opened, "a failed probe")
        met = len(server.arrived)
        server.ill = False
        eventually(lambda: set(breakers(ill.proxy, cluster).values()) == {"closed"}, "it to close")
        began, all_began = len(server.arrived), clients.answered()
        ask_on(clients, 300)
        got, total = len(server.arrived) - began, clients.answered() - all_began
        outcome = clients.stop()
    assert met < clients.answered() / 5
    assert got > total / 5
    if way == "both":
        outcome.judge()
    else:
        # Without retries those that met it are the cost: three until it opened, one a probe.
        assert len(outcome.wrong) <= 3 + 4 + ill.count(way, Answers500, "ejections_total")


def _is_unhealthy(proxy: Proxy, address: str) -> bool:
    (entry,) = (e for e in endpoints(proxy, "site") if e["address"] == address)
    return not entry["healthy"]


def _used(server: Honest) -> bool:
    """Whether a client's request came, health checks not counted."""
    return any(key != "?" for key in list(server.arrived))


def _stop_and_go(
    proxy: Proxy, servers: list[Honest], rounds: int, stack: ExitStack, checked: bool
) -> Outcome:
    """
    Servers die and come back in turn, at the same address, while clients ask.

    Where they are ``checked`` each stays away until the checks have noticed.
    """
    with Clients(Ask(proxy.ports["web"], "/"), 6) as clients:
        for number in range(rounds):
            place = number % len(servers)
            ask_on(clients)
            port = servers[place].port
            servers[place].close()
            if checked:
                address = servers[place].address
                eventually(partial(_is_unhealthy, proxy, address), "the checks to notice")
            ask_on(clients)
            servers[place] = server = stack.enter_context(Honest(port=port))
            # It is in use again before the next one dies.
            eventually(partial(_used, server), "traffic at the new one")
        return clients.stop()


@pytest.mark.parametrize(
    "guard",
    [BREAKER, CHECK, ""],
    ids=["breaker", "checks", "retries alone"],
)
def test_servers_that_die_and_come_back(guard: str) -> None:
    """Each in turn is killed under load and started again; every response is right."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Honest()) for _ in range(3)]
        addresses = ", ".join(f"'{server.address}'" for server in servers)
        proxy = stack.enter_context(Proxy(CONFIG % (guard, addresses)))
        _stop_and_go(proxy, servers, 4, stack, CHECK in guard).judge()
        if CHECK in guard:
            assert metric(proxy, "meshproxy_cluster_became_healthy_total", cluster="site") >= 3


def test_checks_find_a_server_that_stalls_before_clients_do() -> None:
    """An endpoint that its checks call unhealthy gets no request; the log tells the change."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Answers500()) for _ in range(3)]
        for server in servers:
            server.ill = False
        addresses = ", ".join(f"'{server.address}'" for server in servers)
        text = (CONFIG % (CHECK, addresses)).replace(RETRY, "")
        proxy = stack.enter_context(Proxy(text))
        ill = servers[0]
        ill.ill = True
        eventually(partial(_is_unhealthy, proxy, ill.address), "the checks to find it")
        with Clients(Ask(proxy.ports["web"], "/"), 4) as clients:
            ask_on(clients, 200)
            assert not _used(ill)
            ill.ill = False
            eventually(partial(_used, ill), "traffic to return")
            clients.stop().judge()
        line = f"health cluster=site endpoint={ill.address} state="
        assert f"{line}unhealthy" in proxy.stdout
        assert f"{line}healthy" in proxy.stdout


def test_when_every_breaker_is_open() -> None:
    """The answer is 503 at once, with its flag, and nobody is even tried."""
    with refusing() as one, refusing() as other:
        breaker = (
            "circuit_breaker: { failure_threshold: 1, max_ejection_percent: 100, "
            "base_ejection_time: 1m },"
        )
        text = CONFIG % (breaker, f"'{one}', '{other}'")
        text = text.replace("http:\n", f"http:\n      {LOG}\n", 1)
        with Proxy(text) as proxy:
            first = ask(proxy, "/first")
            assert first.status == 503
            assert set(breakers(proxy, "site").values()) == {"open"}
            tried = metric(proxy, "meshproxy_cluster_connect_failures_total", cluster="site")
            assert tried == 2
            for _ in range(20):
                response = ask(proxy, "/later")
                assert (response.status, response.body) == (503, b"no healthy upstream")
            lines = log_lines(proxy, path="/later")
            assert {line["flags"] for line in lines} == {"UH"}
            tried = metric(proxy, "meshproxy_cluster_connect_failures_total", cluster="site")
            assert tried == 2
            assert metric(proxy, "meshproxy_cluster_no_endpoint_total", cluster="site") >= 20
