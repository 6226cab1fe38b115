"""
What a filter or another plugin is given of the proxy
(:class:`meshproxy.interfaces.IFilterContext`).

The law it keeps: a filter's numbers carry its plugin's name and its own label, so that no filter
can count in another's place; its HTTP client exists only if it asks for one.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.task import deferLater
from twisted.python import log
from zope.interface import implementer

from meshproxy.interfaces import IFilterContext
from meshproxy.observe.registry import DURATION_BOUNDS

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from meshproxy.observe.registry import Registry


class Counter:
    """A number that only grows."""

    __slots__ = ("_slot", "_values")

    def __init__(self, values: list[float], slot: int) -> None:
        self._values = values
        self._slot = slot

    def inc(self, by: float = 1) -> None:
        """Count."""
        self._values[self._slot] += by

    @property
    def value(self) -> float:
        """So far."""
        return self._values[self._slot]


class Gauge(Counter):
    """A number that goes up and down."""

    __slots__ = ()

    def dec(self, by: float = 1) -> None:
        """One less."""
        self._values[self._slot] -= by

    def set(self, to: float) -> None:
        """Now it is this."""
        self._values[self._slot] = to


class Distribution:
    """A histogram."""

    __slots__ = ("_base", "_bounds", "_sum", "_values")

    def __init__(
        self, values: list[float], base: int, bounds: tuple[float, ...], sum_slot: int
    ) -> None:
        self._values = values
        self._base = base
        self._bounds = bounds
        self._sum = sum_slot

    def observe(self, x: float) -> None:
        """Count ``x``."""
        values = self._values
        values[self._base + bisect_left(self._bounds, x)] += 1
        values[self._sum] += x


@implementer(IFilterContext)
class Context:
    """
    ``label`` is the filter's name in its chain, ``plugin`` the plugin's. ``directory`` is where
    relative paths of options begin; ``show`` takes what the filter shows in the admin;
    ``make_http`` makes its HTTP client. A plugin that is no filter has a ``kind``, and a
    ``cluster`` unless it serves a listener.
    """

    def __init__(
        self,
        label: str,
        plugin: str,
        listener: str,
        registry: Registry,
        reactor: Any,
        now: Callable[[], float],
        directory: str,
        show: Callable[[Callable[[], Any]], None],
        make_http: Callable[[], Any] | None = None,
        kind: str = "",
        cluster: str = "",
    ) -> None:
        self.name = label
        self.listener = listener
        self.cluster = cluster
        self._kind = kind
        self.reactor = reactor
        #: Seconds of a monotonic clock.
        self.now = now
        #: Seconds since 1970.
        self.time: Callable[[], float] = time.time
        self.show = show
        self.log: Callable[[str], None] = self._log
        self._registry = registry
        self._directory = directory
        plugin = plugin.replace("-", "_").replace(".", "_")
        self._prefix = f"meshproxy_{kind or 'filter'}_{plugin}_"
        self._make_http = make_http
        self._http: Any = None

    @property
    def http(self) -> Any:
        """A client for HTTP (``treq.client.HTTPClient``), made when it is first asked for."""
        if self._http is None:
            if self._make_http is None:
                raise RuntimeError("there is no HTTP client here")
            self._http = self._make_http()
        return self._http

    @http.setter
    def http(self, client: Any) -> None:
        self._http = client

    def sleep(self, seconds: float) -> Deferred[None]:
        """A Deferred that fires after so many seconds."""
        return deferLater(self.reactor, max(seconds, 0.0))

    def path(self, text: str) -> str:
        """The path of an option, relative to the configuration's directory."""
        return os.path.join(self._directory, os.path.expanduser(text))

    def counter(self, name: str, help: str, **labels: str) -> Counter:  # noqa: A002
        """A number that only grows."""
        slot = self._registry.counter(f"{self._prefix}{name}_total", help, self._labels(labels))
        return Counter(self._registry.values, slot)

    def gauge(self, name: str, help: str, **labels: str) -> Gauge:  # noqa: A002
        """A number that goes up and down."""
        slot = self._registry.gauge(f"{self._prefix}{name}", help, self._labels(labels))
        return Gauge(self._registry.values, slot)

    def histogram(
        self,
        name: str,
        help: str,  # noqa: A002
        bounds: Sequence[float] | None = None,
        **labels: str,
    ) -> Distribution:
        """A distribution."""
        made = self._registry.histogram(
            f"{self._prefix}{name}",
            help,
            DURATION_BOUNDS if bounds is None else tuple(bounds),
            self._labels(labels),
        )
        return Distribution(self._registry.values, made.base, made.bounds, made.sum_slot)

    def _labels(self, own: dict[str, str]) -> dict[str, str]:
        owner = {"cluster": self.cluster} if self.cluster else {"listener": self.listener}
        return {**owner, "plugin" if self._kind else "filter": self.name, **own}

    def _log(self, message: str) -> None:
        what = self._kind.replace("_", " ") or "filter"
        owner = f"cluster '{self.cluster}'" if self.cluster else f"listener '{self.listener}'"
        log.msg(f"{what} '{self.name}' of {owner}: {message}")
