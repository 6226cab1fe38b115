"""
What keeps the clusters' endpoints known and judged: sources of endpoints, health checks, breakers.

The law it keeps:

- Making it opens nothing. ``start`` starts everything and ``stop`` ends everything: when it
  returns no timer, query, poll or check is left.
- A source or a check that fails, or has a defect, is logged and counted; what was known last
  stays in use, and no other cluster notices.
- ``warm`` comes once: when every source has told something, its failure at least, or after
  :data:`WARM` seconds. It does not come after ``stop``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.python import log

from meshproxy.errors import ConfigError
from meshproxy.http.warmth import warm_up

if TYPE_CHECKING:
    from meshproxy.config import FilterItem, Loaded
    from meshproxy.observe.fitted import Fitted
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import EndpointSpec
    from meshproxy.upstream.health import HealthChecker

#: Seconds that the first word of every source is waited for.
WARM = 5.0


class Watch:
    """One cluster's source and health checks; either may be None."""

    def __init__(self, cluster: Cluster, source: Any, told: Callable[[], None]) -> None:
        self.cluster = cluster
        self.source = source
        self.checker: HealthChecker | None = None
        #: Whether the source has said something, if only that it failed.
        self.told = source is None
        self._on_told = told
        self._error: str | None = None
        self._known: frozenset[str] | None = None

    def start(self) -> None:
        """Warm up pools, begin to check, and start the source."""
        if self.cluster.config.pool.warm:
            warm_up(self.cluster)
        if self.checker is not None:
            self.checker.start()
        if self.source is None:
            return
        try:
            self.source.start(self._update, self._failed)
        except Exception as error:
            log.err(None, f"starting the discovery of cluster {self.cluster.name}")
            self._failed(f"it did not start: {error}")

    def stop(self) -> None:
        """End it all."""
        self._on_told = _nothing
        parts = (self.source, self.checker, self.cluster)
        for part in parts:
            if part is None:
                continue
            try:
                part.stop()
            except Exception:
                log.err(None, f"stopping {type(part).__name__} of cluster {self.cluster.name}")

    def _update(self, specs: Sequence[EndpointSpec]) -> None:
        cluster = self.cluster
        stats = cluster.stats
        try:
            cluster.update(specs)
        except Exception as error:
            log.err(None, f"updating the endpoints of cluster {cluster.name}")
            self._failed(f"the endpoints cannot be used: {error}")
            return
        stats.values[stats.updates] += 1
        known = frozenset(endpoint.spec.key for endpoint in cluster.endpoints)
        if known != self._known or self._error is not None:
            log.msg(f"discovery cluster={cluster.name} endpoints={len(known)}")
        self._known = known
        self._error = None
        self._tell()

    def _failed(self, reason: str) -> None:
        stats = self.cluster.stats
        stats.values[stats.update_failures] += 1
        if reason != self._error:
            shown = reason.replace("\\", "\\\\").replace('"', "'")
            shown = "".join(c if c.isprintable() else " " for c in shown)
            log.msg(f'discovery cluster={self.cluster.name} error="{shown}"')
        self._error = reason
        self._tell()

    def _tell(self) -> None:
        if not self.told:
            self.told = True
            self._on_told()

    def describe(self) -> dict[str, Any]:
        """What the admin shows of the cluster."""
        shown: dict[str, Any] = dict(self.cluster.describe())
        if self.source is not None:
            shown["source"] = self.source.describe()
        checker = self.checker
        if checker is not None:
            for endpoint, entry in zip(self.cluster.endpoints, shown["endpoints"], strict=True):
                entry["health"] = checker.describe(endpoint)
        return shown


