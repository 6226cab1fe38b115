"""
An HTTP service that is not there, in the place of ``context.http``.

The law it keeps: it has what filters use of ``treq.client.HTTPClient`` and of treq's responses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

HeaderPairs = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]


class FakeAnswer:
    """
    An answer of :class:`FakeHttp`, with what treq's responses offer filters.

    With ``end`` false, a body that is delivered (``deliverBody``) ends when :meth:`finish` is
    called; :meth:`given_up` says whether whoever got it closed its connection.
    """

    def __init__(
        self, status: int, body: bytes = b"", headers: HeaderPairs = (), end: bool = True
    ) -> None:
        from twisted.internet.testing import StringTransport
        from twisted.web.http_headers import Headers as WebHeaders

        self.transport = StringTransport()
        self.protocol: Any = None
        self._end = end
        self.code = status
        self.length = len(body)
        self.headers = WebHeaders()
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            self.headers.addRawHeader(name, value)
        self._body = body

    def content(self) -> Deferred[bytes]:
        """The whole body."""
        return succeed(self._body)

    def collect(self, collector: Callable[[bytes], Any]) -> Deferred[None]:
        """The body piece by piece; what ``collector`` raises fails the Deferred."""
        try:
            if self._body:
                collector(self._body)
        except Exception:
            return fail()
        return succeed(None)

    def json(self) -> Deferred[Any]:
        """The body as JSON."""
        try:
            return succeed(json.loads(self._body))
        except ValueError:
            return fail()

    def deliverBody(self, protocol: Any) -> None:
        """The body to a protocol, as ``twisted.web.iweb.IResponse``'s."""
        self.protocol = protocol
        protocol.makeConnection(self.transport)
        protocol.dataReceived(self._body)
        if self._end:
            self.finish()

    def finish(self, reason: Exception | None = None) -> None:
        """A delivered body ends: whole, or for ``reason``."""
        from twisted.web.client import ResponseDone

        self.protocol.connectionLost(Failure(reason or ResponseDone()))

    def given_up(self) -> bool:
        """Whether whoever got it gave up its connection."""
        return bool(self.transport.disconnecting or self.transport.disconnected)

    def text(self, encoding: str = "utf-8") -> Deferred[str]:
        """The body as text."""
        return succeed(self._body.decode(encoding))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class FakeHttp:
    """
    The HTTP service behind ``context.http``.

    ``answer`` is what requests get: a :class:`FakeAnswer`, an exception, a Deferred, None (it never
    answers), or a function (method, url, keywords) → one of these. ``requests`` is what was asked,
    ``cancelled`` how many were given up.
    """

    def __init__(self) -> None:
        self.answer: Any = FakeAnswer(200, b"")
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.cancelled = 0

    def respond(self, status: int, body: bytes = b"", headers: HeaderPairs = ()) -> None:
        """Answer everything like this from now on."""
        self.answer = FakeAnswer(status, body, headers)

    def request(self, method: Any, url: Any, **keywords: Any) -> Deferred[Any]:
        """As treq's."""
        name = _text(method)
        where = _text(url)
        self.requests.append((name, where, keywords))
        answer = self.answer
        if callable(answer) and not isinstance(answer, Deferred):
            answer = answer(name, where, keywords)
        if isinstance(answer, Deferred):
            return answer
        if isinstance(answer, Exception):
            return fail(answer)
        if answer is None:
            return Deferred(self._given_up)
        return succeed(answer)

    def _given_up(self, _: Deferred[Any]) -> None:
        self.cancelled += 1

    def get(self, url: Any, **keywords: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("GET", url, **keywords)

    def post(self, url: Any, data: Any = None, **keywords: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("POST", url, data=data, **keywords)
