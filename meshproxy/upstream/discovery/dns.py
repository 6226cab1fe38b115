"""
Endpoints from DNS names, looked up again whenever the answer expires.

The laws it keeps:

- A failure never takes an endpoint away. SERVFAIL, REFUSED and silence are failures, and so is the
  word that there is no such name or no address (NXDOMAIN, NODATA): a name that vanishes by mistake
  must not empty a cluster. (Envoy's strict DNS empties it.) The name is asked for again after the
  negative TTL. Only an answer that leaves an endpoint out removes it; and an SRV target of ``.``,
  which says that there are none, on purpose.
- ``update`` is called when the endpoints changed or a name is well again, not for every answer;
  their order is that of the configuration and then of the addresses, whatever the records'.
- ``failed`` is called for every look-up that taught nothing, with what ails all names at the time.
- Addresses that are written down are there at once; each name adds its own when it is answered,
  so that one broken name holds nothing up.
- Where two names lead to the same address, it is one endpoint, with what the first says of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import random
from typing import TYPE_CHECKING, Any, Literal

from twisted.internet.defer import Deferred
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.interfaces import IDiscovery
from meshproxy.upstream.cluster import spec_of
from meshproxy.upstream.discovery.names import HostName, Learnt, ServiceName
from meshproxy.upstream.discovery.resolver import LookupFailed, Resolver
from meshproxy.upstream.endpoint import EndpointSpec

if TYPE_CHECKING:
    from meshproxy.config import Dns
    from meshproxy.config import Endpoint as EndpointConfig

_MOST_SHOWN = 10
_MOST_REASONS = 4


@implementer(IDiscovery)
class DnsDiscovery:
    """
    The endpoints of a cluster of which some are names.

    ``reactor`` provides IReactorTime, IReactorFDSet and IReactorTCP; ``resolve`` and ``dns`` are
    the cluster's. ``resolver`` takes the place of the one that ``dns`` describes.
    """

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[EndpointConfig],
        resolve: Literal["strict", "logical"],
        dns: Dns,
        resolver: Resolver | None = None,
    ) -> None:
        self._resolver = resolver or Resolver(
            reactor, [_server(text) for text in dns.servers], dns.family, dns.timeout
        )
        self._sources: list[EndpointSpec | _Watch] = []
        for config in endpoints:
            if config.address is None:
                name: HostName | ServiceName = ServiceName(config, self._resolver)
            elif config.address.family == 0:
                name = HostName(config, self._resolver, resolve == "logical")
            else:
                self._sources.append(spec_of(config))
                continue
            self._sources.append(_Watch(reactor, name, dns, self._answered, self._not_found))
        self._update: Any = None
        self._failed: Any = None
        self._told: tuple[EndpointSpec, ...] | None = None
        self._last_error = ""

    def start(self, update: Any, failed: Any) -> None:
        """Begin: see :class:`meshproxy.interfaces.IDiscovery`."""
        self._update = update
        self._failed = failed
        if any(isinstance(source, EndpointSpec) for source in self._sources):
            self._tell()
        for watch in self._watches():
            watch.look()

    def stop(self) -> None:
        """End for good."""
        self._update = self._failed = None
        for watch in self._watches():
            watch.stop()

    def describe(self) -> dict[str, Any]:
        """
        What the admin shows.

        Times of success are Unix times; ``next`` is in seconds from now, None while it is asked.
        """
        settings = self._resolver.settings()
        names = [watch.describe() for watch in self._watches()]
        successes = [name["last_success"] for name in names if name["last_success"] is not None]
        return {
            "kind": "dns",
            "where": [f"{host} port {port}" for host, port in settings.servers],
            "names": names,
            "last_success": max(successes, default=None),
            "last_error": self._last_error,
        }

    def _watches(self) -> list[_Watch]:
        return [source for source in self._sources if isinstance(source, _Watch)]

    def _answered(self, recovered: bool) -> None:
        """A name was answered; ``recovered``: for the first time since it failed."""
        if recovered:
            self._told = None
        self._tell()

    def _not_found(self) -> None:
        told = [f"{watch.name.text}: {watch.failure}" for watch in self._watches() if watch.failure]
        more = ["…"] if len(told) > _MOST_REASONS else []
        self._last_error = "; ".join(told[:_MOST_REASONS] + more)
        _call(self._failed, self._last_error)

    def _tell(self) -> None:
        found: dict[str, EndpointSpec] = {}
        for source in self._sources:
            specs = (source,) if isinstance(source, EndpointSpec) else source.specs
            for spec in specs:
                found.setdefault(spec.key, spec)
        specs = tuple(found.values())
        if specs != self._told:
            self._told = specs
            _call(self._update, specs)


class _Watch:
    """One name, and the time of its next look-up."""

    def __init__(
        self,
        reactor: Any,
        name: HostName | ServiceName,
        dns: Dns,
        answered: Callable[[bool], None],
        failed: Callable[[], None],
    ) -> None:
        self.name = name
        self.specs: tuple[EndpointSpec, ...] = ()
        #: Why nothing was learnt last time, or "".
        self.failure = ""
        self._lacks = ""
        self._reactor = reactor
        self._dns = dns
        self._answered = answered
        self._failed = failed
        self._call: Any = None
        self._asking: Deferred[None] | None = None
        self._stopped = False
        self._delay = dns.negative_ttl
        self._last_success: float | None = None

    def look(self) -> None:
        """Look the name up now, and then again and again."""
        self._call = None
        self._asking = Deferred.fromCoroutine(self._look())
        self._asking.addErrback(self._broken)
        self._asking.addBoth(self._again)

    def stop(self) -> None:
        """No more of it."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._asking is not None:
            self._asking.cancel()

    def describe(self) -> dict[str, Any]:
        """What is known of the name."""
        waits = None if self._call is None else self._call.getTime() - self._reactor.seconds()
        return {
            "name": self.name.text,
            "addresses": [spec.text for spec in self.specs],
            "next": waits,
            "last_success": self._last_success,
            "last_error": self.failure or self._lacks,
        }

    async def _look(self) -> None:
        self._delay = self._dns.negative_ttl
        try:
            learnt = await self.name.look()
        except LookupFailed as error:
            if error.ttl is not None:
                self._delay = error.ttl
            self._not_found(str(error))
        else:
            self._found(learnt)

    def _found(self, learnt: Learnt) -> None:
        if self._stopped:
            return
        if learnt.ttl is not None:
            # What is missing is asked for again as soon as what is not there at all.
            self._delay = min(learnt.ttl, self._delay) if learnt.problem else learnt.ttl
        if learnt.specs != self.specs:
            shown = ",".join(spec.text for spec in learnt.specs[:_MOST_SHOWN])
            more = ",…" if len(learnt.specs) > _MOST_SHOWN else ""
            log.msg(f'discovery dns={self.name.text} ttl={learnt.ttl} addresses="{shown}{more}"')
        if learnt.problem and learnt.problem != self._lacks:
            shown = learnt.problem.replace('"', "'")
            log.msg(f'discovery dns={self.name.text} state=partial reason="{shown}"')
        recovered = bool(self.failure)
        self.failure = ""
        self._lacks = learnt.problem
        self.specs = learnt.specs
        self._last_success = time.time()
        self._answered(recovered)

    def _not_found(self, reason: str) -> None:
        if not self._stopped:
            self.failure = reason or "it failed"
            self._failed()

    def _broken(self, failure: Failure) -> None:
        """A look-up ended by a defect (or by stop): the next one may do better."""
        if not self._stopped:
            log.err(failure, f"discovery of {self.name.text}")
            self._not_found(failure.getErrorMessage())

    def _again(self, _: object) -> None:
        self._asking = None
        if self._stopped:
            return
        dns = self._dns
        delay = min(max(self._delay, dns.min_ttl), dns.max_ttl)
        delay *= 1 - random() * dns.jitter / 100
        self._call = self._reactor.callLater(max(delay, dns.min_ttl), self.look)


def _server(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _call(listener: Any, argument: object) -> None:
    """Tell whoever started the source; what that raises must not end the look-ups."""
    if listener is not None:
        try:
            listener(argument)
        except Exception:
            log.err(None, "discovery: the endpoints could not be taken over")
