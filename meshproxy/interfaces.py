"""
Every public interface of meshproxy.

Laws:

- This module imports zope and the standard library only: a plugin can import it anywhere.
- What is declared here is asked for somewhere. (:class:`IDatagramFilter` and
  :class:`IQueryFilter` are ahead of their rooms: no listener speaks UDP or DNS yet, so no
  configuration can name such a filter, and ``--help-filter`` says so.)

What holds for every filter:

- One instance serves all exchanges (connections, datagrams, queries) of its place in a
  configuration. What belongs to one exchange is kept in ``exchange.notes``, not on ``self``.
- A method that may wait returns its result, or a Deferred or coroutine (``async def``) of it.
  Plain results cost nothing more; nothing is wrapped unless a filter waits.
- While a filter waits, the exchange stands still in front of it; the client is not read beyond a
  bounded buffer. The route's timeout and the idle timeouts end the wait with a 504 that names the
  filter. When the client goes away, or the time is over, what the filter waits for is cancelled
  (``Deferred.cancel``, ``CancelledError`` inside a coroutine).
- An exception from a filter costs that exchange: a 500 while no response has begun, else the
  connection is cut. It is logged with its traceback (at most one a second and filter) and counted
  in ``meshproxy_filter_errors_total``. It never reaches another exchange or the proxy.
- All calls are made in the reactor's thread. Nothing here may block.
"""

from __future__ import annotations

from typing import Any

from zope.interface import Attribute, Interface

__all__ = [
    "IAccessLog",
    "IBalancer",
    "IBalancing",
    "IBytesFilter",
    "IConnection",
    "IConnectionFilter",
    "IConnectionObserver",
    "IConnectionServer",
    "IContextFilter",
    "IDatagramFilter",
    "IDiscovery",
    "IExchange",
    "IExchangeObserver",
    "IFilterContext",
    "IFilterFactory",
    "IFilterService",
    "IHashBalancer",
    "IHealthCheck",
    "IListenerFilter",
    "IQueryFilter",
    "IRateStore",
    "IRequest",
    "IRequestBodyFilter",
    "IRequestFilter",
    "IRequestTrailersFilter",
    "IResponse",
    "IResponseBodyFilter",
    "IResponseFilter",
    "IResponseTrailersFilter",
]


# A plugin, and what it is given.


class IFilterFactory(Interface):
    """
    What a plugin offers, by its name: a kind of filter, or one of the choices beside filters.

    A plugin is an object in any ``twisted/plugins/*.py`` on the path (or in a directory of the
    configuration's ``plugins:``) that provides this and ``twisted.plugin.IPlugin``;
    :class:`meshproxy.api.FilterPlugin` is one. A plugin that does not provide what it promises
    (``zope.interface.verify``) is refused by name, and so are two of one name and kind.
    """

    name = Attribute("The name, as configurations and ``--help-filter`` say it: a str.")
    help = Attribute("One line for ``--help-filters``: a str.")
    kinds = Attribute(
        'Where it can be used, a tuple of ``"http"``, ``"tcp"``, ``"listener"``, '
        '``"udp"``, ``"dns"``; ``"balancer"``, ``"discovery"``, ``"health_check"``, '
        '``"access_log"``.'
    )
    options = Attribute(
        "The filter's options: a pydantic model class (a description on every field; "
        ":class:`meshproxy.api.Options` is a base for it), or None. ``--help-filter`` shows its "
        "fields, ``--schema`` its schema; what is wrong is told by line and column."
    )

    def create(options: Any) -> Any:
        """
        Return a filter: an object that provides one or more of the interfaces of its kinds.

        ``options`` is an instance of the ``options`` model, or None where that is None. Raises
        ``ValueError`` for options that cannot work together; its message is shown to the user,
        with the place in the file. Called once for each place in a configuration that names it,
        before anything is bound: it opens nothing.
        """


