"""Balancers, discoveries, health checks and access logs that are plugins, put together."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from meshproxy.config import load
from meshproxy.errors import ConfigError
from meshproxy.service import MeshService
from tests.config.texts import DROPINS

MESH = (
    f"plugins: [{DROPINS}]\n"
    """\
listeners:
  web:
    listen: "127.0.0.1:0"
    http:
      access_log:
        - plugin: t_remember
        - plugin: { t_remember: { fail: true }, as: failing }
      routes: [{ to: api }]
  raw:
    listen: "127.0.0.1:0"
    tcp: { to: api, access_log: { plugin: t_remember } }
clusters:
  api:
    discovery: { plugin: { t_listed: ["127.0.0.1:1", "127.0.0.1:2"] } }
    balance: { t_last: { word: a, token: sesame }, as: mine }
    health_check: { plugin: { t_port: { ports: [2] } }, unhealthy_threshold: 1 }
"""
)


def dropins() -> Any:
    """The module of the tests' plugins, as the plugins' search imported it."""
    return sys.modules["twisted.plugins.tested_choices"]


def number(service: MeshService, name: str, *labels: str) -> float:
    """The number of a metric with these values of its labels."""
    (family,) = (family for family in service.registry.families if family.name == name)
    return service.registry.values[family.series[labels]]


class ChoicesTests(TestCase):
    """The service of a configuration that uses all four kinds."""

    def setUp(self) -> None:
        """A clock."""
        self.clock = Clock()

    def made(self, text: str = MESH) -> MeshService:
        """The service of a text, which has opened nothing."""
        loaded = load(text, "mesh.yaml")
        dropins().EVENTS.clear()
        return MeshService(loaded, self.clock)

    def refused(self, text: str) -> list[str]:
        """What is said of a text whose plugins refuse something."""
        with self.assertRaises(ConfigError) as caught:
            self.made(text)
        return [str(problem) for problem in caught.exception.problems]

    def test_all_four_do_what_they_are_for(self) -> None:
        """The discovery's endpoints are checked by the check and chosen by the balancer."""
        service = self.made()
        cluster: Any = service._clusters["api"]
        assert cluster.endpoints == ()
        service._upstreams.prepare()
        service._chains.start()
        service._upstreams.start(lambda: None)
        assert dropins().EVENTS == ["start balancer", "start discovery"]
        group = cluster.group()
        first, last = cluster.endpoints
        assert group.pick() is group.pick() is last
        balancer = group.pick.__self__
        assert isinstance(balancer, dropins().Last), "the plugin's own method is called"
        self.clock.pump([0.5] * 8)
        assert (first.healthy, last.healthy) == (True, False)
        # One of two is not fewer than half, so the check is believed.
        assert group.pick() is first
        assert number(service, "meshproxy_balancer_t_last_made_total", "api", "mine") >= 2
        assert number(service, "meshproxy_health_check_t_port_asked_total", "api", "t_port") >= 2
        (shown,) = service.clusters()
        assert shown["balance"] == "mine"
        assert shown["source"] == {"listed": 2}
        assert [one["health"]["check"] for one in shown["endpoints"]] == ["port", "port"]
        service._upstreams.stop()
        self.successResultOf(service._chains.stop())
        assert dropins().EVENTS[2:] == ["stop discovery", "stop balancer"]
        service._wheel.stop()
        assert self.clock.getDelayedCalls() == []

    def test_access_logs_get_every_record(self) -> None:
        """In order; one that fails harms nobody, and is counted under its own name."""
        service = self.made()
        rooms: list[Any] = [listening.room for listening in service._listeners]
        web, raw = rooms
        web._log(SimpleNamespace(path=b"/a"))
        web._log(SimpleNamespace(path=b"/b"))
        raw.log(SimpleNamespace(path=b""))
        good = service.loaded.configuration.listeners["web"].http
        assert good is not None
        item = good.access_log[0].plugin
        assert item is not None
        held = service._chains.choose("access_log", item, (), listener="web").filter
        assert held.seen == [b"/a", b"/b"]
        name = "meshproxy_plugin_errors_total"
        assert number(service, name, "access_log", "web", "", "failing") == 2
        assert number(service, name, "access_log", "web", "", "t_remember") == 0
        name = "meshproxy_access_log_t_remember_logged_total"
        assert [
            number(service, name, *of) for of in (("web", "failing"), ("raw", "t_remember"))
        ] == [2, 1]

    def test_the_admin_lists_them(self) -> None:
        """With what they serve; what one shows is under its cluster; no secret is told."""
        service = self.made()
        listed = [
            (one["kind"], one["listener"], one.get("cluster"), one["name"], one["at"])
            for one in service.filters()
        ]
        assert listed == [
            ("access_log", "web", None, "t_remember", "listeners.web.http.access_log[0].plugin"),
            ("access_log", "web", None, "failing", "listeners.web.http.access_log[1].plugin"),
            ("access_log", "raw", None, "t_remember", "listeners.raw.tcp.access_log[0].plugin"),
            ("balancer", "", "api", "mine", "clusters.api.balance"),
            ("discovery", "", "api", "t_listed", "clusters.api.discovery.plugin"),
            ("health_check", "", "api", "t_port", "clusters.api.health_check.plugin"),
        ]
        show = service.shown("cluster:api", "mine")
        assert show is not None
        assert show() == {"made": 0}
        assert service.shown("api", "mine") is None
        assert "sesame" not in repr(service.configuration())
        assert "sesame" not in repr(service.loaded.configuration)

    def test_the_context_says_where_it_is(self) -> None:
        """A cluster's plugin has a cluster and no listener, an access log the reverse."""
        service = self.made()
        configuration = service.loaded.configuration
        balance: Any = configuration.clusters["api"].balance
        chosen = service._chains.choose("balancer", balance, (), cluster="api")
        context = chosen.filter.context
        assert (context.name, context.cluster, context.listener) == ("mine", "api", "")
        assert repr(chosen) == "<balancer mine of cluster api>"

    def test_what_a_plugin_refuses_is_told_at_its_place(self) -> None:
        """A lone access log and one in a list, and what breaks its promise."""
        text = MESH.replace("word: a", "word: wrong").replace("plugin: { t_port: {", "plugin: {"
            " t_nameless: {").replace("{ t_nameless: { ports: [2] } }", "t_nameless")  # fmt: skip
        found = self.refused(text)
        assert found[0] == (
            "mesh.yaml:16:24: clusters.api.balance.t_last: this word brings bad luck"
        )
        assert found[1].startswith(
            "mesh.yaml:17:29: clusters.api.health_check.plugin.t_nameless: the health check "
            "'t_nameless' cannot be used: it provides IHealthCheck badly"
        )
        (twice,) = self.refused(MESH.replace("t_listed", "t_twice"))
        assert twice == (
            "mesh.yaml:15:37: clusters.api.discovery.plugin.t_twice: the discovery 't_twice' "
            "cannot be used: it cannot provide IFilterService: IDiscovery has a start of its own"
        )

    def test_a_balancer_that_is_none(self) -> None:
        """A plugin that makes no balancer is counted, and the endpoints take turns."""
        service = self.made(MESH.replace("word: a", "word: none"))
        service._upstreams.prepare()
        service._upstreams.start(lambda: None)
        cluster = service._clusters["api"]
        picked = {cluster.group().pick() for _ in range(4)}
        assert picked == set(cluster.endpoints)
        name = "meshproxy_plugin_errors_total"
        assert number(service, name, "balancer", "", "api", "mine") >= 1
        service._upstreams.stop()
        service._wheel.stop()
