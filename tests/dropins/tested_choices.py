"""Plugins of the kinds that are no filters, that do little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from pydantic import Field
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import classImplements, implementer

from meshproxy import api
from meshproxy.errors import CheckFailed
from meshproxy.interfaces import (
    IAccessLog,
    IBalancer,
    IBalancing,
    IContextFilter,
    IDiscovery,
    IFilterService,
    IHealthCheck,
)

#: What was done with the plugins below, in order.
EVENTS: list[str] = []


@implementer(IBalancer)
class Last:
    """The last endpoint."""

    def __init__(self, endpoints: Sequence[Any]) -> None:
        self._endpoint = endpoints[-1]

    def pick(self) -> Any:
        """It."""
        return self._endpoint


@implementer(IBalancing, IContextFilter, IFilterService)
class TakeLast:
    """Always takes the last; ``word`` "none" makes no balancer."""

    class Options(api.Options):
        """A word."""

        word: str = Field(default="a", description="What it says.")
        token: str = Field(default="", description="A secret.")

    def __init__(self, options: Options) -> None:
        if options.word == "wrong":
            raise ValueError("this word brings bad luck")
        self.options = options

    def attach(self, context: Any) -> None:
        """Count, and show."""
        self.context = context
        self.made = context.counter("made", "Balancers made")
        context.show(lambda: {"made": self.made.value})

    def start(self) -> None:
        """Start."""
        EVENTS.append("start balancer")

    def stop(self) -> None:
        """Stop."""
        EVENTS.append("stop balancer")

    def balance(self, endpoints: Sequence[Any]) -> Any:
        """Count."""
        self.made.inc()
        if self.options.word == "none":
            raise RuntimeError("no balancer today")
        return Last(endpoints)


@implementer(IDiscovery)
class Listed:
    """Knows what its options list."""

    class Options(api.Options):
        """Endpoints."""

        shorthand: ClassVar[str] = "endpoints"

        endpoints: list[Any] = Field(description="The endpoints.")

    def __init__(self, options: Options) -> None:
        self.options = options

    def start(self, update: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        """Tell."""
        self.update, self.failed = update, failed
        EVENTS.append("start discovery")
        update(self.options.endpoints)

    def stop(self) -> None:
        """Stop."""
        EVENTS.append("stop discovery")

    def describe(self) -> Any:
        """What it knows."""
        return {"listed": len(self.options.endpoints)}


@implementer(IHealthCheck, IContextFilter)
class PortCheck:
    """Fails for some ports."""

    name = "port"

    class Options(api.Options):
        """Ports."""

        ports: list[int] = Field(default=[], description="Those that fail.")

    def __init__(self, options: Options) -> None:
        self.ports = options.ports

    def attach(self, context: Any) -> None:
        """Count."""
        self.context = context
        self.asked = context.counter("asked", "Checks")

    def check(self, endpoint: Any) -> Deferred[None]:
        """Ask nobody."""
        self.asked.inc()
        if endpoint.sockaddr[1] in self.ports:
            return fail(CheckFailed("I do not like this port"))
        return succeed(None)


@implementer(IAccessLog, IContextFilter)
class Remember:
    """Keeps the paths; ``fail`` raises instead."""

    class Options(api.Options):
        """Whether to fail."""

        fail: bool = Field(default=False, description="Raise.")

    def __init__(self, options: Options) -> None:
        self.fail = options.fail
        self.seen: list[bytes] = []

    def attach(self, context: Any) -> None:
        """Count."""
        self.context = context
        self.logged = context.counter("logged", "Records")

    def log(self, record: Any) -> None:
        """Keep the path."""
        self.logged.inc()
        if self.fail:
            raise RuntimeError("the log is full")
        self.seen.append(record.path)


@implementer(IHealthCheck)
class Nameless:  # type: ignore[misc]
    """Promises a name that it does not have."""


class Twice(Listed):  # type: ignore[override]
    """Means two things by start."""


classImplements(Twice, IFilterService)


last = api.FilterPlugin("t_last", "Takes the last.", TakeLast)
listed = api.FilterPlugin("t_listed", "Knows a list.", Listed)
port = api.FilterPlugin("t_port", "Fails for some ports.", PortCheck)
remember = api.FilterPlugin("t_remember", "Keeps paths.", Remember)
nameless = api.FilterPlugin("t_nameless", "Is refused.", Nameless)
twice = api.FilterPlugin("t_twice", "Is refused.", Twice)
