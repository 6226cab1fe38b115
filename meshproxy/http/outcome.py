"""
What is known of an exchange, and the ways in which it ends.

The law it keeps: whatever happens, an exchange ends once: its upstream side is let go of, its
retries, copies and timers are given up, it is counted and logged, and then its stream goes on with
the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.http.headers import Headers, make_field
from meshproxy.http.record import Recorded

if TYPE_CHECKING:
    from meshproxy.http.chain import Chain
    from meshproxy.http.filtering import Filtering
    from meshproxy.http.listener import HttpListener
    from meshproxy.http.pool import Pool
    from meshproxy.http.replies import Reply
    from meshproxy.http.retry import Held, Retrying
    from meshproxy.http.router import Route
    from meshproxy.http.stream import Downstream, Upstream
    from meshproxy.http.views import Request, ResponseView
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group

#: RFC 9110, 9.2.2.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

# Where an exchange stands.
ROUTING = 0
WAITING = 1  # for a connection
SENT = 2  # request under way, no response yet
RESPONDING = 3
TUNNEL = 4
OVER = 5
FILTERED = 6  # the response is here, its head in the chain of filters
SWERVED = 7  # a filter did something besides looking, inside its call

_TEXT = make_field(b"content-type", b"text/plain")
_EMPTY = make_field(b"content-length", b"0")
_OVERLOADED = make_field(b"x-envoy-overloaded", b"true")


class Outcome(Recorded):
    """
    What filters, the router and the access log see. Texts are bytes; times are seconds of the
    monotonic clock, 0.0 for what never happened.

    ``path`` is the target as received, with its query; ``target`` the one that routes go by, which
    filters may have changed; ``upstream_path`` what is sent on. ``request_complete``: the client
    has sent all of its request; ``whole``: all that goes upstream of it has left the filters.
    ``request_length`` and the response's are bytes, -1 when not known beforehand.

    ``limit`` is when the whole exchange must be over, ``deadline`` when somebody must look: the
    same, or the end of the present try. ``stream_idle`` is seconds.
    """

    __slots__ = (
        "attempts",
        "authority",
        "bytes_received",
        "bytes_sent",
        "chain",
        "client",
        "client_ip",
        "cluster",
        "connected_at",
        "cookie",
        "deadline",
        "details",
        "early",
        "end",
        "endpoint",
        "expect_continue",
        "filtering",
        "flags",
        "group",
        "held",
        "holding",
        "limit",
        "listener",
        "local_reply",
        "method",
        "path",
        "pool",
        "protocol",
        "replay",
        "request_complete",
        "request_end",
        "request_headers",
        "request_id",
        "request_length",
        "request_view",
        "response_headers",
        "response_start",
        "response_view",
        "retrying",
        "route",
        "start",
        "state",
        "status",
        "stream",
        "stream_idle",
        "target",
        "trailers",
        "upgrade",
        "upstream_authority",
        "upstream_local",
        "upstream_path",
        "upstream_start",
        "upstream_stream",
        "whole",
    )

    def __init__(
        self,
        listener: HttpListener,
        stream: Downstream,
        start: float,
        protocol: bytes,
        method: bytes,
        authority: bytes,
        path: bytes,
        headers: Headers,
        length: int,
        upgrade: bytes,
        expect_continue: bool,
    ) -> None:
        self.listener = listener
        self.stream = stream
        # The address that trusted hops report, else the connection's.
        self.client = stream.client
        self.client_ip = stream.client_ip
        self.start = start
        self.protocol = protocol
        self.method = method
        self.authority = authority
        self.path = path
        self.target = path
        self.upstream_path = path
        self.upstream_authority = authority
        self.request_headers = headers
        self.request_length = length
        self.request_complete = False
        self.whole = False
        self.upgrade = upgrade
        self.expect_continue = expect_continue
        self.state = ROUTING
        self.status = 0
        # The proxy answers by itself.
        self.local_reply = False
        self.flags = b"-"
        self.details = b"via_upstream"
        self.bytes_received = 0
        self.bytes_sent = 0
        self.request_end = 0.0
        self.upstream_start = 0.0
        self.connected_at = 0.0
        self.response_start = 0.0
        self.end = 0.0
        self.deadline = 0.0
        self.limit = 0.0
        self.stream_idle: float = listener.stream_idle_timeout
        self.attempts = 0
        # Counted in the endpoint's and the cluster's requests in flight.
        self.holding = False
        self.request_id = b""
        self.upstream_local = b""
        self.response_headers: Headers | None = None
        self.trailers: Headers | None = None
        self.route: Route | None = None
        # The filters, and what they keep of this exchange.
        self.chain: Chain | None = None
        self.filtering: Filtering | None = None
        # What filters asked for first; let go of at the end, since a view holds its exchange.
        self.request_view: Request | None = None
        self.response_view: ResponseView | None = None
        self.group: Group = None  # type: ignore[assignment]
        self.cluster: Cluster | None = None
        self.endpoint: Endpoint | None = None
        self.pool: Pool | None = None
        self.upstream_stream: Upstream | None = None
        # Body that arrived before a connection was there, and body kept for a replay.
        self.early: list[bytes] | None = None
        self.replay: list[bytes] | None = None
        # A response kept back while it may still be retried, and what was retried.
        self.held: Held | None = None
        self.retrying: Retrying | None = None
        # The value of a cookie that is issued for hashing.
        self.cookie = b""

    # Endings.

    def judge(self, local: bool) -> None:
        """The endpoint failed: by its response, or (``local``) without a whole one."""
        if local and self.status >= 500:
            return  # that is its verdict already
        endpoint: Endpoint = self.endpoint  # type: ignore[assignment]
        endpoint.failed += 1
        breaker = self.cluster.breaker  # type: ignore[union-attr]
        if breaker is not None:
            breaker.failed(endpoint, local)

    def endless(self, headers: Headers | None = None) -> bool:
        """
        Whether it is of a kind that may last for ever (gRPC, an event stream), so that limits
        which nobody wrote for it do not hold. ``headers``: a response's that is not passed on yet.
        """
        if (self.request_headers.get(b"content-type") or b"").startswith(b"application/grpc"):
            return True
        if headers is None:
            headers = self.response_headers
        if headers is None:
            return b"text/event-stream" in (self.request_headers.get(b"accept") or b"")
        return (headers.get(b"content-type") or b"").startswith(b"text/event-stream")

    def expire(self, reply: Reply) -> None:
        """A time limit passed: answer ``reply``, or cut the response short."""
        held_up = self.filtering is not None and self.filtering.holding_up is not None
        if held_up:
            reply = self.filtering.blame(reply)  # type: ignore[union-attr]
        # Neither a client that does not send, nor one that does not read, nor a filter is the
        # endpoint's fault.
        elif self.request_complete and self.state != TUNNEL and not self.stream.stalled:
            if self.upstream_stream is not None:
                self.judge(True)
            if self.retrying is not None:
                self.retrying.expire()
        if self.state == RESPONDING or self.state == TUNNEL:
            self.flags = reply.flags
            self._cut(reply.details, True)
        elif self.state != OVER:
            self.reply(reply)

    def _cut(self, details: bytes, reset: bool) -> None:
        self.details = details
        self.release()
        stream = self.stream
        self._over()
        stream.abort(reset)

    def reply(self, reply: Reply) -> None:
        """Answer with the proxy's own words. Nothing was sent to the client before."""
        if self.retrying is not None:
            reply = self.retrying.last_word(reply)
        self.flags = reply.flags
        self.details = reply.details
        headers = Headers()
        if reply.body:
            headers.fields.append(make_field(b"content-length", b"%d" % len(reply.body)))
            headers.fields.append(_TEXT)
        else:
            headers.fields.append(_EMPTY)
        if reply.overloaded:
            headers.fields.append(_OVERLOADED)
        self.answer(reply.status, headers, reply.body)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """
        Answer with a complete response.

        ``headers`` must hold the content-length; server and date are added.
        """
        if self.upstream_stream is not None or self.pool is not None:
            self.release()
        if self.retrying is not None:
            self.retrying.over()
        self.status = status
        self.local_reply = True
        self.response_headers = headers
        if self.method == b"HEAD":
            body = b""
        self.held = None
        chain = self.chain
        if chain is not None:
            if self.filtering is not None:
                self.filtering.interrupt(self)  # type: ignore[arg-type]
            if chain.answering(self, len(body), body, True):  # type: ignore[arg-type]
                return
        self.deliver(len(body), body, True, self.listener.now())

    def deliver(self, length: int, data: bytes, end: bool, now: float) -> None:
        """Send the response's head to the client, with the first of its body."""
        headers: Headers = self.response_headers  # type: ignore[assignment]
        # Behind the filters: what a cache keeps must not carry what is added for one client.
        self.listener.adorn(headers, now)
        route = self.route
        if route is not None:
            if route.edit_response is not None:
                route.edit_response(headers)
            if route.mark is not None and not self.local_reply:
                route.mark(self, headers)  # type: ignore[arg-type]
        self.bytes_sent = len(data)
        self.state = RESPONDING
        self.stream.respond(self.status, headers, length, data, end)
        if end and self.state == RESPONDING:
            # _complete() written out: this is how nearly every exchange ends.
            self.end = now
            self.pool = None
            if self.holding:
                self.holding = False
                self.endpoint.active -= 1  # type: ignore[union-attr]
                self.group.limits.requests -= 1
            self.state = OVER
            if self.retrying is not None:
                self.retrying.over()
            if self.filtering is not None:
                self.filtering.stop()
            self.listener.finished(self)  # type: ignore[arg-type]
            self.stream.done(self.request_complete)

    def emit(self, data: bytes, end: bool, trailers: Headers | None) -> None:
        """Send more of the body to the client."""
        if self.state != RESPONDING:  # the client went while the body was written
            return
        self.bytes_sent += len(data)
        if end:
            self.stream.finish(data, trailers)
            self._complete()
        elif data:
            self.stream.send(data)

    def _complete(self) -> None:
        """The whole response was handed over."""
        if self.state == OVER:  # the write failed at once and the stream was lost
            return
        reusable = self.request_complete
        # The upstream codec let go of the exchange before its last call.
        self.pool = None
        self._leave_endpoint()
        stream = self.stream
        self._over()
        stream.done(reusable)

    def release(self) -> None:
        """Let go of the upstream side, whatever it is doing."""
        upstream, self.upstream_stream = self.upstream_stream, None
        pool, self.pool = self.pool, None
        if upstream is not None:
            upstream.cancel()
        elif pool is not None:
            pool.withdraw(self)  # type: ignore[arg-type]
        self._leave_endpoint()

    def _leave_endpoint(self) -> None:
        if self.holding:
            self.holding = False
            self.endpoint.active -= 1  # type: ignore[union-attr]
            self.group.limits.requests -= 1

    def _over(self) -> None:
        self.state = OVER
        self.held = None
        if self.retrying is not None:
            self.retrying.over()
        if self.filtering is not None:
            self.filtering.stop()
        if not self.end:
            self.end = self.listener.now()
        self.listener.finished(self)  # type: ignore[arg-type]
