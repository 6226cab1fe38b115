"""An answer of an HTTP service as twisted.web gives it, for the tests of filters that ask one."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from meshproxy.testing import FakeAnswer


class Answer(FakeAnswer):
    """
    An answer with a body that is delivered by ``deliverBody``: at once, or with ``end=False`` as
    the test says. ``transport.disconnecting`` says whether the connection was given up.
    """

    def __init__(self, status: int, body: bytes = b"", headers: Any = (), end: bool = True) -> None:
        super().__init__(status, body, headers)
        self.transport = StringTransport()
        self.protocol: Any = None
        self._end = end

    def deliverBody(self, protocol: Any) -> None:
        """As ``IResponse``'s."""
        self.protocol = protocol
        protocol.makeConnection(self.transport)
        protocol.dataReceived(self._body)
        if self._end:
            self.finish()

    def finish(self, reason: Exception | None = None) -> None:
        """The body ends."""
        self.protocol.connectionLost(Failure(reason or ResponseDone()))

    def given_up(self) -> bool:
        """Whether whoever got it gave up its connection."""
        return bool(self.transport.disconnecting or self.transport.disconnected)
