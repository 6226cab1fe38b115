"""
Identical requests in flight wait for one of them.

The law it keeps: waiters are bounded in number and in time. They end in one of three ways: the
response is there (:data:`READY`); it will not serve them, and all go on by themselves at once
(:data:`ALONE`), not one behind the other; or whoever went ahead gave up without one, and the
first of the waiters goes ahead in its place (:data:`LEAD`). A waiter that goes away takes nobody
with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

__all__ = ["ALONE", "LEAD", "READY", "Flight", "Flights"]

READY = 1
ALONE = 2
LEAD = 3


class Flight:
    """A request under way that others may wait for."""

    __slots__ = ("key", "timer", "waiters")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.waiters: list[Deferred[int]] = []
        self.timer: Any = None


class Flights:
    """
    What is in flight, by key. ``limit`` waiters for each, for ``wait`` seconds from when the
    first of them came; ``later`` is ``callLater``.

    A key whose response could not be shared is not waited for during ``apart`` seconds of
    ``now``; at most :data:`APART` such keys are remembered.
    """

    APART = 4096

    def __init__(
        self,
        limit: int,
        wait: float,
        apart: float,
        later: Callable[..., Any],
        now: Callable[[], float],
    ) -> None:
        self._limit = limit
        self._wait = wait
        self._apart_for = apart
        self._later = later
        self._now = now
        self._flights: dict[Any, Flight] = {}
        # By the keys' hashes: a URL may be long, and a wrong one costs a wait that is not made.
        self._apart: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(flight.waiters) for flight in self._flights.values())

    def lead(self, key: Any) -> Flight | None:
        """Go ahead for ``key``; None when there is no waiting for it."""
        if not self._limit or key in self._flights or self._kept_apart(key):
            return None
        flight = self._flights[key] = Flight(key)
        return flight

    def join(self, key: Any) -> Deferred[int] | None:
        """Wait for the one that went ahead; None when there is none, or enough wait for it."""
        flight = self._flights.get(key)
        if flight is None or len(flight.waiters) >= self._limit:
            return None
        waiter: Deferred[int] = Deferred(lambda gone: self._left(flight, gone))
        flight.waiters.append(waiter)
        if flight.timer is None:
            flight.timer = self._later(self._wait, self._late, flight)
        return waiter

    def land(self, flight: Flight, outcome: int, apart: bool = False) -> None:
        """It is decided: READY or ALONE. ``apart``: nor will the next be worth waiting for."""
        if self._flights.get(flight.key) is not flight:
            return
        del self._flights[flight.key]
        self._quiet(flight)
        if apart:
            if len(self._apart) >= self.APART:
                self._apart.clear()
            self._apart[hash(flight.key)] = self._now() + self._apart_for
        waiters, flight.waiters = flight.waiters, []
        for waiter in waiters:
            waiter.callback(outcome)

    def give_up(self, flight: Flight) -> None:
        """Whoever went ahead is gone: the next one goes ahead, with the same flight."""
        if self._flights.get(flight.key) is not flight:
            return
        if flight.waiters:
            flight.waiters.pop(0).callback(LEAD)
        else:
            self.land(flight, ALONE)

    def of(self, key: Any) -> Flight | None:
        """The flight that is under way for ``key``."""
        return self._flights.get(key)

    def stop(self) -> None:
        """Let everybody go on."""
        for flight in list(self._flights.values()):
            self.land(flight, ALONE)

    def _kept_apart(self, key: Any) -> bool:
        number = hash(key)
        until = self._apart.get(number)
        if until is None:
            return False
        if until > self._now():
            return True
        del self._apart[number]
        return False

    def _left(self, flight: Flight, waiter: Deferred[int]) -> None:
        """A waiter was cancelled."""
        if waiter in flight.waiters:
            flight.waiters.remove(waiter)
            if not flight.waiters:
                self._quiet(flight)

    def _late(self, flight: Flight) -> None:
        flight.timer = None
        self.land(flight, ALONE)

    def _quiet(self, flight: Flight) -> None:
        timer, flight.timer = flight.timer, None
        if timer is not None:
            timer.cancel()
