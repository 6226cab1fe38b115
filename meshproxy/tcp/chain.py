"""
The filters of a TCP listener, compiled.

The law it keeps: which methods a filter has is asked once, at start; a connection walks through
tuples of bound methods.  A filter that serves connections itself is the last of its chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meshproxy.interfaces import (
    IBytesFilter,
    IConnectionFilter,
    IConnectionObserver,
    IConnectionServer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshproxy.observe.fitted import Fitted

    Step = tuple[Fitted, Callable[..., Any]]
    Log = Callable[[Any], None]

SEVERAL: Final = "only the last filter of a chain can serve connections, and '{}' is not the last"


class Chain:
    """
    ``fitted`` filters of the kind ``tcp``, in order.

    ``connected`` holds the steps that judge a connection, and at their end that of the filter that
    serves it, if there is one; ``judging`` is the number of those that judge.  ``received`` and
    ``sent`` are the steps of bytes from the client and for it, each in the order in which they
    run.  ``serve_data`` is the last step of bytes from the client, where a filter serves.
    ``moves``: whether the bytes have to come through this process.

    Raises ``ValueError`` where a filter that serves is not the last.
    """

    __slots__ = (
        "_observers",
        "connected",
        "judging",
        "moves",
        "received",
        "sent",
        "serve_data",
    )

    def __init__(self, fitted: Iterable[Fitted]) -> None:
        connected: list[Step] = []
        received: list[Step] = []
        sent: list[Step] = []
        observers: list[Step] = []
        server: Fitted | None = None
        for one in fitted:
            if server is not None:
                raise ValueError(SEVERAL.format(server.label))
            held = one.filter
            if IConnectionFilter.providedBy(held):
                connected.append((one, held.connected))
            if IBytesFilter.providedBy(held):
                received.append((one, held.received))
                sent.insert(0, (one, held.sent))
            if IConnectionObserver.providedBy(held):
                observers.append((one, held.closed))
            if IConnectionServer.providedBy(held):
                server = one
        self.judging = len(connected)
        self.serve_data: Step | None = None
        if server is not None:
            connected.append((server, server.filter.serve))
            self.serve_data = server, server.filter.serve_data
        self.connected = tuple(connected)
        self.received = tuple(received)
        self.sent = tuple(sent)
        self.moves = bool(received) or server is not None
        self._observers = tuple(observers)

    def observed(self, log: Log | None) -> Log | None:
        """``log``, after those who observe."""
        observers = self._observers
        if not observers:
            return log

        def over(connection: Any) -> None:
            if connection.met:
                for fitted, closed in observers:
                    try:
                        closed(connection)
                    except Exception:
                        fitted.failed()
            if log is not None:
                log(connection)

        return over


def unknown(answer: Any) -> TypeError:
    """What to say of an answer that is nothing known."""
    return TypeError(f"a filter answered with {type(answer).__name__}")