class IContextFilter(Interface):
    """A filter (or choice) that wants to know where it is, to count, or to read a clock."""

    def attach(context: Any) -> None:
        """
        Called once, after ``create`` and before anything else, with an :class:`IFilterContext`.

        Counters are asked for here. Nothing is opened here. Raises ``ValueError`` as ``create``.
        """


class IFilterService(Interface):
    """A filter (or choice, but an IDiscovery) that holds something open: a file, a timer."""

    def start() -> None:
        """
        The proxy starts: open what is needed. Called once, before the first client is accepted.
        An exception keeps the proxy from starting, with its message.
        """

    def stop() -> None:
        """The proxy stops, after the last exchange: close and cancel everything. Called once."""


class IFilterContext(Interface):
    """What a filter, or one of the choices beside filters, is given by ``attach``."""

    name = Attribute("Its name in this configuration (``as``, else the plugin's): a str.")
    listener = Attribute('The listener that it serves, a str; ``""`` for what serves a cluster.')
    cluster = Attribute('The cluster that a balancer, discovery or health check serves, else "".')
    reactor = Attribute("The reactor, or a clock in its place in tests (``IReactorTime``).")
    http = Attribute(
        "A client for HTTP: ``treq.client.HTTPClient``, with a pool of its own, TLS verified; made "
        "when it is first asked for. A test kit puts a fake in its place."
    )

    def now() -> float:
        """Seconds of a monotonic clock, the one of the exchange's times."""

    def time() -> float:
        """Seconds since 1970, for what is written down or compared with dates."""

    def sleep(seconds: float) -> Any:
        """A Deferred that fires with None after so many seconds; cancelling it is harmless."""

    def path(text: str) -> str:
        """The path ``text`` of an option, relative to the directory of the configuration file."""

    def counter(name: str, help: str, **labels: str) -> Any:  # noqa: A002
        """
        A number that only grows: an object with ``inc(by=1)`` and ``value``.

        It appears as ``meshproxy_filter_<plugin>_<name>_total{listener=…, filter=…, labels…}``;
        of a choice as ``meshproxy_<kind>_<plugin>_<name>_total{cluster=…, plugin=…, labels…}``,
        an access log's with ``listener``. Asked again with the same labels, it is the same.
        """

    def gauge(name: str, help: str, **labels: str) -> Any:  # noqa: A002
        """A number that goes up and down: ``inc(by=1)``, ``dec(by=1)``, ``set(to)``, ``value``."""

    def histogram(name: str, help: str, bounds: Any = None, **labels: str) -> Any:  # noqa: A002
        """A distribution: an object with ``observe(x)``. ``bounds`` ascend; None: seconds."""

    def log(message: str) -> None:
        """Write a line to the proxy's log, with the filter's name in front. Never a secret."""

    def show(describe: Any) -> None:
        """
        Show what ``describe()`` returns (something ``json.dumps`` takes, bounded) in the admin at
        ``/filters/LISTENER/NAME``, or ``/filters/cluster:CLUSTER/NAME``.
        """


# HTTP.


