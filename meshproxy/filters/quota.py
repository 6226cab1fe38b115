"""
The filter ``quota``: so much in an hour, day, week or month of the calendar, kept on disk.

The law it keeps:

- Nobody gets more than the allowance in a period, by a restart, a reload or a crowd of other keys
  either; but for what is under way, and for what a process that is killed had not written yet,
  the counts of one ``flush`` interval at most.
- No request waits for the disk. Counts are added up here and handed to a thread. A file that is
  locked or a disk that is full costs nothing but that: they wait for the next try, at most those
  of two periods.
- What several processes write to one file adds up; each knows of the others' parts, for the keys
  that it counts itself, one interval later.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import lru_cache
from heapq import nlargest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from meshproxy.api import Response
from meshproxy.filters._calendar import period_of, zone_of
from meshproxy.filters._keys import LONGEST, compile_key, hashed
from meshproxy.filters._limit_fields import Policy, limit_fields, retry_after
from meshproxy.filters._match import compile_applies
from meshproxy.filters._quota_ledger import PASSING, Batch, Counts, Ledger, Period
from meshproxy.filters._quota_options import QuotaOptions
from meshproxy.interfaces import (
    IContextFilter,
    IExchangeObserver,
    IFilterService,
    IRequestFilter,
    IResponseFilter,
)

__all__ = ["OTHERS", "Quota"]

OTHERS = b"\0" * (LONGEST + 1)
"""The key of all that find no place. It is longer than any client's."""

#: Periods whose counts wait for a disk.
_WAITING = 2


