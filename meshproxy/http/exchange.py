"""
An exchange: one request, its response, and what happens between them.

The law it keeps:

- It knows streams, not connections or codecs (:mod:`meshproxy.http.stream`).
- The client gets exactly one response head, and no byte of a body twice. A request is sent a
  second time only while the client has got nothing, and if the whole of it can be repeated: by
  itself when the connection had been idle before (so that the upstream may have closed it
  meanwhile) and either the method is idempotent or the kernel says that no byte of it was
  acknowledged; otherwise as the route's retry policy says (:mod:`meshproxy.http.retry`).
- Every try that reached an endpoint is judged once, for the cluster's circuit breaker.
- ``finished`` is reached exactly once, however the exchange ends: it counts and logs.
- No side runs ahead of the other by more than the socket buffers and one read: a slow reader
  pauses the other side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.http import replies
from meshproxy.http.headers import Headers
from meshproxy.http.outcome import (
    FILTERED,
    IDEMPOTENT,
    OVER,
    RESPONDING,
    ROUTING,
    SENT,
    TUNNEL,
    WAITING,
)
from meshproxy.http.views import Viewed

if TYPE_CHECKING:
    from meshproxy.http.hedge import Hedge
    from meshproxy.http.replies import Reply
    from meshproxy.http.router import Route
    from meshproxy.http.stream import Upstream
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group


class Exchange(Viewed):
    """One request, as :class:`meshproxy.http.outcome.Outcome` knows it, on its way."""

    __slots__ = ()

    # From the downstream codec.

    def begin(self, data: bytes, end: bool) -> None:
        """
        The request's head is here, with the first of its body.

        ``end``: the request is complete. The stream must be ready for ``respond`` by now.
        """
        listener = self.listener
        if listener.trusted_hops:
            listener.identify(self)
        if end:
            self.request_complete = True
            self.request_end = self.start
        route = listener.match(self)
        if route is not None:
            self.route = route
            listener.values[route.active] += 1
            chain = route.chain
        else:
            chain = listener.chain_without_route(self)
        if chain is not None:
            self.chain = chain
            if chain.begin(self, data, end):
                return
        self.proceed(data, end)

    def proceed(self, data: bytes, end: bool) -> None:
        """The request has passed the filters, and the first of its body: do what its route says."""
        self.whole = end
        listener = self.listener
        route = self.route
        if route is None:
            self.bytes_received = len(data)
            self.reply(replies.NO_ROUTE)
            return
        if self.upgrade and self.upgrade not in route.upgrades:
            self.reply(replies.UNKNOWN_UPGRADE)
            return
        if route.act is not None:
            self.bytes_received = len(data)
            route.act(self)
            return
        limit = listener.max_body
        if limit is not None and self.request_length > limit:
            self.reply(replies.TOO_LARGE)
            return
        pick = route.pick_group
        group: Group = route.group if pick is None else pick()  # type: ignore[assignment]
        self.group = group
        self.cluster = group.cluster
        listener.forward(self)
        if route.prepare is not None:
            route.prepare(self)
        if route.stream_idle is not None:
            self.stream_idle = route.stream_idle
        limits = group.limits
        if limits.requests >= limits.max_requests:
            listener.values[group.cluster.stats.overflow_requests] += 1
            self.reply(replies.OVERFLOW)
            return
        choose = route.choose
        endpoint = group.pick() if choose is None else choose(self)
        if endpoint is None:
            self.no_endpoint()
            return
        self.state = WAITING
        if data or not end:
            self.early = []
            if data:
                self._keep(data)
            if self.state != WAITING:  # over the limit already
                return
            if not end:
                if self.expect_continue and not data:
                    self.expect_continue = False
                    self.stream.inform(100, Headers())
                self.upstream_paused()  # it is not there yet
        if end:
            self._time(route, self.request_end)
            if route.mirror is not None:
                route.mirror.copy(self, data)
        self.upstream_start = self.start if self.filtering is None else listener.now()
        self.send_to(endpoint)

    def _time(self, route: Route, now: float) -> None:
        """The request is complete: its time, and that of its present try, begins."""
        timeout = route.timeout
        if timeout:
            self.limit = self.deadline = now + timeout
        timeout = route.per_try
        if timeout and (not self.deadline or now + timeout < self.deadline):
            self.deadline = now + timeout

    def no_endpoint(self) -> None:
        """Nobody can take the request: all have enough, or none is well."""
        group = self.group
        stats = group.cluster.stats
        if group.full():
            self.listener.values[stats.overflow_endpoints] += 1
            self.reply(replies.OVERFLOW)
        else:
            self.listener.values[stats.no_endpoint] += 1
            self.reply(replies.NO_ENDPOINT)

    def _keep(self, data: bytes) -> None:
        """Body that nobody can take yet."""
        self.bytes_received += len(data)
        limit = self.listener.max_body
        if limit is not None and self.bytes_received > limit:
            self.reply(replies.TOO_LARGE)
            return
        self.early.append(data)  # type: ignore[union-attr]

    def request_data(self, data: bytes) -> None:
        """More of the request's body."""
        if self.filtering is None or self.filtering.inflow is None:
            self.take_data(data)
        else:
            self.filtering.inflow.push(data, False)

    def take_data(self, data: bytes) -> None:
        """More of the request's body, for the upstream."""
        state = self.state
        if state == WAITING:
            self._keep(data)
        elif self.upstream_stream is not None and state != TUNNEL:
            self.bytes_received += len(data)
            limit = self.listener.max_body
            if limit is not None and self.bytes_received > limit:
                self._too_large()
                return
            replay = self.replay
            if replay is not None:
                if self.bytes_received <= self.route.keep:  # type: ignore[union-attr]
                    replay.append(data)
                else:
                    self.replay = None
            self.upstream_stream.send(data)

    def _too_large(self) -> None:
        if self.state == RESPONDING:
            self.flags = b"DPE"
            self._cut(b"request_payload_too_large", False)
        else:
            self.reply(replies.TOO_LARGE)

    def request_finished(self, trailers: Headers | None) -> None:
        """The request is complete."""
        if self.state == OVER:
            return
        self.request_complete = True
        self.request_end = self.listener.now()
        filtering = self.filtering
        if filtering is None or filtering.inflow is None:
            self.take_end(trailers)
        else:
            self.trailers = filtering.inflow.trailers = trailers
            filtering.inflow.push(b"", True)
            if filtering.waiting is not None:
                self.held_up()

    def take_end(self, trailers: Headers | None) -> None:
        """All of the request is here that goes upstream."""
        self.whole = True
        self.trailers = trailers
        route = self.route
        if route is not None:
            self._time(route, self.request_end)
            if route.mirror is not None and self.state != ROUTING and not self.local_reply:
                kept = (self.replay if self.early is None else self.early) or []
                whole = kept or not self.bytes_received
                route.mirror.copy(self, b"".join(kept) if whole else None)
        if self.upstream_stream is not None and self.state != TUNNEL:
            self.upstream_stream.finish(trailers)

    def downstream_lost(self) -> None:
        """The client went away. No call is made on the stream after this."""
        if self.state == OVER:
            return
        self.flags = b"DC"
        self.details = b"downstream_remote_disconnect"
        self.release()
        self._over()

    def downstream_error(self) -> None:
        """The client broke the framing of its body. The stream answers by itself if it can."""
        if self.state != OVER and self.state != RESPONDING and self.state != TUNNEL:
            self.reply(replies.BAD_REQUEST)
        elif self.state != OVER:
            self.flags = b"DPE"
            self._cut(b"http1.codec_error", True)

    def downstream_paused(self) -> None:
        """The client reads more slowly than the upstream sends."""
        if self.upstream_stream is not None:
            self.upstream_stream.pause()

    def downstream_resumed(self) -> None:
        """The client has taken what was buffered."""
        filtering = self.filtering
        if filtering is not None and filtering.outflow is not None:
            filtering.outflow.go_on()
            if filtering.outflow.full:
                return
        if self.upstream_stream is not None:
            self.upstream_stream.resume()

    def tunnel_data(self, data: bytes) -> None:
        """Bytes from the client of an upgraded connection."""
        if self.state == TUNNEL:
            self.bytes_received += len(data)
            self.upstream_stream.tunnel(data)  # type: ignore[union-attr]

    # Towards the upstream.

    def send_to(self, endpoint: Endpoint) -> None:
        """Try this endpoint."""
        self.endpoint = endpoint
        self.attempts += 1
        self._hold(endpoint)
        self.pool = pool = endpoint.pool
        pool.request(self)

    def _hold(self, endpoint: Endpoint) -> None:
        self.holding = True
        endpoint.active += 1
        self.group.limits.requests += 1

    def connected(self, upstream: Upstream) -> None:
        """
        The pool has a connection for this exchange.

        The upstream codec has not sent anything yet: it calls :meth:`body_now` for what to
        send with the head.
        """
        self.upstream_stream = upstream
        self.state = SENT
        self.upstream_local = upstream.local

    def body_now(self) -> bytes:
        """The body gathered so far, to be sent with the head; afterwards it streams."""
        early = self.early
        if early is None:
            return b""
        self.early = None
        data = b"".join(early)
        if len(data) <= self.route.keep:  # type: ignore[union-attr]
            self.replay = [data]
        return data

    def pool_failed(self, reply: Reply) -> None:
        """The pool has no connection for this exchange: answer ``reply``."""
        self.pool = None
        self._leave_endpoint()
        policy = self.route.retry  # type: ignore[union-attr]
        if policy is None or not policy.unconnected(self, reply):
            self.reply(reply)

    # From the upstream codec.

    def inform(self, status: int, headers: Headers) -> None:
        """An interim (1xx, neither 100 nor 101) response."""
        self.stream.inform(status, headers)

    def response_head(
        self, status: int, headers: Headers, length: int, data: bytes, end: bool
    ) -> None:
        """The response's head, with the first of its body. As ``Downstream.respond``."""
        self.response_start = now = self.listener.now()
        self.status = status
        if length < 0 and not end and self.chain is not None:
            # A response that is kept back may have lost its connection when filters see it.
            delimited = not self.upstream_stream.until_close  # type: ignore[union-attr]
            if not delimited or self.filtering is not None:
                self.kept().delimited = delimited
        endpoint: Endpoint = self.endpoint  # type: ignore[assignment]
        if status >= 500:
            self.judge(False)
        elif end:
            endpoint.answered += 1
            if endpoint.failures:
                self.cluster.breaker.succeeded(endpoint)  # type: ignore[union-attr]
        elif endpoint.breaker:
            # On probation: its head is enough, a long download must not keep it there.
            self.cluster.breaker.succeeded(endpoint)  # type: ignore[union-attr]
        if endpoint.adaptive is not None:
            endpoint.adaptive.sample(now - self.upstream_start)
        policy = self.route.retry  # type: ignore[union-attr]
        if (
            policy is not None
            and (not end or policy.suspects[status])
            and policy.responded(self, status, headers, length, data, end)
        ):
            return
        self.commit(status, headers, length, data, end, now)

    def commit(
        self, status: int, headers: Headers, length: int, data: bytes, end: bool, now: float
    ) -> None:
        """Pass this response on: from here on there is no other."""
        self.replay = None
        self.status = status
        self.response_headers = headers
        if self.retrying is not None:
            self.retrying.settle(status)
        chain = self.chain
        if chain is None or not chain.answering(self, length, data, end):
            self.deliver(length, data, end, now)

    def response_data(self, data: bytes) -> None:
        """More of the response's body."""
        if self.held is not None:
            self.held.add(self, data)
            return
        if self.filtering is not None and self.filtering.outflow is not None:
            self.filtering.outflow.push(data, False)
            return
        self.bytes_sent += len(data)
        self.stream.send(data)

    def response_finished(self, data: bytes, trailers: Headers | None) -> None:
        """The response is complete with this last of its body, which may be empty."""
        if self.status < 500:
            endpoint: Endpoint = self.endpoint  # type: ignore[assignment]
            endpoint.answered += 1
            if endpoint.failures:
                self.cluster.breaker.succeeded(endpoint)  # type: ignore[union-attr]
        if self.held is not None:
            self.held.complete(self, data, trailers)
            return
        self.response_ended(data, trailers)

    def response_ended(self, data: bytes, trailers: Headers | None) -> None:
        """The last of the body, which may be empty, and what follows it, for the client."""
        if self.filtering is not None and self.filtering.outflow is not None:
            self.upstream_done()
            self.filtering.outflow.trailers = trailers
            self.filtering.outflow.push(data, True)
        else:
            self.emit(data, True, trailers)

    def switched(self, status: int, headers: Headers) -> None:
        """The upstream agreed to the upgrade: from now on bytes pass through."""
        listener = self.listener
        self.response_start = listener.now()
        endpoint: Endpoint = self.endpoint  # type: ignore[assignment]
        endpoint.answered += 1
        if endpoint.failures:
            self.cluster.breaker.succeeded(endpoint)  # type: ignore[union-attr]
        self.status = status
        self.response_headers = headers
        self.limit = self.deadline = 0.0
        self.replay = None
        if self.retrying is not None:
            self.retrying.settle(status)
        chain = self.chain
        if chain is None or not chain.answering(self, -1, b"", False):
            self.enter_tunnel()

    def enter_tunnel(self) -> None:
        """Tell the client that its upgrade is granted: from now on bytes pass through."""
        headers: Headers = self.response_headers  # type: ignore[assignment]
        if self.route.mark is not None:  # type: ignore[union-attr]
            self.route.mark(self, headers)  # type: ignore[union-attr]
        self.state = TUNNEL
        self.stream.respond(self.status, headers, -1, b"", False)
        self.stream.open_tunnel()

    def upstream_tunnel_data(self, data: bytes) -> None:
        """Bytes from the upstream of an upgraded connection."""
        if self.state != TUNNEL:
            self.filtering.outflow.early(data)  # type: ignore[union-attr]
            return
        self.bytes_sent += len(data)
        self.stream.tunnel(data)

    def upstream_lost(self, reply: Reply, unacknowledged: bool) -> None:
        """
        The upstream's connection ended before the response was complete.

        ``reply`` says how; ``unacknowledged``: the kernel knows that the peer's kernel has
        taken no byte of this request.
        """
        upstream, self.upstream_stream = self.upstream_stream, None
        pool, self.pool = self.pool, None
        self._leave_endpoint()
        if self.state == TUNNEL:
            self.details = b"upstream_remote_disconnect"
            self._over()
            self.stream.abort(False)
            return
        # Of a request that was not whole nobody knows who was at fault; and clients that stall
        # until the endpoint has had enough must not be able to open its breaker.
        if self.state == RESPONDING:
            if self.request_complete:
                self.judge(True)
            self.flags = b"UPE" if reply is replies.PROTOCOL_ERROR else b"UC"
            self.details = b"upstream_reset_after_response_started"
            stream = self.stream
            self._over()
            stream.abort(False)
            return
        if self.state == FILTERED:
            if self.request_complete:
                self.judge(True)
            self.reply(reply)
            return
        if (
            reply is replies.TERMINATED
            and self.held is None
            and upstream is not None
            and upstream.reused
            and (unacknowledged or self.method in IDEMPOTENT)
            and (self.replay is not None or self.bytes_received == 0)
        ):
            # The connection had been idle: that it ended says nothing of the endpoint.
            self.rewind()
            values = self.listener.values
            values[self.cluster.stats.replays] += 1  # type: ignore[union-attr]
            self.attempts += 1
            self._hold(self.endpoint)  # type: ignore[arg-type]
            self.pool = pool
            pool.request_fresh(self)  # type: ignore[union-attr]
            return
        if self.request_complete:
            self.judge(True)
        policy = self.route.retry  # type: ignore[union-attr]
        if policy is None or not policy.broken(self, unacknowledged):
            self.reply(reply)

    def timed_out(self, now: float) -> float:
        """
        ``deadline`` passed: the time of the whole exchange is over, or that of the present try.

        Returns the next deadline, or 0.0.
        """
        route = self.route
        limit = self.limit
        if limit and limit <= now:
            if route.strict_timeout or not self.endless():  # type: ignore[union-attr]
                self.expire(replies.ROUTE_TIMEOUT)
                return 0.0
            limit = self.limit = 0.0
        self.deadline = limit
        # Between two tries there is none whose time could be over.
        if (self.state == SENT or self.state == WAITING) and self.trying:
            policy = route.retry  # type: ignore[union-attr]
            if policy is not None and policy.per_try:
                due = max(self.upstream_start, self.request_end) + policy.per_try
                if due > now:  # it was the limit's time that came
                    self.deadline = due
                else:
                    policy.try_expired(self, now)
        return self.deadline

    @property
    def strict_idle(self) -> bool:
        """Whether somebody wrote how long this exchange may be silent."""
        route = self.route
        return self.listener.strict_idle or (route is not None and route.stream_idle is not None)

    @property
    def trying(self) -> bool:
        """Whether its own try (not one beside it) is under way."""
        return self.upstream_stream is not None or self.pool is not None

    def try_again(self, endpoint: Endpoint) -> None:
        """Another try, at this endpoint."""
        self.upstream_start = now = self.listener.now()
        timeout = self.route.per_try  # type: ignore[union-attr]
        if timeout and self.request_complete:
            deadline = now + timeout
            if not self.limit or deadline < self.limit:
                self.deadline = deadline
                self.stream.wake(deadline)
        self.send_to(endpoint)

    def adopt(self, hedge: Hedge, upstream: Upstream | None) -> None:
        """
        A try beside its own answered first: it is its own now.

        ``upstream`` is None when all of the response is there.
        """
        if self.upstream_stream is not None:
            self.judge(True)  # it took too long, or there would be none beside it
        self.release()
        self.held = None
        if self.early is not None:  # kept for going out once more, and so it still is
            self.replay = self.early
            self.early = None
        self.state = SENT
        self.endpoint = hedge.endpoint
        self.upstream_start = hedge.upstream_start
        self.connected_at = hedge.connected_at
        self.upstream_local = hedge.upstream_local
        self.upstream_stream = upstream
        self._hold(hedge.endpoint)

    def rewind(self) -> None:
        """Back to where nothing of the request was sent: there will be another try."""
        self.held = None
        self.status = 0
        self.response_start = 0.0
        if self.state == SENT:
            self.early = self.replay
            if self.early is None and not self.whole:
                self.early = []
            self.replay = None
            self.state = WAITING
            if not self.whole:
                self.upstream_paused()

    def upstream_paused(self) -> None:
        """The upstream reads more slowly than the client sends."""
        if self.filtering is not None and self.filtering.inflow is not None:
            self.filtering.inflow.blocked = True
        self.stream.pause()

    def upstream_resumed(self) -> None:
        """The upstream has taken what was buffered."""
        if self.filtering is not None and self.filtering.inflow is not None:
            self.filtering.inflow.blocked = False
            self.filtering.inflow.go_on()
            if self.filtering.inflow.full:
                return
        self.stream.resume()