class IExchange(Interface):
    """
    One HTTP request, its response and what is known of them, as a filter sees it.

    Texts are bytes as received, ``b""`` where there is nothing; times are seconds of
    ``IFilterContext.now``, 0.0 for what has not happened.
    """

    request = Attribute("The request: :class:`IRequest`.")
    response = Attribute("The response: :class:`IResponse`, or None while there is none.")
    client = Attribute("``b'ip:port'`` of the client; of what trusted hops report, ``b'ip'``.")
    client_ip = Attribute("``b'ip'`` of the client, after ``trusted_hops``.")
    local = Attribute("``b'ip:port'`` that the client connected to.")
    scheme = Attribute("``b'http'`` or ``b'https'``.")
    protocol = Attribute("``b'HTTP/1.1'``, ``b'HTTP/1.0'``.")
    tls = Attribute(
        "Facts about the client's TLS: an object with ``server_name``, ``alpn``, ``version``, "
        "``cipher`` (bytes) and ``certificate`` (a ``cryptography`` certificate, or None); None "
        "for a connection without TLS."
    )
    listener_name = Attribute("The name of the listener: bytes.")
    route_name = Attribute("The route that matches, ``b''`` where none does (then it is a 404).")
    cluster_name = Attribute("The cluster, ``b''`` until the request is sent on.")
    upstream = Attribute("``b'ip:port'`` of the endpoint, ``b''`` until one is chosen.")
    request_id = Attribute("``x-request-id``, ``b''`` until the request is sent on.")
    status = Attribute("The response's status, 0 while there is none.")
    flags = Attribute("Envoy's response flags, or ``b'-'``. May be set.")
    details = Attribute("Why the response is what it is, in one word. May be set.")
    attempts = Attribute("How often an endpoint was asked.")
    bytes_received = Attribute("Bytes of the request's body so far.")
    bytes_sent = Attribute("Bytes of the response's body so far.")
    start = Attribute("When the request's head was there.")
    end = Attribute("When all was over.")
    upgrade = Attribute("The protocol that the client wants to change to, ``b'websocket'``.")
    metadata = Attribute(
        "A dict for facts that other filters and the access log may read: names are str, values "
        "str, bytes, int, float or bool. ``%DYNAMIC_METADATA(name)%`` writes one into a log."
    )
    notes = Attribute(
        "A dict for what a filter keeps for itself between its calls for this exchange, by a key "
        "of its own (``self`` will do)."
    )

    def respond(response: Any) -> None:
        """
        Answer with this :class:`meshproxy.api.Response`, now, as by returning it. Raises
        :class:`meshproxy.errors.AlreadyAnswered` once a response is on its way, or all is over.
        """

    def cut(details: bytes) -> None:
        """Reset the client's connection in place of an answer; ``details`` says why in the log."""

    def clear_route() -> None:
        """
        Match the request again, after changing what routes go by. ``route_name`` is the new
        route's from here on, and so are the filters behind this one; none is run again.
        """

    def fetch(headers: Any = None, limit: Any = None, timeout: Any = None) -> Any:
        """
        Send a copy of the request beside the exchange: GET, as this filter leaves its target,
        authority and headers, without a body, by the same route to an endpoint of its choice.

        ``headers`` (bytes to bytes or None) are laid over the request's; None removes a field.
        Filters do not see it. It goes on when the exchange is over, until ``timeout`` seconds
        (the route's by default) or the Deferred is cancelled.

        Returns a Deferred of an answer with ``status``, ``headers`` and ``body`` (whole, at most
        ``limit`` bytes, 1 MiB by default). Fails with :class:`meshproxy.errors.BodyTooLarge` or
        :class:`meshproxy.errors.FetchFailed`; a reply of the proxy's own is such a failure.
        """

    def skip_body(filter: Any) -> None:  # noqa: A002
        """
        To be called from ``request`` (``response``) with ``self``: the body method of this filter
        is not called for this one; if nobody else wants the body, its length stays what it is.
        """


class IRequest(Interface):
    """The request of an exchange; what is assigned is what later filters and the upstream see."""

    method = Attribute("bytes. May be set, but neither from nor to HEAD or CONNECT (ValueError).")
    target = Attribute("Path and query, as sent: bytes. May be set (begins with ``/``).")
    path = Attribute("The path without the query: bytes. May be set; the query stays.")
    query = Attribute("What follows the ``?``: bytes, ``b''`` for none. May be set.")
    authority = Attribute("Host, and the port where it was given: bytes. May be set.")
    headers = Attribute(
        "The fields, :class:`meshproxy.api.Headers`: ordered, names in lower-case bytes; ``get``, "
        "``get_all``, ``set``, ``add``, ``remove``, ``in``, iteration over (name, value). Without "
        "Host, Connection and what frames the message, which are the proxy's."
    )
    trailers = Attribute("Headers, or None: those came with the end of the body.")
    length = Attribute("Bytes of the body as announced, -1 when that is not known beforehand.")
    complete = Attribute("Whether all of the request has been received.")

    def cookie(name: bytes) -> bytes | None:
        """The value of a cookie, or None."""

    def parameter(name: bytes) -> bytes | None:
        """The first value of a parameter of the query, percent-decoded, or None."""

    def read(limit: int) -> Any:
        """
        A Deferred of the whole body (bytes), as the filters before this one leave it; to be
        asked for and awaited in ``request``. Fails with :class:`meshproxy.errors.BodyTooLarge`
        over ``limit`` bytes: 413 if it is let through. The body is sent on all the same.
        """

    def set_body(data: bytes) -> None:
        """Send this body instead; in ``request``, after ``read``, or for a request without one."""


