"""
A copy of a request, sent beside its exchange.

The law it keeps: to the pool and to the codec of the upstream a copy is what an exchange is; it
has the whole request, is in flight at one endpoint for as long as it holds it, is judged once,
and nothing of its response reaches the client unless a subclass says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.http import replies
from meshproxy.http.headers import Headers
from meshproxy.http.outcome import IDEMPOTENT

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.pool import Pool
    from meshproxy.http.replies import Reply
    from meshproxy.http.stream import Upstream
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group


class Copy:
    """The request of ``exchange``, whose ``body`` is complete, for ``endpoint`` of ``group``."""

    __slots__ = (
        "_body",
        "_holding",
        "_pool",
        "client",
        "connected_at",
        "early",
        "endpoint",
        "group",
        "listener",
        "local",
        "method",
        "request_headers",
        "request_length",
        "status",
        "stream",
        "trailers",
        "upstream_authority",
        "upstream_local",
        "upstream_path",
        "upstream_start",
        "upstream_stream",
    )

    whole = request_complete = True
    upgrade = b""

    def __init__(self, exchange: Exchange, group: Group, endpoint: Endpoint, body: bytes) -> None:
        self.listener = exchange.listener
        self.stream = exchange.stream
        self.client = exchange.client
        self.local = exchange.local
        self.method = exchange.method
        self.request_headers = Headers(exchange.request_headers.fields)
        self.request_length = exchange.request_length
        self.trailers = exchange.trailers
        self.upstream_path = exchange.upstream_path
        self.upstream_authority = exchange.upstream_authority
        self.group = group
        self.endpoint = endpoint
        self.early: list[bytes] | None = [body] if body else None
        self.upstream_start = self.listener.now()
        self.connected_at = 0.0
        self.upstream_local = b""
        self.upstream_stream: Upstream | None = None
        #: That of its response, 0 without one.
        self.status = 0
        self._body = body
        self._pool: Pool | None = None
        self._holding = False

    def begin(self) -> None:
        """Ask the endpoint's pool for a connection."""
        endpoint = self.endpoint
        self._holding = True
        endpoint.active += 1
        self.group.limits.requests += 1
        self._pool = pool = endpoint.pool
        pool.request(self)

    def give_up(self) -> None:
        """Nobody wants the response any more."""
        upstream, self.upstream_stream = self.upstream_stream, None
        pool, self._pool = self._pool, None
        if upstream is not None:
            upstream.cancel()
        elif pool is not None:
            pool.withdraw(self)  # type: ignore[arg-type]
        self._leave()

    def _leave(self) -> None:
        if self._holding:
            self._holding = False
            self.endpoint.active -= 1
            self.group.limits.requests -= 1

    def judge(self, good: bool, local: bool) -> None:
        """The endpoint's verdict, as :meth:`meshproxy.http.exchange.Exchange.judge` has it."""
        endpoint = self.endpoint
        breaker = self.group.cluster.breaker
        if good:
            endpoint.answered += 1
            if endpoint.failures:
                breaker.succeeded(endpoint)  # type: ignore[union-attr]
        elif not local or self.status < 500:
            endpoint.failed += 1
            if breaker is not None:
                breaker.failed(endpoint, local)

    # What the pool and the codec call.

    def connected(self, upstream: Upstream) -> None:
        """See :meth:`meshproxy.http.exchange.Exchange.connected`."""
        self.upstream_stream = upstream
        self.upstream_local = upstream.local

    def body_now(self) -> bytes:
        """The whole body."""
        self.early = None
        return self._body

    def pool_failed(self, reply: Reply) -> None:
        """No connection was had."""
        self._pool = None
        self._leave()
        self._failed(reply)

    def inform(self, status: int, headers: Headers) -> None:
        """An interim response is dropped."""

    def response_head(
        self, status: int, headers: Headers, length: int, data: bytes, end: bool
    ) -> None:
        """A response's head."""
        self.status = status
        if status >= 500:
            self.judge(False, False)
        if end:
            self._ended()

    def response_data(self, data: bytes) -> None:
        """More of it."""

    def response_finished(self, data: bytes, trailers: Headers | None) -> None:
        """The last of it."""
        self._ended()

    def upstream_lost(self, reply: Reply, unacknowledged: bool) -> None:
        """The connection ended before the response was complete."""
        upstream, self.upstream_stream = self.upstream_stream, None
        if (
            reply is replies.TERMINATED
            and not self.status
            and upstream is not None
            and upstream.reused
            and (unacknowledged or self.method in IDEMPOTENT)
        ):
            # It had been idle: that says nothing of the endpoint. (See Exchange.upstream_lost.)
            self.early = [self._body] if self._body else None
            self._pool.request_fresh(self)  # type: ignore[union-attr, arg-type]
            return
        self._pool = None
        self._leave()
        self.judge(False, True)
        self._failed(reply)

    def switched(self, status: int, headers: Headers) -> None:
        """Never asked for; the codec refuses it."""

    def upstream_tunnel_data(self, data: bytes) -> None:
        """Never comes: see :meth:`switched`."""

    def upstream_paused(self) -> None:
        """All of the request was handed over already."""

    def upstream_resumed(self) -> None:
        """See :meth:`upstream_paused`."""

    # What a subclass does.

    def _ended(self) -> None:
        """The response is complete; the codec let go of the copy before its last call."""
        if self.status < 500:
            self.judge(True, False)
        self.upstream_stream = None
        self._pool = None
        self._leave()

    def _failed(self, reply: Reply) -> None:
        """There will be no response."""
