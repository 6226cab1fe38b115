"""
One DNS question, put to name servers until one of them answers (RFC 1035).

The laws it keeps:

- Any bytes whatever from a server give a reply, are ignored, or count against that server alone.
- A datagram counts only when it comes from the server that was asked, to the port and with the ID
  that were drawn for this question, and repeats the question (RFC 5452 section 9.1).
- Server after server is asked; one that has not answered yet is still listened to. Two rounds,
  within one timeout for all.
- However it ends, also by cancelling, every socket and timer of it is closed then.

It asks without EDNS, as the C library does: every server understands that, and what is longer
than 512 bytes comes by TCP.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.SOA
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

Server = tuple[str, int]
"""A name server: its IP address and port."""

_ROUNDS = 2
_MOST_REASONS = 4


class NoAnswer(Exception):
    """No server answered; the text says what each did instead."""


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What a server said.

    ``records`` are those of the type that was asked for, at the end of the CNAMEs, in the order of
    the answer. Without any, ``exists`` tells NODATA from NXDOMAIN. ``ttl`` is in seconds: the
    smallest on the way, or for a negative answer the smaller of the SOA's TTL and its MINIMUM
    (RFC 2308 section 5), None where there is no SOA.
    """

    records: tuple[dns.rdata.Rdata, ...]
    ttl: int | None
    exists: bool = True


class _Alien(Exception):
    """Not the answer to this question: it is waited on."""


class _Truncated(Exception):
    """The whole answer is to be had by TCP."""


class _Useless(Exception):
    """The server does not answer this question; the text says what it does instead."""


def read_reply(wire: bytes, query: dns.message.Message) -> Reply:
    """What ``wire`` says to ``query``. Raises the three exceptions above, nothing else."""
    if len(wire) < 12 or int.from_bytes(wire[:2]) != query.id or not wire[2] & 0x80:
        raise _Alien
    try:
        # The question first: a truncated message may end anywhere behind it.
        message = dns.message.from_wire(wire, question_only=True, ignore_trailing=True)
        if not query.is_response(message):
            raise _Alien
        if message.flags & dns.flags.TC:
            raise _Truncated
        message = dns.message.from_wire(wire, ignore_trailing=True)
        code = message.rcode()
        if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise _Useless(dns.rcode.to_text(code))
        return _records(message)
    except (_Alien, _Truncated, _Useless):
        raise
    except Exception:
        # DNSException for what is broken by the book; but whatever else a message may provoke in
        # its parser, it is the server's fault too.
        raise _Useless("an answer that makes no sense") from None


def _records(message: dns.message.Message) -> Reply:
    assert isinstance(message, dns.message.QueryMessage)
    chain = message.resolve_chaining()
    if chain.answer is not None:
        return Reply(tuple(chain.answer), chain.minimum_ttl)
    ttl = None
    for rrset in message.authority:
        if rrset.rdtype == dns.rdatatype.SOA and chain.canonical_name.is_subdomain(rrset.name):
            (soa, *_) = rrset
            assert isinstance(soa, dns.rdtypes.ANY.SOA.SOA)
            ttl = min(rrset.ttl, soa.minimum)
    return Reply((), ttl, message.rcode() != dns.rcode.NXDOMAIN)


