"""
An exchange: one request, its response, and what happens between them.

The law it keeps:

- It knows streams, not connections or codecs (:mod:`meshproxy.http.stream`).
- The client gets exactly one response head, and no byte of a body twice. A request is sent a
  second time only when nothing of a response was seen, the connection had been idle before
  (so that the upstream may have closed it meanwhile), the whole request can be repeated, and
  either its method is idempotent or the kernel says that no byte of it was acknowledged.
- ``finished`` is reached exactly once, however the exchange ends: it counts and logs.
- No side runs ahead of the other by more than the socket buffers and one read: a slow reader
  pauses the other side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.http import replies
from meshproxy.http.headers import Headers, make_field

if TYPE_CHECKING:
    from meshproxy.http.listener import HttpListener
    from meshproxy.http.pool import Pool
    from meshproxy.http.replies import Reply
    from meshproxy.http.router import Route
    from meshproxy.http.stream import Downstream, Upstream
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.group import Group

#: Body bytes kept for sending a request a second time.
REPLAY_LIMIT = 65536

#: RFC 9110, 9.2.2.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

# Where an exchange stands.
ROUTING = 0
WAITING = 1  # for a connection
SENT = 2  # request under way, no response yet
RESPONDING = 3
TUNNEL = 4
OVER = 5

_TEXT = make_field(b"content-type", b"text/plain")
_EMPTY = make_field(b"content-length", b"0")
_OVERLOADED = make_field(b"x-envoy-overloaded", b"true")


class Exchange:
    """
    What filters, the router and the access log see. Texts are bytes; times are seconds of the
    monotonic clock, 0.0 for what never happened.

    ``path`` is the target as received, with its query; ``upstream_path`` what is sent on.
    ``request_length`` and the response's are bytes, -1 when not known beforehand.
    """

    __slots__ = (
        "attempts",
        "authority",
        "bytes_received",
        "bytes_sent",
        "client",
        "client_ip",
        "cluster",
        "connected_at",
        "deadline",
        "details",
        "early",
        "end",
        "endpoint",
        "expect_continue",
        "flags",
        "group",
        "holding",
        "listener",
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
        "response_headers",
        "response_start",
        "route",
        "start",
        "state",
        "status",
        "stream",
        "trailers",
        "upgrade",
        "upstream_authority",
        "upstream_local",
        "upstream_path",
        "upstream_start",
        "upstream_stream",
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
        self.upstream_path = path
        self.upstream_authority = authority
        self.request_headers = headers
        self.request_length = length
        self.request_complete = False
        self.upgrade = upgrade
        self.expect_continue = expect_continue
        self.state = ROUTING
        self.status = 0
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
        self.attempts = 0
        # Counted in the endpoint's and the cluster's requests in flight.
        self.holding = False
        self.request_id = b""
        self.upstream_local = b""
        self.response_headers: Headers | None = None
        self.trailers: Headers | None = None
        self.route: Route | None = None
        self.group: Group = None  # type: ignore[assignment]
        self.cluster: Cluster | None = None
        self.endpoint: Endpoint | None = None
        self.pool: Pool | None = None
        self.upstream_stream: Upstream | None = None
        # Body that arrived before a connection was there, and body kept for a replay.
        self.early: list[bytes] | None = None
        self.replay: list[bytes] | None = None

    # What the access log asks for beside the attributes.

    @property
    def scheme(self) -> bytes:
        """``b"http"`` or ``b"https"``."""
        return self.listener.scheme

    @property
    def local(self) -> bytes:
        """``b"ip:port"`` that the client connected to."""
        return self.stream.local

    @property
    def upstream(self) -> bytes:
        """``b"ip:port"`` of the endpoint, or ``b""``."""
        return self.endpoint.text if self.endpoint is not None else b""

    @property
    def cluster_name(self) -> bytes:
        """The cluster's name, or ``b""``."""
        return self.cluster.name_bytes if self.cluster is not None else b""

    @property
    def route_name(self) -> bytes:
        """The route's name, or ``b""``."""
        return self.route.name_bytes if self.route is not None else b""

    @property
    def listener_name(self) -> bytes:
        """The listener's name."""
        return self.listener.name_bytes

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
        if route is None:
            self.bytes_received = len(data)
            self.reply(replies.NO_ROUTE)
            return
        self.route = route
        listener.values[route.active] += 1
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
        self.group = group = route.group if pick is None else pick()  # type: ignore[assignment]
        self.cluster = group.cluster
        listener.forward(self)
        if route.prepare is not None:
            route.prepare(self)
        if route.timeout:
            self.deadline = self.start + route.timeout if end else 0.0
        endpoint = group.pick()
        if endpoint is None:
            self.reply(replies.NO_ENDPOINT)
            return
        self.state = WAITING
        if data or not end:
            self.early = []
            if data:
                self._keep(data)
            if self.state == OVER:  # over the limit already
                return
            if not end:
                if self.expect_continue and not data:
                    self.stream.inform(100, Headers())
                self.stream.pause()
        self._send_to(endpoint)

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
        state = self.state
        if state in (SENT, RESPONDING):
            self.bytes_received += len(data)
            limit = self.listener.max_body
            if limit is not None and self.bytes_received > limit:
                self._too_large()
                return
            replay = self.replay
            if replay is not None:
                if self.bytes_received <= REPLAY_LIMIT:
                    replay.append(data)
                else:
                    self.replay = None
            self.upstream_stream.send(data)  # type: ignore[union-attr]
        elif state == WAITING:
            self._keep(data)

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
        self.trailers = trailers
        self.request_end = now = self.listener.now()
        route = self.route
        if route is not None and route.timeout:
            self.deadline = now + route.timeout
        if self.state == SENT or self.state == RESPONDING:
            self.upstream_stream.finish(trailers)  # type: ignore[union-attr]

    def downstream_lost(self) -> None:
        """The client went away. No call is made on the stream after this."""
        if self.state == OVER:
            return
        self.flags = b"DC"
        self.details = b"downstream_remote_disconnect"
        self._release()
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
        if self.upstream_stream is not None:
            self.upstream_stream.resume()

    def tunnel_data(self, data: bytes) -> None:
        """Bytes from the client of an upgraded connection."""
        if self.state == TUNNEL:
            self.bytes_received += len(data)
            self.upstream_stream.tunnel(data)  # type: ignore[union-attr]

    # Towards the upstream.

    def _send_to(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.attempts += 1
        self.upstream_start = self.start
        self._hold(endpoint)
        self.pool = pool = endpoint.pool
        pool.request(self)

    def _hold(self, endpoint: Endpoint) -> None:
        self.holding = True
        endpoint.active += 1

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
        if self.upstream_stream.reused and len(data) <= REPLAY_LIMIT:  # type: ignore[union-attr]
            self.replay = [data]
        return data

    def pool_failed(self, reply: Reply) -> None:
        """The pool has no connection for this exchange: answer ``reply``."""
        self.pool = None
        self._leave_endpoint()
        self.reply(reply)

    # From the upstream codec.

    def inform(self, status: int, headers: Headers) -> None:
        """An interim (1xx, neither 100 nor 101) response."""
        self.stream.inform(status, headers)

    def response(self, status: int, headers: Headers, length: int, data: bytes, end: bool) -> None:
        """The response's head, with the first of its body. As ``Downstream.respond``."""
        listener = self.listener
        self.response_start = now = listener.now()
        self.replay = None
        self.status = status
        self.response_headers = headers
        listener.adorn(headers, now)
        route = self.route
        if route.edit_response is not None:  # type: ignore[union-attr]
            route.edit_response(headers)  # type: ignore[union-attr]
        self.bytes_sent = len(data)
        self.state = RESPONDING
        self.stream.respond(status, headers, length, data, end)
        if end and self.state == RESPONDING:
            # _complete() written out: this is how nearly every exchange ends.
            self.end = now
            self.pool = None
            if self.holding:
                self.holding = False
                self.endpoint.active -= 1  # type: ignore[union-attr]
            self.state = OVER
            listener.finished(self)
            self.stream.done(self.request_complete)

    def response_data(self, data: bytes) -> None:
        """More of the response's body."""
        self.bytes_sent += len(data)
        self.stream.send(data)

    def response_finished(self, data: bytes, trailers: Headers | None) -> None:
        """The response is complete with this last of its body, which may be empty."""
        self.bytes_sent += len(data)
        self.stream.finish(data, trailers)
        self._complete()

    def switched(self, status: int, headers: Headers) -> None:
        """The upstream agreed to the upgrade: from now on bytes pass through."""
        listener = self.listener
        self.response_start = listener.now()
        self.status = status
        self.response_headers = headers
        self.deadline = 0.0
        self.state = TUNNEL
        self.stream.respond(status, headers, -1, b"", False)
        self.stream.open_tunnel()

    def upstream_tunnel_data(self, data: bytes) -> None:
        """Bytes from the upstream of an upgraded connection."""
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
        if self.state == RESPONDING:
            self.flags = b"UPE" if reply is replies.PROTOCOL_ERROR else b"UC"
            self.details = b"upstream_reset_after_response_started"
            stream = self.stream
            self._over()
            stream.abort(False)
            return
        if (
            reply is replies.TERMINATED
            and upstream is not None
            and upstream.reused
            and (unacknowledged or self.method in IDEMPOTENT)
            and (self.replay is not None or self.bytes_received == 0)
        ):
            self.early = self.replay
            if self.early is None and not self.request_complete:
                self.early = []
            self.replay = None
            self.state = WAITING
            values = self.listener.values
            values[self.cluster.stats.replays] += 1  # type: ignore[union-attr]
            if not self.request_complete:
                self.stream.pause()
            self.attempts += 1
            self._hold(self.endpoint)  # type: ignore[arg-type]
            self.pool = pool
            pool.request_fresh(self)  # type: ignore[union-attr]
            return
        self.reply(reply)

    def upstream_paused(self) -> None:
        """The upstream reads more slowly than the client sends."""
        self.stream.pause()

    def upstream_resumed(self) -> None:
        """The upstream has taken what was buffered."""
        self.stream.resume()

    # Endings.

    def expire(self, reply: Reply) -> None:
        """A time limit passed: answer ``reply``, or cut the response short."""
        if self.state == RESPONDING or self.state == TUNNEL:
            self.flags = reply.flags
            self._cut(reply.details, True)
        elif self.state != OVER:
            self.reply(reply)

    def _cut(self, details: bytes, reset: bool) -> None:
        self.details = details
        self._release()
        stream = self.stream
        self._over()
        stream.abort(reset)

    def reply(self, reply: Reply) -> None:
        """Answer with the proxy's own words. Nothing was sent to the client before."""
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
            self._release()
        listener = self.listener
        self.end = now = listener.now()
        self.status = status
        self.response_headers = headers
        listener.adorn(headers, now)
        route = self.route
        if route is not None and route.edit_response is not None:
            route.edit_response(headers)
        if self.method == b"HEAD":
            body = b""
        self.bytes_sent = len(body)
        self.state = RESPONDING
        self.stream.respond(status, headers, len(body), body, True)
        self._complete()

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

    def _release(self) -> None:
        """Let go of the upstream side, whatever it is doing."""
        upstream, self.upstream_stream = self.upstream_stream, None
        pool, self.pool = self.pool, None
        if upstream is not None:
            upstream.cancel()
        elif pool is not None:
            pool.withdraw(self)
        self._leave_endpoint()

    def _leave_endpoint(self) -> None:
        if self.holding:
            self.holding = False
            self.endpoint.active -= 1  # type: ignore[union-attr]

    def _over(self) -> None:
        self.state = OVER
        if not self.end:
            self.end = self.listener.now()
        self.listener.finished(self)
