"""
Session tickets, whose keys rotate.

The laws it keeps:

- OpenSSL makes the keys of a context's tickets when the context is made, and we cannot set them; so
  new keys are a new context, a *generation*. An older one is kept for as long as its tickets
  live and is picked by the name of the key, the first 16 bytes of a ticket (RFC 5077, 4), so that
  it answers nobody but who brings a ticket of its own.
- At most :data:`MOST` older generations are kept; the oldest go first.
- No session is kept here: what is resumed is in the client's hands.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import Any, Final

from OpenSSL import SSL
from twisted.python import log

from meshproxy.tls.hello import Hello, parse_hello
from meshproxy.tls.settings import drain

__all__ = ["MOST", "Generations", "key_name"]

MOST: Final = 16
"""Older generations of one context."""

KEY_NAME: Final = 16
_STEPS: Final = 8


class Generations:
    """The contexts for one set of certificates: the current one and those whose tickets live."""

    __slots__ = ("_ends", "born", "current", "number", "older")

    def __init__(self, current: SSL.Context, born: float) -> None:
        self.current = current
        self.born = born
        #: How often the keys were new.
        self.number = 1
        #: By the name of the key.
        self.older: dict[bytes, SSL.Context] = {}
        # When the last ticket of each ends, in the order of their birth.
        self._ends: deque[tuple[float, bytes]] = deque()

    def turn(self, context: SSL.Context, now: float, lifetime: float) -> None:
        """Make ``context``, equal to the current one but for its keys, the current one."""
        name = key_name(self.current)
        if name:
            if len(self._ends) >= MOST:
                self._drop()
            self.older[name] = self.current
            self._ends.append((now + lifetime, name))
        else:
            log.msg("tls tickets: a generation gave none, so that its tickets are forgotten")
        self.current = context
        self.born = now
        self.number += 1

    def expire(self, now: float) -> None:
        """Forget the generations whose tickets have all ended."""
        while self._ends and self._ends[0][0] <= now:
            self._drop()

    def _drop(self) -> None:
        self.older.pop(self._ends.popleft()[1], None)


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
