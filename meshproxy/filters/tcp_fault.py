"""
The filter ``fault`` of connections: delays, refusals, resets and slowness on purpose.

The law it keeps: what happens to a connection is drawn once, when it begins, in the order delay,
refuse, reset, slow, and each draw is on its own; whoever is spared loses nothing. Bytes come
through the process only where a reset after bytes or slowness is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from twisted.internet.defer import Deferred
from zope.interface import alsoProvides, implementer

from meshproxy import api
from meshproxy.api import Field, PositiveDuration, Refuse, Size, Unfit
from meshproxy.filters._networks import Network, Networks
from meshproxy.filters._pace import Bucket
from meshproxy.interfaces import IBytesFilter, IConnectionFilter, IContextFilter, IFilterContext

__all__ = ["Fault"]

_Percentage = Annotated[float, Field(ge=0, le=100)]
_PERCENTAGE = "How many of the connections it is done to, in percent."
_SLOWEST = 1024


class Delay(api.Options):
    """Connections wait before an upstream is asked for."""

    fixed: PositiveDuration = Field(
        description="For this long; the listener's `idle_timeout` ends longer delays."
    )
    percentage: _Percentage = Field(default=100.0, description=_PERCENTAGE)


class Refusal(api.Options):
    """Connections are closed at once."""

    percentage: _Percentage = Field(default=100.0, description=_PERCENTAGE)


class Reset(api.Options):
    """Connections are reset."""

    after: Size = Field(
        default=0, description="After so many bytes, of both directions together; 0: at once."
    )
    percentage: _Percentage = Field(default=100.0, description=_PERCENTAGE)


class Slow(api.Options):
    """Bytes are slowed down."""

    rate: Annotated[Size, Field(ge=_SLOWEST)] = Field(
        description="Bytes a second of each direction, 1 KiB at least."
    )
    percentage: _Percentage = Field(default=100.0, description=_PERCENTAGE)


class _Doomed:
    """What is still to happen to a connection."""

    __slots__ = ("buckets", "left")

    def __init__(self, left: int | None, rate: int | None) -> None:
        self.left = left
        # A tenth of a second at once, so that slowness shows on little bytes too.
        burst = 0 if rate is None else max(1, rate // 10)
        self.buckets = None if rate is None else (Bucket(rate, burst), Bucket(rate, burst))


@implementer(IConnectionFilter, IContextFilter)
class Fault:
    """
    Delay, refuse, reset or slow down connections, some or all of them.

    ``source`` is where chance comes from: a function that returns numbers from 0 up to 1.
    """

    class Options(api.Options):
        """What goes wrong, and how often."""

        delay: Delay | None = Field(default=None, description="Connections wait first.")
        refuse: Refusal | None = Field(default=None, description="Connections are closed at once.")
        reset: Reset | None = Field(default=None, description="Connections are reset.")
        slow: Slow | None = Field(default=None, description="Bytes are slowed down.")
        clients: list[Network] = Field(
            default=[], description="Only these clients suffer: addresses and networks."
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield a fault that is none."""
            yield from super().faults(given)
            if not any(key in given for key in ("delay", "refuse", "reset", "slow")):
                yield Unfit("give 'delay', 'refuse', 'reset' or 'slow'")

    def __init__(self, options: Options, source: Callable[[], float] = random.random) -> None:
        self._delay, self._refuse = options.delay, options.refuse
        self._reset, self._slow = options.reset, options.slow
        self._clients = Networks(options.clients).contains if options.clients else None
        self._source = source
        if options.slow is not None or (options.reset is not None and options.reset.after):
            alsoProvides(self, IBytesFilter)

    def attach(self, context: IFilterContext) -> None:
        """Ask for a clock and the numbers."""
        self._now = context.now
        self._sleep = context.sleep
        text = "Faults made, by kind"
        self._delayed = context.counter("made", text, fault="delay")
        self._refused = context.counter("made", text, fault="refuse")
        self._resets = context.counter("made", text, fault="reset")
        self._slowed = context.counter("made", text, fault="slow")

    def _drawn(self, fault: Any) -> bool:
        """Whether the lot falls on this connection; drawn only where the fault is asked for."""
        if fault is None:
            return False
        return self._source() * 100.0 < float(fault.percentage)

    def connected(self, connection: Any) -> Any:
        """Draw."""
        if self._clients is not None and not self._clients(connection.client_ip):
            return None
        delayed = self._drawn(self._delay)
        refused = self._drawn(self._refuse)
        reset = self._drawn(self._reset)
        slow = self._drawn(self._slow)
        answer = None
        if refused:
            self._refused.inc()
            answer = Refuse(details=b"fault_refuse", flags=b"FI")
        elif reset and self._reset is not None and not self._reset.after:
            answer = self._resetting()
        elif reset or slow:
            left = self._reset.after if reset and self._reset is not None else None
            rate = self._slow.rate if slow and self._slow is not None else None
            connection.notes[self] = _Doomed(left, rate)
            if slow:
                self._slowed.inc()
        if delayed and self._delay is not None:
            self._delayed.inc()
            waiting: Deferred[Any] = self._sleep(self._delay.fixed)
            return waiting.addCallback(lambda _: answer)
        return answer

    def received(self, connection: Any, data: bytes, end: bool) -> Any:
        """From the client."""
        return self._pass(connection, data, 0)

    def sent(self, connection: Any, data: bytes, end: bool) -> Any:
        """For the client."""
        return self._pass(connection, data, 1)

    def _pass(self, connection: Any, data: bytes, way: int) -> Any:
        doomed: _Doomed | None = connection.notes.get(self)
        if doomed is None or not data:
            return None
        if doomed.left is not None:
            doomed.left -= len(data)
            if doomed.left <= 0:
                doomed.left = None
                return self._resetting()
        if doomed.buckets is not None:
            wait = doomed.buckets[way].reserve(len(data), self._now())
            if wait > 0.0:
                return self._sleep(wait)
        return None

    def _resetting(self) -> Refuse:
        self._resets.inc()
        return Refuse(reset=True, details=b"fault_reset", flags=b"FI")
