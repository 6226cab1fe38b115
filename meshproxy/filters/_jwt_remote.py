"""
A set of keys that a service publishes, kept at hand.

The law it keeps: one request is under way at a time, and all who want its answer wait for that
one; whatever clients send, the service is asked no more than once in ``cooldown``. The last good
set stays until there is another good one. Nothing is left running after ``stop``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from meshproxy.filters._jwt_keys import KeySet, read_jwks
from meshproxy.filters._web_body import TooLong, read_body

__all__ = ["RemoteKeys"]

_LONGEST = 512 << 10
_MOST_WAITING = 1000
_LONGEST_AGE = 86400.0
_EARLY = 0.9
_MAX_AGE = re.compile(rb"(?:^|[\s,])max-age=\"?([0-9]{1,9})")


class _NoKeys(Exception):
    """The service's answer holds no keys; the text says why."""


class RemoteKeys:
    """
    The keys of ``url``; None until they came for the first time.

    ``read`` makes a set of what the service says. ``refresh`` (seconds) is for answers that have
    no max-age, ``cooldown`` the shortest time between two requests. ``said(ok, reason)`` is told
    of every answer.
    """

    def __init__(
        self,
        url: str,
        context: Any,
        *,
        allowed: frozenset[str],
        refresh: float,
        cooldown: float,
        timeout: float,
        said: Callable[[bool, str], Any],
    ) -> None:
        self._url = url
        self._context = context
        self._allowed = allowed
        self._refresh = refresh
        self._cooldown = cooldown
        self._timeout = timeout
        self._said = said
        self.keys: KeySet | None = None
        self._content = b""
        self._http: Any = None
        self._asking = False
        self._fetching: Deferred[None] | None = None
        self._again: Any = None
        self._begun = float("-inf")
        self._waiting: dict[Deferred[None], None] = {}
        self._over = False

    def start(self) -> None:
        """Ask for the first time."""
        self._http = self._context.http
        self._fetch()

    def stop(self) -> None:
        """End for good."""
        self._over = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._fetching is not None:
            self._fetching.cancel()

    def news(self) -> Deferred[None] | None:
        """
        A Deferred that fires when the service has answered, or failed to; it may be cancelled.

        None: it was asked just now, so there is nothing to wait for.
        """
        if not self._asking:
            if self._over or self._context.now() - self._begun < self._cooldown:
                return None
            self._fetch()
        if len(self._waiting) >= _MOST_WAITING:
            return None
        waiter: Deferred[None] = Deferred(self._forget)
        if self._asking:
            self._waiting[waiter] = None
        else:  # it has answered already
            waiter.callback(None)
        return waiter

    def _forget(self, waiter: Deferred[None]) -> None:
        self._waiting.pop(waiter, None)

    def _fetch(self) -> None:
        if self._again is not None:
            if self._again.active():
                self._again.cancel()
            self._again = None
        self._begun = self._context.now()
        self._asking = True
        asked = Deferred.fromCoroutine(self._ask())
        asked.addTimeout(self._timeout, self._context.reactor)
        fetching = asked.addCallbacks(self._good, self._bad).addCallback(self._done)
        if self._asking:
            self._fetching = fetching

    async def _ask(self) -> float | None:
        """Ask once; returns how long the answer holds, if it says so."""
        response = await self._http.get(
            self._url,
            headers={"accept": "application/jwk-set+json, application/json"},
            allow_redirects=False,
            unbuffered=True,
            reactor=self._context.reactor,
        )
        content = await read_body(response, _LONGEST)
        if response.code != 200:
            raise _NoKeys(f"status {response.code}")
        if self.keys is None or content != self._content:
            try:
                self.keys = KeySet(read_jwks(content, strict=False), self._allowed)
            except ValueError as error:
                raise _NoKeys(str(error)) from None
            self._content = content
        for value in response.headers.getRawHeaders(b"cache-control") or ():
            found = _MAX_AGE.search(value.lower())
            if found is not None:
                return float(found[1])
        return None

    def _good(self, age: float | None) -> float:
        self._said(True, "")
        holds = self._refresh if age is None else min(age, _LONGEST_AGE)
        return max(holds * _EARLY, self._cooldown)

    def _bad(self, failure: Failure) -> float:
        if not (self._over and failure.check(CancelledError)):
            self._said(False, _words(failure))
        return self._cooldown

    def _done(self, delay: float) -> None:
        self._asking = False
        self._fetching = None
        waiting, self._waiting = self._waiting, {}
        if not self._over:
            self._again = self._context.reactor.callLater(delay, self._fetch)
        for waiter in waiting:
            waiter.callback(None)


def _words(failure: Failure) -> str:
    """What went wrong, in one line."""
    if failure.check(_NoKeys, TooLong):
        return str(failure.value)
    reasons = getattr(failure.value, "reasons", None)
    inner = reasons[-1] if reasons else failure
    text = " ".join(inner.getErrorMessage().split())[:200]
    return text or type(inner.value).__name__