class IResponse(Interface):
    """The response of an exchange."""

    status = Attribute("int. May be set in ``response``.")
    headers = Attribute("The fields, as :attr:`IRequest.headers`; without what frames the body.")
    trailers = Attribute("Headers, or None: those came with the end of the body.")
    length = Attribute("Bytes of the body as announced, -1 when that is not known beforehand.")
    local = Attribute("Whether the proxy (or a filter) answered, not an endpoint: bool.")
    delimited = Attribute(
        "False for a body that ends with the connection, so that nobody knows whether it is whole."
    )
    bodiless = Attribute("Whether it can have no body: to HEAD, 204, 304, 1xx.")

    def read(limit: int) -> Any:
        """
        As :meth:`IRequest.read`, in ``response``; over ``limit`` that is a 500 if let through.
        """

    def set_body(data: bytes) -> None:
        """Send this body instead; in ``response``, after ``read``, or for a local response."""


class IRequestFilter(Interface):
    """Looks at requests before they are routed to a cluster; may change or answer them."""

    def request(exchange: Any) -> Any:
        """
        A request's head is here. In the order of the chain, before anything is sent upstream.

        Returns None to go on, a :class:`meshproxy.api.Response` to answer it (the filters before
        this one see that, in reverse, the others do not), or a Deferred or coroutine of either.
        """


class IRequestBodyFilter(Interface):
    """
    Looks at request bodies as they stream.

    A body that may change loses its announced length. A filter that has an attribute
    ``keeps_length``, true, promises that as many bytes leave as come; the length stays then.
    """

    def request_data(exchange: Any, data: bytes, end: bool) -> Any:
        """
        Bytes of the body, in order, after this filter's ``request`` went on. ``end``: the last
        ones, which may be empty. Not called for a request without a body.

        Returns the bytes to go on in their place (empty: nothing yet), None to let them pass, a
        Response to answer now (while none has begun), or a Deferred or coroutine of these; the
        next bytes come when that has fired. A method that is an asynchronous generator (``async
        def`` with ``yield``) makes several pieces of one, each in its time.
        """


class IRequestTrailersFilter(Interface):
    """Looks at the trailers of requests."""

    def request_trailers(exchange: Any, trailers: Any) -> Any:
        """
        The trailers (Headers, may be changed), if any. Returns None, or a Deferred or coroutine.
        """


class IResponseFilter(Interface):
    """Looks at responses before the client gets them."""

    def response(exchange: Any) -> Any:
        """
        A response's head is in ``exchange.response``: an endpoint's, or the proxy's own (a 404,
        a 503, what a later filter answered). In the reverse order of the chain, once an exchange,
        by every filter whose ``request`` (where it has one) let the request go on.

        Returns None to go on, a Response to put in its place (who has not seen the former sees
        that), or a Deferred or coroutine of either. Of 1xx, only the 101 of an upgrade is shown.
        """


class IResponseBodyFilter(Interface):
    """Looks at response bodies as they stream; as :class:`IRequestBodyFilter`."""

    def response_data(exchange: Any, data: bytes, end: bool) -> Any:
        """As :meth:`IRequestBodyFilter.request_data`, for the response; in reverse order."""