class Question:
    """
    One question: ``kind`` (a record type) of ``name``, to ``servers``, within ``timeout`` seconds.

    A question is asked once.
    """

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[Server],
        name: dns.name.Name,
        kind: dns.rdatatype.RdataType,
        timeout: float,
    ) -> None:
        self.reactor = reactor
        self.query = dns.message.make_query(name, kind, id=secrets.randbelow(1 << 16))
        self.wire = self.query.to_wire()
        self.timeout = timeout
        self._servers = deque([*servers] * _ROUNDS)
        self._patience = timeout / len(self._servers)
        self._hopeless: set[Server] = set()
        self._open: set[_Datagram | _Stream] = set()
        self._reasons: dict[Server, str] = {}
        self._calls: list[Any] = []
        self._deferred: Deferred[Reply] = Deferred(lambda _: self._close())

    def ask(self) -> Deferred[Reply]:
        """A Deferred of the reply, which fails with :class:`NoAnswer`. It may be cancelled."""
        self._calls.append(self.reactor.callLater(self.timeout, self._timed_out))
        self._next()
        return self._deferred

    def _next(self) -> None:
        """Ask the next server; when there is none and nothing is waited for, that was it."""
        while self._servers:
            server = self._servers.popleft()
            if server in self._hopeless:
                continue
            if self._servers:
                self._calls[1:] = [self.reactor.callLater(self._patience, self._impatient)]
            self._begin(_Datagram(self, server))
            return
        if not self._open:
            self._fail()

    def _begin(self, attempt: _Datagram | _Stream) -> None:
        self._open.add(attempt)
        try:
            attempt.start()
        except Exception as error:  # no network, no descriptor left
            self.failed(attempt, str(error) or type(error).__name__)

    def _impatient(self) -> None:
        self._calls[1:] = []
        self._next()

    def received(self, attempt: _Datagram | _Stream, wire: bytes) -> None:
        """A server sent something."""
        if attempt not in self._open:
            return
        try:
            reply = read_reply(wire, self.query)
        except _Alien:
            if isinstance(attempt, _Stream):
                self.failed(attempt, "an answer to another question")
        except _Truncated:
            if isinstance(attempt, _Stream):
                self.failed(attempt, "an answer that is truncated by TCP")
            else:
                self._end(attempt)
                self._begin(_Stream(self, attempt.server))
        except _Useless as error:
            self.failed(attempt, str(error))
        else:
            self._close()
            self._deferred.callback(reply)

    def failed(self, attempt: _Datagram | _Stream, reason: str) -> None:
        """A server does not answer; the next may."""
        if attempt not in self._open:
            return
        self._end(attempt)
        self._hopeless.add(attempt.server)
        self._reasons[attempt.server] = reason
        for call in self._calls[1:]:
            call.cancel()
        del self._calls[1:]
        self._next()

    def _timed_out(self) -> None:
        del self._calls[0]
        for attempt in self._open:
            self._reasons.setdefault(attempt.server, "no answer in time")
        self._fail()

    def _fail(self) -> None:
        self._close()
        told = [f"{host} port {port}: {why}" for (host, port), why in self._reasons.items()]
        more = ["…"] if len(told) > _MOST_REASONS else []
        self._deferred.errback(
            Failure(NoAnswer("; ".join(told[:_MOST_REASONS] + more) or "no name server"))
        )

    def _end(self, attempt: _Datagram | _Stream) -> None:
        self._open.discard(attempt)
        attempt.close()

    def _close(self) -> None:
        self._servers.clear()
        for call in self._calls:
            call.cancel()
        self._calls.clear()
        for attempt in list(self._open):
            self._end(attempt)


@implementer(IReadDescriptor)
class _Datagram:
    """
    A question by UDP, from a port that the kernel draws (connected: it knows the sender).

    It reads a socket of its own: Twisted's UDP ports log each opening and closing, which would be
    two lines in the log for every question.
    """

    def __init__(self, question: Question, server: Server) -> None:
        self.server = server
        self._question = question
        self._sock: socket.socket | None = None

    def start(self) -> None:
        host, port = self.server
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sock = sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect((host, port))
        sock.send(self._question.wire)
        self._question.reactor.addReader(self)

    def fileno(self) -> int:
        return -1 if self._sock is None else self._sock.fileno()

    def logPrefix(self) -> str:
        return "dns"

    def doRead(self) -> None:
        if self._sock is not None:
            try:
                data = self._sock.recv(65535)
            except BlockingIOError:
                return
            except OSError as error:
                self._question.failed(self, error.strerror or str(error))
            else:
                self._question.received(self, data)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw an error of the socket, as when nothing listens there."""
        if self._sock is not None:
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._question.failed(self, os.strerror(number) if number else "the socket failed")

    def close(self) -> None:
        if self._sock is not None:
            self._question.reactor.removeReader(self)
            self._sock.close()
            self._sock = None


class _Stream(Protocol):
    """A question by TCP, with two bytes of length before each message (RFC 1035, 4.2.2)."""

    transport: Any

    def __init__(self, question: Question, server: Server) -> None:
        self.server = server
        self._question = question
        self._connecting: Deferred[Any] | None = None
        self._received = b""

    def start(self) -> None:
        host, port = self.server
        kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        endpoint = kind(self._question.reactor, host, port, timeout=self._question.timeout)
        self._connecting = connectProtocol(endpoint, self)
        self._connecting.addCallbacks(self._connected, self._not_connected)

    def _connected(self, _: object) -> None:
        self._connecting = None

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if not failure.check(CancelledError):
            self._question.failed(self, f"by TCP: {failure.getErrorMessage()}")

    def connectionMade(self) -> None:
        wire = self._question.wire
        self.transport.write(len(wire).to_bytes(2) + wire)

    def dataReceived(self, data: bytes) -> None:
        # Never more than one message: what follows it is not looked at.
        self._received += data
        length = int.from_bytes(self._received[:2])
        if len(self._received) >= 2 + length and len(self._received) >= 2:
            self._question.received(self, self._received[2 : 2 + length])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._question.failed(self, "by TCP: closed before the answer")

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        elif self.transport is not None:
            self.transport.abortConnection()
