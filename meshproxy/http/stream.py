"""
What the core and the codecs promise each other.

The law: every call is synchronous and cheap; nobody calls back into its caller except where
it says so. ``pause`` and ``resume`` are hints that may be given in any state and any number of
times; data in flight may still arrive after a pause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.http.headers import Headers

if TYPE_CHECKING:
    from meshproxy.tls.facts import Facts


class Downstream(Protocol):
    """One stream towards a client, as the exchange sees it."""

    #: ``b"ip:port"`` of the client, and ``b"ip"``.
    client: bytes
    client_ip: bytes
    #: What is known of the client's TLS, None without it.
    tls: Facts | None

    @property
    def local(self) -> bytes:
        """``b"ip:port"`` of our side."""

    @property
    def stalled(self) -> bool:
        """Whether the client does not take what was written."""

    def inform(self, status: int, headers: Headers) -> None:
        """Send an interim (1xx) response."""

    def respond(self, status: int, headers: Headers, length: int, data: bytes, end: bool) -> None:
        """
        Send the response's head, with the first of its body.

        ``length`` is the body's length in bytes, or -1 when it is not known beforehand.
        ``end``: there is nothing more to come. Called once.
        """

    def send(self, data: bytes) -> None:
        """Send more of the body."""

    def finish(self, data: bytes, trailers: Headers | None) -> None:
        """The body is complete with this last of it, which may be empty."""

    def done(self, reusable: bool) -> None:
        """
        The exchange is over, all of the response handed over: go on with the next request.

        ``reusable`` false: the connection must close after the response.
        """

    def abort(self, reset: bool) -> None:
        """The response cannot be completed: end the stream so that the client notices."""

    def pause(self) -> None:
        """Deliver no more of the request's body for now."""

    def resume(self) -> None:
        """Deliver the request's body again."""

    def wake(self, deadline: float) -> None:
        """Look at the exchange's deadlines at this time (seconds of the wheel) at the latest."""

    def open_tunnel(self) -> None:
        """The upgrade was answered: deliver what the client sent behind its request."""

    def tunnel(self, data: bytes) -> None:
        """Send bytes of an upgraded connection."""


class Upstream(Protocol):
    """One stream towards an endpoint, as the exchange sees it."""

    #: ``b"ip:port"`` of our side of the connection.
    local: bytes
    #: Whether the connection served a request before.
    reused: bool

    @property
    def until_close(self) -> bool:
        """Whether the response's body ends with the connection."""

    def send(self, data: bytes) -> None:
        """Send more of the request's body."""

    def finish(self, trailers: Headers | None) -> None:
        """The request's body is complete."""

    def cancel(self) -> None:
        """The exchange has no use for the response any more. No call comes back."""

    def pause(self) -> None:
        """Deliver no more of the response for now."""

    def resume(self) -> None:
        """Deliver the response again."""

    def tunnel(self, data: bytes) -> None:
        """Send bytes of an upgraded connection."""