@implementer(IRequestFilter, IContextFilter, IFilterService)
class Quota:
    """A user's allowance per day or month, kept on disk."""

    Options = QuotaOptions

    def __init__(self, options: QuotaOptions) -> None:
        self._options = options
        self._applies = compile_applies(options.match)
        self._key = compile_key(options.by, options.missing)
        self._refuse_keyless = options.missing == "refuse"
        # Hashing costs a microsecond; a client comes more than once.
        self._kept: Callable[[bytes], bytes] = lru_cache(4096)(hashed)
        if options.show_keys:
            self._kept = _as_it_is
        allowance = options.requests if options.requests is not None else options.bytes
        assert allowance is not None
        self._allowance = allowance
        self._allowances = {
            self._kept(_short(name.encode())): allowed
            for name, allowed in options.allowances.items()
        }
        self._of_bytes = options.bytes is not None
        self._unit = "content-bytes" if self._of_bytes else ""
        self._zone = zone_of(options.zone)
        self._most = options.keys
        self._body = options.body.encode()
        self._tell = options.on_allowed and options.headers != "off"
        # The present period. A clock that is set back does not bring the one before it back.
        self._period: Period = (0, 0)
        self._from = self._end = 0
        self._used: dict[bytes, int] = {}
        self._policies: dict[int, Policy] = {}
        # What is to be written; what is being written; when it is next.
        self._ledger: Ledger | None = None
        self._pending: Counts = {}
        self._batch: Batch | None = None
        self._timer: Any = None
        self._prune = True
        self._silent = False
        self._open = False
        if self._of_bytes:
            alsoProvides(self, IExchangeObserver)
        if self._tell:
            alsoProvides(self, IResponseFilter)

    def attach(self, context: Any) -> None:
        """See :class:`meshproxy.interfaces.IContextFilter`."""
        self._context = context
        self._time = context.time
        options = self._options
        self._policy_name = options.name or "quota"
        if options.file is not None:
            unit = "bytes" if self._of_bytes else "requests"
            place = options.name or f"{context.listener}/{context.name}"
            self._ledger = Ledger(context.path(options.file), f"{place} {unit} {options.per}")
        self._refused = context.counter("refused", "Requests over the allowance")
        self._crowded = context.counter("crowded", "Requests for which no key could be kept")
        self._errors = context.counter("file_errors", "Tries to write the file that failed")
        self._lost = context.counter("lost", "Counts given up since they could not be written")
        context.show(self._describe)

    # The file.

    def start(self) -> None:
        """Read what was counted. Raises what SQLite says of a file that can never be used."""
        self._open = True
        self._turn(self._time())
        if self._ledger is None:
            return
        try:
            # One more than there are places: that of those who have none.
            self._used = self._ledger.load(self._period, self._most + 1)
            self._ledger.prune(self._time())
            self._prune = False
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) not in PASSING:
                self._ledger.close()
                raise ValueError(
                    f"the file '{self._options.file}' cannot be used: {error}"
                ) from error
            self._failed(Failure())

    def stop(self) -> None:
        """Write what is left, and close."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ledger = self._ledger
        if ledger is None:
            return
        batch, self._batch = self._batch, None
        if batch is not None and ledger.withdraw(batch):
            self._take_back(batch)
        try:
            if self._pending:
                ledger.add(Batch(self._pending))
                self._pending = {}
        except (sqlite3.Error, OSError):
            self._failed(Failure())
            self._lost.inc(sum(sum(counts.values()) for counts in self._pending.values()))
        ledger.close()

    def in_thread(self, call: Callable[..., Any], *given: Any) -> Deferred[Any]:
        """Call it where it may block."""
        reactor = self._context.reactor
        return deferToThreadPool(reactor, reactor.getThreadPool(), call, *given)

    def _write(self) -> None:
        self._timer = None
        assert self._ledger is not None
        batch = self._batch = Batch(self._pending)
        self._pending = {}
        before = self._time() if self._prune else None
        self._prune = False
        self.in_thread(_add, self._ledger, batch, before).addCallbacks(
            self._written, self._not_written
        )

    def _written(self, totals: Counts) -> None:
        self._batch = None
        if not self._open:
            return
        self._silent = False
        pending = self._pending.get(self._period, {})
        used = self._used
        for key, total in totals.get(self._period, {}).items():
            used[key] = total + pending.get(key, 0)
        self._arm()

    def _not_written(self, failure: Failure) -> None:
        batch, self._batch = self._batch, None
        if batch is None:  # `stop` has seen to it
            return
        if not batch.settled:
            self._take_back(batch)
            self._prune = True
        self._failed(failure)
        self._arm()

    def _take_back(self, batch: Batch) -> None:
        """What could not be written waits with what came meanwhile; the oldest is given up."""
        for period, counts in batch.counts.items():
            held = self._pending.setdefault(period, {})
            for key, number in counts.items():
                held[key] = held.get(key, 0) + number
        for period in sorted(self._pending)[:-_WAITING]:
            self._lost.inc(sum(self._pending.pop(period).values()))

    def _failed(self, failure: Failure) -> None:
        self._errors.inc()
        if not self._silent:
            self._silent = True
            self._context.log(
                f"the counts cannot be written to the file, they are kept in memory until they "
                f"can: {failure.getErrorMessage()}"
            )

    def _arm(self) -> None:
        if self._open and self._timer is None and self._batch is None and self._pending:
            self._timer = self._context.reactor.callLater(self._options.flush, self._write)

    # Requests.

    def request(self, exchange: Any) -> Response | None:
        """See :class:`meshproxy.interfaces.IRequestFilter`."""
        applies = self._applies
        if applies is not None and not applies(exchange):
            return None
        key = self._key(exchange)
        if key is None:
            if not self._refuse_keyless:
                return None
            self._refused.inc()
            return Response(400, b"quota_key_missing", details=b"quota_key_missing")
        now = self._time()
        if not self._from <= now < self._end:
            self._turn(now)
        key = self._kept(key)
        allowance = self._allowances.get(key, self._allowance)
        used = self._used.get(key)
        if used is None:
            used = 0
            if len(self._used) >= self._most and key not in self._allowances:
                self._crowded.inc()
                if self._options.full == "refuse":
                    return self._over(allowance, allowance, now)
                key = OTHERS
                used = self._used.get(OTHERS, 0)
        if used >= allowance:
            return self._over(allowance, used, now)
        if self._of_bytes:
            exchange.notes[self] = key, allowance
        else:
            self._count(key, used, 1)
            if self._tell:
                exchange.notes[self] = key, allowance
        return None

    def response(self, exchange: Any) -> None:
        """See :class:`meshproxy.interfaces.IResponseFilter`; provided with ``on_allowed``."""
        note = exchange.notes.get(self)
        if note is not None:
            headers = exchange.response.headers
            for name, value in self._fields(note[1], self._used.get(note[0], 0), self._time()):
                if name.startswith(b"x-"):
                    headers.set(name, value)
                else:  # a list, to which an upstream's belong too
                    headers.add(name, value)

    def finished(self, exchange: Any) -> None:
        """See :class:`meshproxy.interfaces.IExchangeObserver`; provided where bytes count."""
        note = exchange.notes.get(self)
        if note is None or not exchange.bytes_sent:
            return
        now = self._time()
        if not self._from <= now < self._end:
            self._turn(now)
        key = note[0]
        if key not in self._used and len(self._used) >= self._most and key not in self._allowances:
            key = OTHERS
        self._count(key, self._used.get(key, 0), exchange.bytes_sent)

    def _count(self, key: bytes, used: int, number: int) -> None:
        self._used[key] = used + number
        if self._ledger is not None:
            pending = self._pending.get(self._period)
            if pending is None:
                pending = self._pending[self._period] = {}
                self._arm()
            pending[key] = pending.get(key, 0) + number

    def _turn(self, now: float) -> None:
        """Another period has begun."""
        start, self._end = self._period = period_of(now, self._options.per, self._zone)
        self._from = start - (self._end - start)
        self._used = {}
        self._policies = {}
        self._prune = True

    def _over(self, allowance: int, used: int, now: float) -> Response:
        self._refused.inc()
        return Response(
            self._options.status,
            self._body,
            [*retry_after(self._end - now), *self._fields(allowance, used, now)],
            details=b"quota_exceeded",
        )

    def _fields(self, allowance: int, used: int, now: float) -> list[tuple[bytes, bytes]]:
        """What a client is told."""
        policy = self._policies.get(allowance)
        if policy is None:
            window = self._end - self._period[0]
            policy = Policy(self._policy_name, allowance, window, self._unit)
            self._policies[allowance] = policy
        left = self._end - now
        return limit_fields(self._options.headers, ((policy, allowance - used, left, left),))

    def _describe(self) -> dict[str, Any]:
        """For the admin: who used most."""
        return {
            "unit": "bytes" if self._of_bytes else "requests",
            "allowance": self._allowance,
            "period": {"start": self._period[0], "end": self._end},
            "keys": len(self._used),
            "refused": self._refused.value,
            "file_errors": self._errors.value,
            "top": [
                {
                    "key": self._shown(key),
                    "used": used,
                    "allowance": self._allowances.get(key, self._allowance),
                }
                for key, used in nlargest(
                    self._options.top, self._used.items(), key=lambda item: item[1]
                )
            ],
        }

    def _shown(self, key: bytes) -> str:
        """A key as the admin may show it: part of its hash unless it was allowed."""
        if key == OTHERS:
            return "(others)"
        return key.decode(errors="replace") if self._options.show_keys else key.hex()[:12]


def _short(key: bytes) -> bytes:
    return key if len(key) < LONGEST else hashed(key)


def _as_it_is(key: bytes) -> bytes:
    return key


def _add(ledger: Ledger, batch: Batch, now: float | None) -> Counts:
    """In a thread. Nothing comes after the batch was written that could fail."""
    if now is not None:
        ledger.prune(now)
    return ledger.add(batch)