class Upstreams:
    """
    All clusters' sources, checks and breakers.

    ``choose(kind, item, path, cluster=name)`` makes those that are plugins.
    """

    def __init__(
        self,
        loaded: Loaded,
        clusters: Mapping[str, Cluster],
        reactor: Any,
        choose: Callable[..., Fitted] | None = None,
    ) -> None:
        self._loaded = loaded
        self._choose = choose
        self._reactor = reactor
        # The process may change its directory before it starts.
        self._directory = os.path.dirname(os.path.abspath(loaded.filename))
        self._watches = {
            name: Watch(cluster, self._source(cluster), self._on_told)
            for name, cluster in clusters.items()
        }
        self._warm: Callable[[], None] | None = None
        self._waiting: Any = None

    def prepare(self) -> None:
        """
        Make the health checks, and see that the system allows them.

        Raises :class:`ConfigError` with every place that asks for one that it does not.
        """
        problems = []
        for name, watch in self._watches.items():
            config = watch.cluster.config.health_check
            if config is None:
                continue
            from meshproxy.upstream.health import HealthChecker

            why = self._forbidden(watch.cluster)
            if why is not None:
                where = ("clusters", name, "health_check", "icmp")
                problems.append(self._loaded.problem(where, why))
            check = self._check(watch.cluster)
            watch.checker = HealthChecker(watch.cluster, config, check, self._reactor)
        if problems:
            raise ConfigError(tuple(problems))

    def start(self, warm: Callable[[], None]) -> None:
        """Start everything; ``warm()`` is called once, within this call if nobody is waited for."""
        for watch in self._watches.values():
            watch.start()
        self._warm = warm
        self._waiting = self._reactor.callLater(WARM, self._late)
        self._on_told()

    def cool(self) -> None:
        """Nobody waits to begin any more."""
        self._warm = None
        self._stop_waiting()

    def stop(self) -> None:
        """End everything."""
        self.cool()
        for watch in self._watches.values():
            watch.stop()

    def describe(self) -> list[dict[str, Any]]:
        """The clusters, for the admin."""
        return [watch.describe() for watch in self._watches.values()]

    def _on_told(self) -> None:
        if self._warm is None or not all(watch.told for watch in self._watches.values()):
            return
        self._stop_waiting()
        warm, self._warm = self._warm, None
        warm()

    def _late(self) -> None:
        silent = [name for name, watch in self._watches.items() if not watch.told]
        log.msg(f"discovery clusters={','.join(silent)} silent_for={WARM:g}s: serving without them")
        for name in silent:
            self._watches[name].told = True
        self._on_told()

    def _stop_waiting(self) -> None:
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()
        self._waiting = None

    def _source(self, cluster: Cluster) -> Any:
        """The source of a cluster's endpoints; None where they are written down as addresses."""
        config = cluster.config
        discovery = config.discovery
        # What only some configurations need is imported for them.
        if discovery is None:
            if config.resolve is None:
                return None
            from meshproxy.upstream.discovery.dns import DnsDiscovery

            return DnsDiscovery(self._reactor, config.endpoints, config.resolve, config.dns)
        if discovery.plugin is not None:
            from meshproxy.upstream.discovery.plugin import PluginDiscovery

            return PluginDiscovery(self._plugin(cluster, "discovery", discovery.plugin))
        if discovery.file is not None:
            from meshproxy.upstream.discovery.file import FileDiscovery

            path = os.path.join(self._directory, discovery.file)
            return FileDiscovery(self._reactor, path, discovery.interval)
        from meshproxy.http.discovery import HttpDiscovery

        assert discovery.http is not None
        return HttpDiscovery(
            self._reactor,
            discovery.http,
            discovery.headers,
            discovery.interval,
            discovery.timeout,
        )

    def _plugin(self, cluster: Cluster, kind: str, item: FilterItem) -> Fitted:
        assert self._choose is not None
        path = ("clusters", cluster.name, kind, "plugin")
        return self._choose(kind, item, path, cluster=cluster.name)

    def _check(self, cluster: Cluster) -> Any:
        config = cluster.config.health_check
        assert config is not None
        if config.plugin is not None:
            return self._plugin(cluster, "health_check", config.plugin).filter
        if config.http is None:
            from meshproxy.upstream.checks import make_check

            return make_check(config, self._reactor, cluster.proxy_protocol, cluster.tls)
        from meshproxy.http.check import HttpCheck

        return HttpCheck(config, self._reactor, cluster.proxy_protocol, cluster.tls)

    def _forbidden(self, cluster: Cluster) -> str | None:
        """Why the cluster's endpoints cannot be checked by this process; None when they can."""
        config = cluster.config
        if config.health_check is None or config.health_check.icmp is None:
            return None
        from meshproxy.upstream.checks.icmp import forbidden

        # A name may turn out to be of either family; most have IPv4.
        addresses = [endpoint.address for endpoint in config.endpoints]
        families = {address.family for address in addresses if address is not None} - {0}
        for family in sorted(families) or [socket.AF_INET]:
            why = forbidden(family) if family != socket.AF_UNIX else None
            if why is not None:
                return why
        return None


def _nothing() -> None:
    """What a source says after the end is of no interest."""