class IResponseTrailersFilter(Interface):
    """Looks at the trailers of responses."""

    def response_trailers(exchange: Any, trailers: Any) -> Any:
        """As :meth:`IRequestTrailersFilter.request_trailers`."""


class IExchangeObserver(Interface):
    """Wants to know when exchanges are over."""

    def finished(exchange: Any) -> None:
        """
        The exchange is over, however it ended: once for every one that met this chain, even if
        not this filter, before it is logged (with its ``metadata``). It cannot wait.
        """


# TCP.


class IConnection(Interface):
    """A client's TCP connection, as a filter sees it."""

    client = Attribute("``b'ip:port'`` of the client.")
    client_ip = Attribute("``b'ip'`` of the client.")
    local = Attribute("``b'ip:port'`` that the client connected to.")
    tls = Attribute("As :attr:`IExchange.tls`.")
    listener_name = Attribute("The name of the listener: bytes.")
    cluster_name = Attribute("bytes, empty until one is chosen.")
    upstream = Attribute("``b'ip:port'`` of the endpoint, empty until one is chosen.")
    bytes_received = Attribute("Bytes from the client so far.")
    bytes_sent = Attribute("Bytes for the client so far.")
    start = Attribute("When it was accepted: seconds of ``IFilterContext.now``.")
    flags = Attribute("Envoy's response flags, or ``b'-'``.")
    details = Attribute("Why it ended as it did. May be set.")
    metadata = Attribute("As :attr:`IExchange.metadata`.")
    notes = Attribute("As :attr:`IExchange.notes`.")

    def write(data: bytes) -> None:
        """Send bytes to the client, past the filters; only where bytes are filtered or served."""

    def start_tls() -> Any:
        """End TLS from here on (``on_demand`` listeners): a Deferred of the new :attr:`tls`."""

    def close(reset: bool = False) -> None:
        """End the connection: in order, after what was written, or with a RST."""


class IConnectionFilter(Interface):
    """Judges connections before an upstream is asked for."""

    def connected(connection: Any) -> Any:
        """
        A client connected; its PROXY header, if any, was read, and nothing else. In the order of
        the chain. Returns None to go on, a :class:`meshproxy.api.Refuse` to end it, or a Deferred
        or coroutine of either.
        """


class IBytesFilter(Interface):
    """
    Looks at the bytes of connections. Without one in a listener's chain the kernel moves them.
    """

    def received(connection: Any, data: bytes, end: bool) -> Any:
        """
        Bytes from the client, in the order of the chain. ``end``: the last, maybe empty.

        Returns the bytes to go on in their place, None to let them pass, a Refuse to end the
        connection, or a Deferred or coroutine of these; the next bytes come when that has fired.
        """

    def sent(connection: Any, data: bytes, end: bool) -> Any:
        """The same for bytes from the upstream, in reverse order."""


class IConnectionServer(Interface):
    """Serves connections itself, in place of an upstream: the last of its chain."""

    def serve(connection: Any) -> Any:
        """
        The filters before let it pass. Returns None, or a Deferred or coroutine; then come bytes.
        """

    def serve_data(connection: Any, data: bytes, end: bool) -> None:
        """Bytes from the client, after the filters. It answers by ``connection.write``."""


class IConnectionObserver(Interface):
    """Wants to know when connections are over."""

    def closed(connection: Any) -> None:
        """The connection is over: once for each that met this chain, before it is logged."""


class IListenerFilter(Interface):
    """Judges connections of any protocol as they are accepted, before TLS and the first byte."""

    def accepted(connection: Any) -> Any:
        """
        As :meth:`IConnectionFilter.connected`. The connection has its addresses, ``metadata`` and
        ``notes``; nothing can be written. A PROXY header was not read yet.
        """


# UDP and DNS.


class IDatagramFilter(Interface):
    """Looks at the datagrams of a UDP session."""

    def received(session: Any, data: bytes) -> Any:
        """A datagram from the client. Returns None (pass), other bytes, or ``b""`` to drop it."""

    def sent(session: Any, data: bytes) -> Any:
        """The same for a datagram from the upstream."""


