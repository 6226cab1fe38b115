"""
Session tickets, whose keys rotate.

The laws it keeps:

- OpenSSL makes the keys of a context's tickets when the context is made, and we cannot set them; so
  new keys are a new context, a *generation*. An older one is kept for as long as its tickets
  live and is picked by the name of the key, the first 16 bytes of a ticket (RFC 5077, 4), so that
  it answers nobody but who brings a ticket of its own.
- At most :data:`MOST` older generations are kept; the oldest go first.
- Processes share keys by having been forked from one that made them: generations are prepared
  ahead of their time, and each process comes to them by itself, at the time of a schedule that is
  computed alike in all (:class:`Schedule`). Their keys are known from the start, so that a process
  whose clock ticks a little later honours what its siblings give already.
- No session is kept here: what is resumed is in the client's hands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from OpenSSL import SSL
from twisted.python import log

from meshproxy.tls.hello import Hello, parse_hello
from meshproxy.tls.settings import drain

__all__ = ["MOST", "Generations", "Schedule", "key_name"]

MOST: Final = 16
"""Older generations of one context."""

KEY_NAME: Final = 16
_STEPS: Final = 8


class Schedule:
    """
    Which generation is due at what time: one more each ``rotate`` seconds after ``born``.

    Nothing but the clock and what it told before decide, so that processes forked from one agree.
    """

    __slots__ = ("_extra", "_number", "born", "rotate")

    def __init__(self, born: float, rotate: float) -> None:
        self.born = born
        self.rotate = rotate
        # Those that came otherwise than by the clock.
        self._extra = 0
        self._number = 1

    def due(self, now: float) -> int:
        """The number of the generation that is due, the first being 1; it never becomes less."""
        number = 1 + self._extra + int((now - self.born) // self.rotate)
        if number < self._number - 1:
            # A clock that was set back so far would keep the keys for as long: they go on from
            # here. Set back a little, across a change, it waits.
            self._extra += self._number - number
            number = self._number
        self._number = max(self._number, number)
        return self._number

    def hasten(self) -> None:
        """Have one more from now on."""
        self._extra += 1


class Generations:
    """The contexts for one set of certificates: the current one and those whose tickets live."""

    __slots__ = ("_ahead", "_ends", "_name", "current", "known", "number")

    def __init__(self, current: SSL.Context, number: int = 1) -> None:
        self.current = current
        #: By :class:`Schedule`.
        self.number = number
        #: By the name of the key: the older ones, and those that were prepared.
        self.known: dict[bytes, SSL.Context] = {}
        # The name of the current one's key; empty until it is needed.
        self._name = b""
        # The next ones, in the order of their numbers.
        self._ahead: deque[tuple[bytes, SSL.Context]] = deque()
        # When the last ticket of each older one ends, in the order of their birth.
        self._ends: deque[tuple[float, bytes]] = deque()

    @property
    def prepared(self) -> int:
        """How many of the next ones there are."""
        return len(self._ahead)

    def prepare(self, count: int, make: Callable[[], SSL.Context]) -> None:
        """Have the next ``count`` ones, equal to the current one but for their keys."""
        while len(self._ahead) < count:
            context = make()
            name = key_name(context)
            self._ahead.append((name, context))
            if name:
                self.known[name] = context

    def turn(
        self, number: int, now: float, lifetime: float, make: Callable[[], SSL.Context]
    ) -> bool:
        """
        Make generation ``number`` the current one, of those prepared while there are some.

        What is passed over on the way may have given tickets in other processes, and is honoured
        as an older one. Returns whether what is the current one now was prepared.
        """
        until = now + lifetime
        while self.number < number and self._ahead:
            self._retire(until)
            self._name, self.current = self._ahead.popleft()
            self.number += 1
        if self.number >= number:
            return True
        fresh = make()
        self._retire(until)
        self.current = fresh
        self._name = b""
        self.number = number
        return False

    def expire(self, now: float) -> None:
        """Forget the generations whose tickets have all ended."""
        while self._ends and self._ends[0][0] <= now:
            self._drop()

    def _retire(self, until: float) -> None:
        """Count the current one among the older ones, whose last ticket ends at ``until``."""
        name = self._name or key_name(self.current)
        if name:
            if len(self._ends) >= MOST:
                self._drop()
            self.known[name] = self.current
            self._ends.append((until, name))
        else:
            log.msg("tls tickets: a generation gave none, so that its tickets are forgotten")

    def _drop(self) -> None:
        self.known.pop(self._ends.popleft()[1], None)


def key_name(context: SSL.Context) -> bytes:
    """
    The name of the key of a server's tickets, learnt by a handshake in memory; empty if it gives
    none.
    """
    try:
        return _learn(context)
    except (SSL.Error, ValueError):
        drain()
        return b""


@cache
def _client() -> SSL.Context:
    """A client that takes whatever a server of ours may speak, and trusts it."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(b"ALL:COMPLEMENTOFDEFAULT:@SECLEVEL=0")
    return context


def _learn(context: SSL.Context) -> bytes:
    server: Any = SSL.Connection(context, None)
    server.set_accept_state()
    # This client has no certificate; what it gets is thrown away.
    server.set_verify(SSL.VERIFY_NONE, None)
    client: Any = SSL.Connection(_client(), None)
    client.set_connect_state()
    for _ in range(_STEPS):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
                # The ticket of TLS 1.3 comes after the handshake.
                one.recv(1)
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(one.bio_read(65536))
            except SSL.WantReadError:
                pass
    session = client.get_session()
    # Otherwise its end, for which no close_notify came, would make the session useless.
    client.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
    if session is None:
        return b""
    again: Any = SSL.Connection(_client(), None)
    again.set_session(session)
    again.set_connect_state()
    try:
        again.do_handshake()
    except SSL.WantReadError:
        pass
    hello = parse_hello(again.bio_read(65536))
    name = hello.ticket if isinstance(hello, Hello) else b""
    return name if len(name) == KEY_NAME else b""
