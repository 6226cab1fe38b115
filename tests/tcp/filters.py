"""Filters for the tests of this room, and a mesh with filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from zope.interface import implementer

from meshproxy import config
from meshproxy.interfaces import (
    IBytesFilter,
    IConnectionFilter,
    IConnectionObserver,
    IConnectionServer,
)
from meshproxy.observe.fitted import Fitted
from meshproxy.tcp.listener import TcpListener

if TYPE_CHECKING:
    from tests.tcp.mesh import Mesh


@implementer(IConnectionFilter, IConnectionObserver)
class Judge:
    """Answers ``connected`` by a function, and remembers whose ends it was told."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.connected = answer
        self.asked: list[Any] = []
        self.over: list[Any] = []

    def closed(self, connection: Any) -> None:
        """An end."""
        self.over.append(connection.details)


@implementer(IConnectionFilter)
class Keep:
    """Keeps every connection waiting until the test fires ``waiting[n]``."""

    def __init__(self) -> None:
        self.waiting: list[defer.Deferred[Any]] = []
        self.cancelled = 0

    def _cancel(self, deferred: defer.Deferred[Any]) -> None:
        self.cancelled += 1

    def connected(self, connection: Any) -> defer.Deferred[Any]:
        """Wait."""
        self.waiting.append(defer.Deferred(self._cancel))
        return self.waiting[-1]


@implementer(IBytesFilter)
class Rewrite:
    """Rewrites what comes each way by a function of bytes, connection and end."""

    def __init__(
        self,
        received: Callable[[Any, bytes, bool], Any] | None = None,
        sent: Callable[[Any, bytes, bool], Any] | None = None,
    ) -> None:
        self.seen: list[tuple[str, bytes, bool]] = []
        self._received = received
        self._sent = sent

    def received(self, connection: Any, data: bytes, end: bool) -> Any:
        """From the client."""
        self.seen.append(("received", data, end))
        return self._received(connection, data, end) if self._received else None

    def sent(self, connection: Any, data: bytes, end: bool) -> Any:
        """From the upstream."""
        self.seen.append(("sent", data, end))
        return self._sent(connection, data, end) if self._sent else None


@implementer(IConnectionServer)
class Serve:
    """Serves by a function of bytes, connection and end."""

    def __init__(
        self,
        data: Callable[[Any, bytes, bool], None],
        begin: Callable[[Any], Any] = lambda connection: None,
    ) -> None:
        self.serve = begin
        self._data = data

    def serve_data(self, connection: Any, data: bytes, end: bool) -> None:
        """Bytes."""
        self._data(connection, data, end)


def flip(data: bytes) -> bytes:
    """Every byte, the other way round: what is done twice is undone."""
    return data.translate(bytes(255 - n for n in range(256)))


def filtered(
    mesh: Mesh,
    *filters: Any,
    to: Any = "up",
    listener: Mapping[str, Any] | None = None,
    **options: Any,
) -> TcpListener:
    """
    A listener of ``mesh`` with these filters; ``options`` are those of the section tcp, and what is
    in ``listener`` stands beside it.
    """
    given = options if "routes" in options else {"to": "up", **options}
    tcp = config.Listener.model_validate({"listen": ":0", "tcp": given, **(listener or {})})
    assert tcp.tcp is not None
    leads = {to: 1} if to and "routes" not in options else None
    section = tcp.tcp.model_copy(update={"filters": list(filters), "to": leads})
    model: Any = tcp.model_copy(update={"tcp": section})
    fitted = [
        Fitted(one, f"f{number}", "in", mesh.registry, mesh.wheel.now)
        for number, one in enumerate(filters)
    ]
    made = TcpListener(
        mesh.reactor,
        mesh.wheel,
        mesh.registry,
        "in",
        model,
        mesh.clusters,
        mesh.record,
        fit=lambda items, place: fitted,
    )
    mesh.listeners.append(made)
    return made


def errors(mesh: Mesh, number: int = 0) -> float:
    """What the filter number ``number`` did wrong."""
    return mesh.value("filter_errors_total", listener="in", filter=f"f{number}")
