"""
A try beside a slow one: whichever answers well first is passed on.

The law it keeps: until it wins, nothing of it reaches the client; when it wins, the slow try is
given up and the rest of the response passes through the exchange as if it had been its own. The
last of several that are under way passes on what it gets, good or bad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.http.copy import Copy

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.headers import Headers
    from meshproxy.http.replies import Reply
    from meshproxy.http.retry import RetryPolicy
    from meshproxy.upstream.endpoint import Endpoint


class Hedge(Copy):
    """A copy for ``endpoint``, of an exchange whose first try still lasts."""

    __slots__ = ("_exchange", "_policy", "_won")

    def __init__(self, exchange: Exchange, policy: RetryPolicy, endpoint: Endpoint) -> None:
        body = exchange.replay
        super().__init__(
            exchange, exchange.group, endpoint, b"".join(body) if body is not None else b""
        )
        self._exchange = exchange
        self._policy = policy
        self._won = False

    def response_head(
        self, status: int, headers: Headers, length: int, data: bytes, end: bool
    ) -> None:
        """A response's head: the winner's, unless it is one to retry and there are others."""
        exchange = self._exchange
        retrying = exchange.retrying
        assert retrying is not None
        retrying.hedges.remove(self)
        if self._policy.bad(status, headers) and (retrying.hedges or exchange.trying):
            super().response_head(status, headers, length, data, end)
            if not end:
                self.give_up()
            return
        self._won = True
        upstream, self.upstream_stream = self.upstream_stream, None
        self._pool = None
        self._leave()
        exchange.adopt(self, upstream)
        exchange.response_head(status, headers, length, data, end)

    def response_data(self, data: bytes) -> None:
        """More of it."""
        if self._won:
            self._exchange.response_data(data)

    def response_finished(self, data: bytes, trailers: Headers | None) -> None:
        """The last of it."""
        if self._won:
            self._exchange.upstream_stream = None
            self._exchange.response_finished(data, trailers)
        else:
            self._ended()

    def upstream_lost(self, reply: Reply, unacknowledged: bool) -> None:
        """The connection ended before the response."""
        if self._won:
            self._exchange.upstream_lost(reply, unacknowledged)
        else:
            super().upstream_lost(reply, unacknowledged)

    def _failed(self, reply: Reply) -> None:
        retrying = self._exchange.retrying
        if retrying is not None and self in retrying.hedges:
            retrying.failed(self, reply)
