"""
The filters and other plugins of a configuration, made, verified, started and stopped.

The law it keeps:

- A plugin is made once for each place that names it, and verified: it has every method of the
  interfaces that it says it provides. What is wrong is told with its place in the file, all of it
  at once, before anything is bound.
- Making it opens nothing. ``start`` starts every plugin that wants to be, filters in the order of
  the configuration, or none: where one fails, those before it are stopped again. ``stop`` stops
  them in reverse, and closes what they had of HTTP connections.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.python import log

from meshproxy.config.place import render
from meshproxy.config.unfit import Unfit
from meshproxy.errors import ConfigError, MeshproxyError, PluginError, Problem
from meshproxy.interfaces import IContextFilter, IFilterService
from meshproxy.net.flow import drop
from meshproxy.observe.context import Context
from meshproxy.observe.fitted import Chosen, Fitted
from meshproxy.plugins import CHOICES, last_line, noun, verify_filter

if TYPE_CHECKING:
    from meshproxy.config import FilterItem, Loaded
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.observe.registry import Registry

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Placed:
    """A plugin and where it is: ``at`` is the place as text. ``show`` gives what it shows."""

    item: FilterItem
    kind: str
    at: str
    fitted: Fitted
    show: Callable[[], Any] | None = None

    @property
    def cluster(self) -> str:
        """The cluster that it serves; "" where it serves a listener."""
        return self.fitted.cluster if isinstance(self.fitted, Chosen) else ""

    @property
    def owner(self) -> str:
        """What the admin calls the listener or cluster that it serves."""
        return f"cluster:{self.cluster}" if self.cluster else self.fitted.listener


class Chains:
    """All filters of a configuration, and the other plugins."""

    def __init__(self, loaded: Loaded, registry: Registry, wheel: TimerWheel, reactor: Any) -> None:
        self._loaded = loaded
        self._registry = registry
        self._wheel = wheel
        self._reactor = reactor
        # The process may change its directory before it starts.
        self._directory = os.path.dirname(os.path.abspath(loaded.filename))
        # The items are kept with what is made of them, so that no other gets the id of one.
        self._placed: dict[tuple[int, str, str], Placed] = {}
        self._started: list[Placed] = []
        self._pools: list[Any] = []

    def prepare(self) -> None:
        """
        Make every filter of the configuration, and every other plugin.

        Raises :class:`ConfigError` with everything that is wrong with any of them.
        """
        problems: list[Problem] = []
        for kind, listener, items, path in _lists(self._loaded):
            try:
                self.fit(kind, listener, items, path)
            except ConfigError as error:
                problems += error.problems
        for kind, listener, cluster, item, path in _choices(self._loaded):
            try:
                self.choose(kind, item, path, listener=listener, cluster=cluster)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(tuple(sorted(problems, key=lambda p: (p.line, p.column))))

    def fit(
        self, kind: str, listener: str, items: Sequence[FilterItem], path: Path
    ) -> list[Fitted]:
        """
        The filters of a list, but those that it switches off; ``path`` leads to the list.

        Raises :class:`ConfigError` with what is wrong with any of them.
        """
        made: list[Fitted] = []
        problems: list[Problem] = []
        for index, item in enumerate(items):
            if item.off:
                continue
            where = (*path, index, item.name)
            try:
                made.append(self._place(kind, listener, "", item, where).fitted)
            except Unfit as error:
                problems.append(self._loaded.problem((*where, *error.at), error.message))
        if problems:
            raise ConfigError(tuple(problems))
        return made

    def fitting(self, kind: str, listener: str) -> Callable[[Sequence[FilterItem], Path], Any]:
        """:meth:`fit` for the lists of one kind in one listener."""
        return partial(self.fit, kind, listener)

    def choose(
        self, kind: str, item: FilterItem, path: Path, *, listener: str = "", cluster: str = ""
    ) -> Fitted:
        """
        The plugin that ``item`` chooses for a listener or a cluster; ``path`` leads to the choice.

        Raises :class:`ConfigError` with what is wrong with it.
        """
        where = (*path, item.name)
        try:
            return self._place(kind, listener, cluster, item, where).fitted
        except Unfit as error:
            problem = self._loaded.problem((*where, *error.at), error.message)
            raise ConfigError((problem,)) from error

    def _place(
        self, kind: str, listener: str, cluster: str, item: FilterItem, where: Path
    ) -> Placed:
        """The plugin at its place, made if it is not yet. Raises :class:`Unfit`."""
        key = id(item), listener, cluster
        placed = self._placed.get(key)
        if placed is None:
            placed = self._placed[key] = self._make(kind, listener, cluster, item, where)
        return placed

    def _make(
        self, kind: str, listener: str, cluster: str, item: FilterItem, where: Path
    ) -> Placed:
        """Make a plugin. Raises :class:`Unfit`."""
        now = self._wheel.now
        try:
            made = item.factory.create(item.options)
            verify_filter(made, kind)
            choice = kind in CHOICES
            fitted = (
                Chosen(made, item.label, kind, listener, cluster, self._registry, now)
                if choice
                else Fitted(made, item.label, listener, self._registry, now)
            )
            placed = Placed(item, kind, render(where[:-1]), fitted)
            if IContextFilter.providedBy(made):

                def show(describe: Callable[[], Any]) -> None:
                    placed.show = describe

                made.attach(
                    Context(
                        item.label,
                        item.name,
                        listener,
                        self._registry,
                        self._reactor,
                        now,
                        self._directory,
                        show,
                        self._client,
                        kind if choice else "",
                        cluster,
                    )
                )
        except Unfit:
            raise
        except PluginError as error:
            raise Unfit(f"the {noun(kind)} '{item.name}' cannot be used: {error}") from error
        except ValueError as error:
            raise Unfit(str(error) or last_line(error)) from error
        except Exception as error:
            # A defect, or a library of its that is not there: its author wants the traceback.
            owner = f"cluster {cluster}" if cluster else f"listener {listener}"
            log.err(None, f"making the {noun(kind)} {item.label} of {owner}")
            message = f"the {noun(kind)} '{item.name}' cannot be made: {last_line(error)}"
            raise Unfit(message) from error
        return placed

    def _client(self) -> Any:
        """An HTTP client with connections of its own, which remembers nothing of anybody."""
        from treq.client import HTTPClient
        from treq.cookies import IndexableCookieJar
        from twisted.web.client import Agent, HTTPConnectionPool

        class Forgetful(IndexableCookieJar):
            """Keeps no cookie: one client's would go out with another's request."""

            def set_cookie(self, cookie: Any) -> None:
                """Forget it."""

        pool = HTTPConnectionPool(self._reactor)
        # Two, the default, would have a filter that asks for every request connect for nearly each.
        pool.maxPersistentPerHost = 32
        made = pool._factory

        def quiet(*arguments: Any) -> Any:
            # It would log two lines for every connection.
            factory = made(*arguments)
            factory.noisy = False
            return factory

        pool._factory = quiet  # type: ignore[assignment]
        self._pools.append(pool)
        return HTTPClient(Agent(self._reactor, pool=pool), cookiejar=Forgetful())

    def start(self) -> None:
        """
        Start the filters, and the other plugins that want to be.

        Raises :class:`MeshproxyError` that names the one that does not start; then none runs.
        """
        for placed in self._placed.values():
            held = placed.fitted.filter
            if not IFilterService.providedBy(held):
                continue
            start: Callable[[], Any] = held.start
            try:
                waits = start()
                if waits is not None:
                    if isawaitable(waits):
                        drop(waits)
                    raise ValueError("start() cannot wait: it returns None")
            except Exception as error:
                expected = isinstance(error, MeshproxyError | OSError | ValueError)
                if not expected:
                    log.err(None, f"starting {placed.fitted}")
                self.stop()
                reason = str(error) if expected and str(error) else last_line(error)
                raise MeshproxyError(
                    f"{placed.fitted.whose} ({placed.at}) does not start: {reason}"
                ) from error
            self._started.append(placed)

    def stop(self) -> defer.Deferred[Any]:
        """Stop those that were started; the Deferred fires when everything is closed."""
        waits = []
        while self._started:
            placed = self._started.pop()
            stopped = defer.maybeDeferred(placed.fitted.filter.stop)
            stopped.addErrback(partial(log.err, _why=f"stopping {placed.fitted}"))
            waits.append(stopped)
        while self._pools:
            waits.append(self._pools.pop().closeCachedConnections())
        return defer.DeferredList(waits)

    # The admin.

    def describe(self) -> list[dict[str, Any]]:
        """Every filter, in the order of the configuration, then the other plugins."""
        return [
            {
                "listener": placed.fitted.listener,
                **({"cluster": placed.cluster} if placed.cluster else {}),
                "name": placed.item.label,
                "plugin": placed.item.name,
                "kind": placed.kind,
                "at": placed.at,
                "shows": placed.show is not None,
            }
            for placed in self._placed.values()
        ]

    def shown(self, listener: str, label: str) -> Callable[[], Any] | None:
        """
        What tells what the filter of that name shows; None when there is nothing to show.
        ``listener`` is ``cluster:NAME`` for a plugin of a cluster.

        Of several (a route has one of its own) it is a mapping of place to what each shows.
        """
        found = {
            placed.at: placed.show
            for placed in self._placed.values()
            if placed.owner == listener and placed.item.label == label and placed.show is not None
        }
        if len(found) <= 1:
            return next(iter(found.values()), None)
        return lambda: {at: show() for at, show in found.items()}


def _lists(loaded: Loaded) -> Iterator[tuple[str, str, Sequence[FilterItem], Path]]:
    """Every list of filters: its kind, its listener, its items, and where it is."""
    for name, listener in loaded.configuration.listeners.items():
        path: Path = ("listeners", name)
        yield "listener", name, listener.listener_filters, (*path, "listener_filters")
        if listener.tcp is not None:
            yield "tcp", name, listener.tcp.filters, (*path, "tcp", "filters")
        if listener.http is None:
            continue
        path = (*path, "http")
        yield "http", name, listener.http.filters, (*path, "filters")
        tables = [(path, listener.http.routes)]
        for host, inner in listener.http.hosts.items():
            place = (*path, "hosts", host)
            yield "http", name, inner.filters, (*place, "filters")
            tables.append((place, inner.routes))
        for place, routes in tables:
            for index, route in enumerate(routes):
                yield "http", name, route.filters, (*place, "routes", index, "filters")


def _choices(loaded: Loaded) -> Iterator[tuple[str, str, str, FilterItem, Path]]:
    """Every other plugin: its kind, its listener and its cluster (one is ""), where it is."""
    for name, listener in loaded.configuration.listeners.items():
        room = listener.http or listener.tcp
        spoken = "tcp" if listener.http is None else "http"
        for index, one in enumerate(room.access_log if room is not None else ()):
            if one.plugin is not None:
                path = ("listeners", name, spoken, "access_log", index, "plugin")
                yield "access_log", name, "", one.plugin, path
    for name, cluster in loaded.configuration.clusters.items():
        at: Path = ("clusters", name)
        if not isinstance(cluster.balance, str):
            yield "balancer", "", name, cluster.balance, (*at, "balance")
        if cluster.discovery is not None and cluster.discovery.plugin is not None:
            yield "discovery", "", name, cluster.discovery.plugin, (*at, "discovery", "plugin")
        if cluster.health_check is not None and cluster.health_check.plugin is not None:
            where = (*at, "health_check", "plugin")
            yield "health_check", "", name, cluster.health_check.plugin, where


__all__ = ["Chains"]