class IQueryFilter(Interface):
    """Looks at DNS queries and their answers."""

    def query(query: Any) -> Any:
        """A query is here. Returns None to go on, an answer, or a Deferred or coroutine."""

    def answer(query: Any, answer: Any) -> Any:
        """An answer is here, of whatever origin. Returns None, or another in its place."""


# Choices beside filters.


class IAccessLog(Interface):
    """Takes the record of every request or connection when it is over."""

    def log(record: Any) -> None:
        """
        ``record`` is a :class:`meshproxy.observe.record.AccessRecord`; it is not to be kept.
        Called after ``finished`` and ``closed`` of the filters, for every request: it cannot
        wait. What it raises is counted and logged, and harms nobody.
        """


class IRateStore(Interface):
    """Where the state of rate limits is kept: in this process, or shared with others."""

    def take(key: bytes, cost: float, rate: Any, now: float) -> Any:
        """
        Take ``cost`` from the bucket ``key`` of this ``rate`` (``limit`` in ``period`` seconds,
        with ``burst``) at ``now`` (seconds since 1970); a negative cost gives it back.

        Returns (allowed, remaining, seconds until the bucket is full, seconds until ``cost`` would
        be allowed), or a Deferred of it. It never raises for a full store: a bucket that cannot
        be kept is judged as the store's documentation says, and never one that starts full again.
        """


class IBalancing(Interface):
    """A way to balance: what a plugin of the kind ``"balancer"`` creates, one for a cluster."""

    def balance(endpoints: Any) -> Any:
        """
        Return an :class:`IBalancer` for these :class:`meshproxy.upstream.endpoint.Endpoint`, a
        tuple that is never empty: those of one priority, zone and subset that may be chosen now.

        Called when the endpoints, their health or their shares change (the first time before
        ``start``); O(n log n) at most. If it raises, the cluster takes turns until the next call.
        """


class IBalancer(Interface):
    """The choice of an endpoint among those that are well."""

    def pick() -> Any:
        """
        Return the endpoint that the next request or connection goes to; None is a 503.

        Called for every one of them, so O(1), or O(log n) where weights differ; it must not
        raise and must not wait. Looked up once: the method must stay the same.
        """


class IHashBalancer(Interface):
    """The choice of an endpoint by a number, the same for the same number."""

    def pick_by(number: int) -> Any:
        """
        Return the endpoint for ``number`` (64 bits, well mixed), or None when none is ``usable``.

        It knows every endpoint and passes over those that are not ``usable``, so that one that
        goes and comes back moves its own keys only. O(log n) at most while the endpoints are
        well; it must not raise and must not wait.
        """


class IDiscovery(Interface):
    """A source of endpoints."""

    def start(update: Any, failed: Any) -> None:
        """
        Begin. ``update(specs)`` is to be called with the whole set of endpoints, a sequence of
        :class:`meshproxy.upstream.endpoint.EndpointSpec`, now or later, and again whenever it
        changed; a plugin gives what ``endpoints`` of a cluster takes, texts or mappings. A source
        that fails calls ``failed(reason)``, a str, in its place: what was known last stays in use.
        Neither is called within this call but where nothing has to be waited for.
        """

    def stop() -> None:
        """End for good: every timer and request is cancelled, ``update`` is not called again."""

    def describe() -> Any:
        """A dictionary for the admin: where it looks, when it last succeeded, the last error."""


class IHealthCheck(Interface):
    """A way of asking an :class:`meshproxy.upstream.endpoint.Endpoint` whether it is well."""

    name = Attribute("What the log and the metrics call it: a str, such as ``http``.")

    def check(endpoint: Any) -> Any:
        """
        Ask once. Returns a Deferred (or coroutine) that fires with None when the endpoint is well,
        and fails with :class:`meshproxy.errors.CheckFailed`, whose text says why, when it is not.

        Whoever asks cancels it when it takes too long; all that the check opened is closed then.
        """
