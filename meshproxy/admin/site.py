"""
The admin's server: twisted.web within bounds.

The laws it keeps:

- At most ``max_connections`` connections; one more is closed at once. A connection that is silent
  for ``timeout`` seconds is closed.
- A request's body has at most :data:`LONGEST_BODY` bytes, or the connection is aborted: no page
  reads a body.
- It speaks HTTP/1 only, and logs nothing but what changes state.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.server import Request, Site

from meshproxy.admin.pages import Root
from meshproxy.admin.state import AdminState

#: Bytes of a request's body.
LONGEST_BODY = 65536


class AdminRequest(Request):
    """A request whose body is short."""

    _body = 0

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body came."""
        self._body += len(data)
        if self._body > LONGEST_BODY:
            self.channel.forceAbortClient()
            return
        super().handleContentChunk(data)


class AdminChannel(HTTPChannel):
    """A connection that its site counts."""

    site: Any
    _counted = False

    def connectionMade(self) -> None:
        """Count it."""
        self._counted = True
        self.site.connections += 1
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count it off."""
        if self._counted:
            self._counted = False
            self.site.connections -= 1
        super().connectionLost(reason)


class AdminSite(Site):
    """Serves :class:`~meshproxy.admin.pages.Root`; ``connections`` are open now."""

    protocol = AdminChannel  # type: ignore[assignment]
    displayTracebacks = False

    def __init__(
        self, state: AdminState, reactor: Any, timeout: float, max_connections: int
    ) -> None:
        super().__init__(Root(state), AdminRequest, timeout=timeout, reactor=reactor)
        self.connections = 0
        self._max_connections = max_connections

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A channel, or None when there are enough of them."""
        if self.connections >= self._max_connections:
            return None
        return super().buildProtocol(addr)

    def log(self, request: Any) -> None:
        """Nothing: a scrape every few seconds is no news."""


def make_site(
    state: AdminState,
    *,
    reactor: Any = None,
    timeout: float = 30.0,
    max_connections: int = 64,
) -> Site:
    """
    The factory to listen with.

    ``timeout`` is in seconds; ``reactor`` is the global one unless given.
    """
    return AdminSite(state, reactor, timeout, max_connections)
