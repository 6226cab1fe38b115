"""
What filters see of an exchange (:class:`meshproxy.interfaces.IExchange`).

The law it keeps: a view holds nothing but its exchange, and is made when somebody asks first; the
exchange lets go of it at its end, so that neither keeps the other in memory. What costs something
(a dictionary, a flow) is made when it is used first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail

from meshproxy.errors import AlreadyAnswered
from meshproxy.http.fetch import Fetched, fetch
from meshproxy.http.filtering import Filtering
from meshproxy.http.headers import Headers, make_field
from meshproxy.http.message import Response
from meshproxy.http.outcome import (
    FILTERED,
    OVER,
    RESPONDING,
    ROUTING,
    SWERVED,
    TUNNEL,
    Outcome,
)
from meshproxy.http.predicates import query_value

if TYPE_CHECKING:
    from meshproxy.http.exchange import Exchange
    from meshproxy.http.passage import Passage
    from meshproxy.observe.fitted import Fitted
    from meshproxy.tls.facts import Facts

_FIXED_METHODS = frozenset((b"HEAD", b"CONNECT"))


class Viewed(Outcome):
    """An exchange's side towards its filters."""

    __slots__ = ()

    @property
    def tls(self) -> Facts | None:
        """Facts about the client's TLS; see :class:`meshproxy.interfaces.IExchange`."""
        return self.stream.tls

    @property
    def request(self) -> Request:
        """The request."""
        view = self.request_view
        if view is None:
            view = self.request_view = Request(self)  # type: ignore[arg-type]
        return view

    @property
    def response(self) -> ResponseView | None:
        """The response, None while there is none."""
        view = self.response_view
        headers = self.response_headers
        if view is not None and view.headers is headers:
            return view
        if headers is None:
            return None
        view = self.response_view = ResponseView(self, headers)  # type: ignore[arg-type]
        return view

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts by name, for other filters and the access log."""
        return self.kept().metadata

    @property
    def notes(self) -> dict[Any, Any]:
        """What a filter keeps for itself."""
        return self.kept().notes

    def kept(self) -> Filtering:
        """What the filters keep of this exchange."""
        filtering = self.filtering
        if filtering is None:
            filtering = self.filtering = Filtering()
        return filtering

    def respond(self, response: Response) -> None:
        """Answer now. Raises :class:`AlreadyAnswered`."""
        if not isinstance(response, Response):
            raise TypeError(f"a Response is wanted, not {type(response).__name__}")
        state = self.state
        filtering = self.kept()
        if state in (RESPONDING, TUNNEL, OVER) or filtering.given or filtering.closing:
            raise AlreadyAnswered("a response is on its way to the client already")
        flow: Passage | None = filtering.inflow
        if state == FILTERED or (state == SWERVED and self.response_headers is not None):
            flow = filtering.outflow
        if flow is not None and not flow.over and (flow.running or not flow.through):
            if flow.running:
                filtering.given = response
            else:
                flow.answer(flow.waited_for if flow.waited_for >= 0 else flow.position, response)
        elif state in (ROUTING, FILTERED, SWERVED):
            # Inside a call of the chain, which looks at the state when it returns.
            filtering.given = response
            self.state = SWERVED
        else:
            self.give(response, None)

    def give(self, response: Response, fitted: Fitted | None) -> None:
        """Answer with a filter's response."""
        self.flags = response.flags
        label = b"" if fitted is None else fitted.label_bytes
        self.details = response.details or b"filter_response[%b]" % label
        headers = Headers(response.headers.fields)
        body = response.body
        if response.status not in (204, 304) and (body or self.method != b"HEAD"):
            headers.fields.append(make_field(b"content-length", b"%d" % len(body)))
        self.answer(response.status, headers, body)

    def cut(self, details: bytes) -> None:
        """End the exchange, and the client's connection with it. Nothing if it is over."""
        filtering = self.filtering
        if self.state != OVER and (filtering is None or not filtering.closing):
            self._cut(details, True)

    def clear_route(self) -> None:
        """Match the request again. Raises ``RuntimeError`` once it was sent on."""
        if self.state not in (ROUTING, SWERVED) or self.response_headers is not None:
            raise RuntimeError("the request has its route, it was sent on already")
        listener = self.listener
        old = self.route
        route = self.route = listener.match(self)  # type: ignore[arg-type]
        values = listener.values
        if old is not None:
            values[old.active] -= 1
        if route is not None:
            values[route.active] += 1
            chain = route.chain
        else:
            chain = listener.chain_without_route(self)  # type: ignore[arg-type]
        filtering = self.filtering
        if chain is not self.chain:
            filtering = self.kept()
            filtering.next_chain = chain or listener.no_filters
            if filtering.inflow is None:
                self.state = SWERVED
        elif filtering is not None:
            filtering.next_chain = None

    def fetch(
        self,
        headers: Mapping[bytes, bytes | None] | None = None,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Deferred[Fetched]:
        """A copy of the request beside the exchange."""
        return fetch(self, headers, limit, timeout)  # type: ignore[arg-type]

    def skip_body(self, filter: Any) -> None:  # noqa: A002
        """The body method of this filter has nothing to do here."""
        chain = self.chain
        at = None if chain is None else chain.positions.get(id(filter))
        if at is None:
            raise ValueError("this filter is not in the exchange's chain")
        filtering = self.kept()
        if self.response_headers is None:
            filtering.skipped_requests |= 1 << at
            if filtering.inflow is not None:
                filtering.inflow.choose_steps()
        else:
            filtering.skipped_responses |= 1 << at
            if filtering.outflow is not None:
                filtering.outflow.choose_steps()

    def held_up(self) -> None:
        """A filter waits: the route's time runs on."""
        route = self.route
        if self.limit or not self.request_complete or route is None:
            return
        if self.state in (TUNNEL, OVER) or (self.state == RESPONDING and self.whole):
            return
        if route.timeout:
            self.limit = self.deadline = self.request_end + route.timeout
            self.stream.wake(self.deadline)

    def upstream_done(self) -> None:
        """The endpoint has nothing more to do with this exchange."""
        self.pool = None
        self._leave_endpoint()

    def read_body(self, flow: Passage | None, limit: int) -> Deferred[bytes]:
        """The body at the gate of ``flow``, or of the one that will be made when a call returns."""
        if flow is not None:
            return flow.read(limit)
        filtering = self.kept()

        def unread(_: Deferred[bytes]) -> None:
            if filtering.read is not None:
                filtering.read.cancel()

        reader: Deferred[bytes] = Deferred(unread)
        if self.state not in (ROUTING, FILTERED, SWERVED) or filtering.reading is not None:
            reader.errback(RuntimeError("a body is read in request() or response(), once"))
            return reader
        filtering.reading = (reader, limit)
        self.state = SWERVED
        return reader

    def put_body(self, flow: Passage | None, data: bytes) -> None:
        """Another body, at the gate of ``flow`` or of the one that will be made."""
        if not isinstance(data, bytes):
            raise TypeError(f"a body is bytes, not {type(data).__name__}")
        if flow is None:
            if self.state not in (ROUTING, FILTERED, SWERVED):
                raise RuntimeError("a body is set in request() or response()")
            self.kept().body = data
            self.state = SWERVED
        elif flow.sent or not flow.whole:
            raise RuntimeError("a body is set in place of a whole one: read() it first")
        else:
            flow.replace(data)


class Request:
    """See :class:`meshproxy.interfaces.IRequest`."""

    __slots__ = ("_exchange", "headers")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        # An attribute, since nearly every filter asks for it: a property is a call.
        self.headers = exchange.request_headers

    @property
    def method(self) -> bytes:
        """As received, or as a filter set it."""
        return self._exchange.method

    @method.setter
    def method(self, method: bytes) -> None:
        make_field(method, b"")  # a token
        exchange = self._exchange
        if method != exchange.method and {method, exchange.method} & _FIXED_METHODS:
            raise ValueError("a request is HEAD or CONNECT from its beginning, or never")
        exchange.method = method

    @property
    def target(self) -> bytes:
        """Path and query."""
        return self._exchange.target

    @target.setter
    def target(self, target: bytes) -> None:
        if target[:1] != b"/" or min(target) < 0x21 or 0x7F in target or b"#" in target:
            raise ValueError("a target begins with '/', without spaces, control characters, '#'")
        self._exchange.target = self._exchange.upstream_path = target

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self._exchange.target.partition(b"?")[0]

    @path.setter
    def path(self, path: bytes) -> None:
        if b"?" in path:
            raise ValueError("a path has no '?'")
        _, mark, query = self._exchange.target.partition(b"?")
        self.target = path + mark + query

    @property
    def query(self) -> bytes:
        """What follows the ``?``."""
        return self._exchange.target.partition(b"?")[2]

    @query.setter
    def query(self, query: bytes) -> None:
        self.target = b"%b?%b" % (self.path, query) if query else self.path

    @property
    def authority(self) -> bytes:
        """Host, and the port where it was given."""
        return self._exchange.authority

    @authority.setter
    def authority(self, authority: bytes) -> None:
        if not authority or min(authority) < 0x21 or 0x7F in authority:
            raise ValueError("an authority is a host, without spaces or control characters")
        self._exchange.authority = self._exchange.upstream_authority = authority

    @property
    def trailers(self) -> Headers | None:
        """Those behind the body, once they are here."""
        return self._exchange.trailers

    @property
    def length(self) -> int:
        """Bytes of the body as announced, or -1."""
        return self._exchange.request_length

    @property
    def complete(self) -> bool:
        """Whether all of it was received."""
        return self._exchange.request_complete

    def cookie(self, name: bytes) -> bytes | None:
        """The value of a cookie (RFC 6265, 5.4), or None."""
        for value in self._exchange.request_headers.get_all(b"cookie"):
            for pair in value.split(b";"):
                key, mark, held = pair.strip(b" \t").partition(b"=")
                if mark and key == name:
                    return held.strip(b'"')
        return None

    def parameter(self, name: bytes) -> bytes | None:
        """The first value of a parameter of the query, percent-decoded, or None."""
        return query_value(self._exchange.target, name)

    def read(self, limit: int) -> Deferred[bytes]:
        """The whole body. See :meth:`meshproxy.interfaces.IRequest.read`."""
        exchange = self._exchange
        filtering = exchange.filtering
        if exchange.response_headers is not None:
            return fail(RuntimeError("a request's body is read before there is a response"))
        return exchange.read_body(None if filtering is None else filtering.inflow, limit)

    def set_body(self, data: bytes) -> None:
        """Another body. See :meth:`meshproxy.interfaces.IRequest.set_body`."""
        exchange = self._exchange
        filtering = exchange.filtering
        inflow = None if filtering is None else filtering.inflow
        if exchange.response_headers is not None:
            raise RuntimeError("a request's body is set before there is a response")
        if inflow is None and not (exchange.request_complete or exchange.request_length == 0):
            raise RuntimeError("a body is set in place of a whole one: read() it first")
        exchange.put_body(inflow, data)


class ResponseView:
    """See :class:`meshproxy.interfaces.IResponse`."""

    __slots__ = ("_exchange", "headers")

    def __init__(self, exchange: Exchange, headers: Headers) -> None:
        self._exchange = exchange
        self.headers = headers

    @property
    def status(self) -> int:
        """200 to 599, or 101."""
        return self._exchange.status

    @status.setter
    def status(self, status: int) -> None:
        exchange = self._exchange
        if not 200 <= status <= 599:
            raise ValueError(f"a response's status is 200 to 599, not {status}")
        bodiless = (101, 204, 304)
        if status != exchange.status and (status in bodiless or exchange.status in bodiless):
            raise ValueError("101, 204 and 304 have no body: answer with a Response instead")
        exchange.status = status

    @property
    def trailers(self) -> Headers | None:
        """Those behind the body, once they are here."""
        filtering = self._exchange.filtering
        if filtering is None or filtering.outflow is None:
            return None
        return filtering.outflow.trailers

    @property
    def length(self) -> int:
        """Bytes of the body as announced, or -1."""
        value = self.headers.get(b"content-length")
        return int(value) if value is not None and value.isdigit() else -1

    @property
    def local(self) -> bool:
        """Whether no endpoint made it."""
        return self._exchange.local_reply

    @property
    def delimited(self) -> bool:
        """Whether its end can be told from the end of the connection."""
        exchange = self._exchange
        filtering = exchange.filtering
        return exchange.local_reply or filtering is None or filtering.delimited

    @property
    def bodiless(self) -> bool:
        """Whether it can have no body (RFC 9112, 6.3)."""
        exchange = self._exchange
        return exchange.method == b"HEAD" or exchange.status in (101, 204, 304)

    def read(self, limit: int) -> Deferred[bytes]:
        """The whole body. See :meth:`meshproxy.interfaces.IResponse.read`."""
        exchange = self._exchange
        filtering = exchange.filtering
        return exchange.read_body(None if filtering is None else filtering.outflow, limit)

    def set_body(self, data: bytes) -> None:
        """Another body. See :meth:`meshproxy.interfaces.IResponse.set_body`."""
        exchange = self._exchange
        filtering = exchange.filtering
        outflow = None if filtering is None else filtering.outflow
        if outflow is None and exchange.upstream_stream is not None and exchange.status != 101:
            raise RuntimeError("a body is set in place of a whole one: read() it first")
        exchange.put_body(outflow, data)


__all__ = ["Request", "ResponseView", "Viewed"]
