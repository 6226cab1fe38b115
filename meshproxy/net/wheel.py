"""
A coarse timer wheel: thousands of deadlines for the price of attributes.

The law it keeps:

- An entry is armed with a deadline in seconds of the clock. Moving the deadline *later* is
  one attribute assignment; the wheel finds out when the entry's slot comes up, and puts it
  where it belongs then. Moving it *earlier* moves the entry.
- ``entry.expired(now)`` is called when ``now >= entry.deadline``, never early and (by a punctual
  clock) at most one resolution late: sweeps come at the slots' boundaries. What it returns is
  the entry's next deadline, or 0.0 when it has none; the entry leaves the wheel then, until it
  is armed again.
- An exception from ``expired`` is logged and costs that entry its place, nothing else.
- The clock is asked for a call only while there are entries, so an idle wheel is free and
  leaves a trial reactor clean.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.python import log


class Entry(Protocol):
    """What the wheel keeps. ``deadline`` and ``slot`` belong to the wheel; start both at 0."""

    deadline: float
    slot: int

    def expired(self, now: float, /) -> float:
        """The deadline has passed. Return the next one in seconds, or 0.0."""


class TimerWheel:
    """
    Deadlines of the entries, swept every ``resolution`` seconds.

    ``clock`` provides ``IReactorTime`` (a reactor, or ``task.Clock`` in tests).
    """

    def __init__(self, clock: Any, resolution: float = 0.05) -> None:
        self.resolution = resolution
        self._clock = clock
        self._slots: dict[int, set[Entry]] = {}
        self._swept = 0
        self._call: Any = None
        self._stopped = False
        #: The clock's seconds, as a bound method: hot paths call it directly.
        self.now = clock.seconds

    def arm(self, entry: Entry, deadline: float) -> None:
        """Call ``entry.expired`` at ``deadline`` (seconds of the clock, as ``now()``)."""
        entry.deadline = deadline
        # Rounded up, so that the sweep of the slot never comes before the deadline.
        slot = int(deadline / self.resolution) + 1
        held = entry.slot
        if held:
            if slot >= held:
                return
            self._drop(entry, held)
        self._put(entry, slot)

    def disarm(self, entry: Entry) -> None:
        """Take the entry out; it holds no reference afterwards. Not armed: nothing happens."""
        if entry.slot:
            self._drop(entry, entry.slot)
            entry.slot = 0
        entry.deadline = 0.0

    def stop(self) -> None:
        """Forget all entries and cancel the pending call, for good."""
        self._stopped = True
        for entries in self._slots.values():
            for entry in entries:
                entry.slot = 0
        self._slots.clear()
        if self._call is not None:
            if self._call.active():
                self._call.cancel()
            self._call = None

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def _put(self, entry: Entry, slot: int) -> None:
        if self._stopped:
            return
        if self._call is None:
            self._swept = int(self._clock.seconds() / self.resolution)
            self._sweep_next()
        if slot <= self._swept:
            slot = self._swept + 1
        entry.slot = slot
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = {entry}
        else:
            entries.add(entry)

    def _sweep_next(self) -> None:
        """Sweep at the end of the slot after the swept ones."""
        # A thousandth behind the boundary: rounding must not put the sweep before it.
        delay = (self._swept + 1.001) * self.resolution - self._clock.seconds()
        self._call = self._clock.callLater(max(delay, 0.0), self._tick)

    def _drop(self, entry: Entry, slot: int) -> None:
        entries = self._slots.get(slot)
        if entries is not None:
            entries.discard(entry)
            if not entries:
                del self._slots[slot]

    def _tick(self) -> None:
        # self._call stays what it is: _put must not move self._swept past slots not swept yet.
        now = self._clock.seconds()
        upto = int(now / self.resolution)
        slots = self._slots
        # After a long stall it is cheaper to look at what exists than to count every tick.
        if upto - self._swept > len(slots):
            due = sorted(slot for slot in slots if slot <= upto)
        else:
            due = [slot for slot in range(self._swept + 1, upto + 1) if slot in slots]
        self._swept = upto
        for slot in due:
            entries = slots.pop(slot, None)
            while entries and not self._stopped:
                entry = entries.pop()
                if entry.slot != slot:
                    continue  # disarmed, or put elsewhere, by another entry's expired()
                entry.slot = 0
                deadline = entry.deadline
                if deadline <= now:
                    try:
                        deadline = entry.expired(now)
                    except Exception:
                        log.err()
                        continue
                    # expired() may have armed the entry itself.
                    if entry.slot or not deadline:
                        continue
                    entry.deadline = deadline
                self._put(entry, int(deadline / self.resolution) + 1)
        self._call = None
        if slots:
            self._sweep_next()
