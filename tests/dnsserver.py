"""
An authoritative name server for tests, on loopback, whose records and manners change as it runs.

Laws:

- It answers by UDP and TCP on one port that the system chose; leaving the ``with`` block ends it.
- It runs in threads with blocking sockets, and uses nothing of meshproxy nor of Twisted, so that
  the code under test can be on any reactor, or in another process.
- Everything may be changed from any thread at any time; the next query sees it.

For example, endpoints that come and go::

    with DnsServer() as names:
        names.put("api.test", "A", ["127.0.0.1", "127.0.0.2"], ttl=1)
        ...                                   # clusters.x.dns: { servers: [names.address] }
        names.put("api.test", "A", ["127.0.0.2"], ttl=1)      # one left
        names.manner = "servfail"                             # and now it is broken
        names.wait_for(3)                                     # until three more were asked
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

HOST = "127.0.0.1"

#: Seconds: a query that has not come by then never will.
PATIENCE = 30.0

Manner = Literal[
    "answer",  # by the records
    "nxdomain",  # there is no such name
    "nodata",  # the name has no such records
    "servfail",
    "refused",
    "truncate",  # by UDP nothing but the TC bit; TCP answers
    "torn",  # as truncate, and TCP ends in the middle of the answer
    "stall",  # never answer; TCP stays open
    "wrong_id",  # as answer, with another ID
    "wrong_question",  # as answer, to a question that nobody asked
    "forge",  # lies with another ID first, then the answer
    "garbage",  # bytes that are no message
    "empty",  # no answer, no SOA, no error
]


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked: the name in lower case without its last dot, the type, and by what."""

    name: str
    type: str
    transport: Literal["udp", "tcp"]


class DnsServer:
    """
    The server; ``address`` is ``127.0.0.1:PORT``.

    ``manner`` is how it answers everything; ``manners`` says otherwise for a ``(name, type)``.
    ``negative_ttl`` is in the SOA of negative answers, None leaves that out. ``rotate`` turns the
    records, which keep their order otherwise, round by one at each answer. ``queries`` holds what
    came.
    """

    def __init__(self) -> None:
        self.manner: Manner = "answer"
        self.manners: dict[tuple[str, str], Manner] = {}
        self.negative_ttl: int | None = 60
        self.rotate = False
        self.queries: list[Query] = []
        self._records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self._asked = threading.Condition()
        self._closing = False
        self._udp, self._tcp = _sockets()
        self.port: int = self._udp.getsockname()[1]
        self.address = f"{HOST}:{self.port}"
        self._open: set[socket.socket] = set()
        self._threads = [
            threading.Thread(target=self._serve_udp, daemon=True),
            threading.Thread(target=self._serve_tcp, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; returns when every thread has ended."""
        self._closing = True
        with self._asked:
            for sock in (self._udp, self._tcp, *self._open):
                _shut(sock)
        for thread in list(self._threads):
            thread.join(PATIENCE)
        self._udp.close()
        self._tcp.close()

    def put(self, name: str, kind: str, values: Sequence[str], ttl: int = 60) -> None:
        """
        The name has these records of this kind now, and no others of it; none removes them.

        Values are as in a zone file: ``A 10.0.0.1``, ``SRV 0 5 80 a.test.``, ``CNAME b.test.``.
        """
        with self._asked:
            if values:
                self._records[_plain(name), kind] = (ttl, list(values))
            else:
                self._records.pop((_plain(name), kind), None)

    def remove(self, name: str) -> None:
        """The name is no more."""
        with self._asked:
            for key in [key for key in self._records if key[0] == _plain(name)]:
                del self._records[key]

    def count(self, name: str | None = None, kind: str | None = None) -> int:
        """How many queries came, for this name and of this type if they are given."""
        return sum(
            (name is None or query.name == _plain(name)) and (kind is None or query.type == kind)
            for query in list(self.queries)
        )

    def wait_for(self, more: int, name: str | None = None, kind: str | None = None) -> None:
        """Wait until so many more queries came. Raises AssertionError when they do not."""
        wanted = self.count(name, kind) + more
        limit = time.monotonic() + PATIENCE
        with self._asked:
            while self.count(name, kind) < wanted:
                if not self._asked.wait(limit - time.monotonic()):
                    raise AssertionError(f"{more} more queries for {name} {kind} did not come")

    def _serve_udp(self) -> None:
        while not self._closing:
            try:
                wire, peer = self._udp.recvfrom(65535)
            except OSError:
                continue
            if not wire:
                continue
            for reply in self._replies(wire, "udp"):
                self._udp.sendto(reply, peer)

    def _serve_tcp(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._tcp.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            thread = threading.Thread(target=self._converse, args=(sock,), daemon=True)
            with self._asked:
                self._open.add(sock)
                self._threads.append(thread)
            thread.start()

    def _converse(self, sock: socket.socket) -> None:
        try:
            with sock.makefile("rb") as stream:
                while len(length := stream.read(2)) == 2:
                    wire = stream.read(struct.unpack("!H", length)[0])
                    replies = self._replies(wire, "tcp")
                    for reply in replies:
                        framed = struct.pack("!H", len(reply)) + reply
                        if self._manner(wire) == "torn":
                            sock.sendall(framed[: len(framed) // 2])
                            return
                        sock.sendall(framed)
        except OSError:
            pass
        finally:
            with self._asked:
                self._open.discard(sock)
            sock.close()

    def _manner(self, wire: bytes) -> Manner:
        question = dns.message.from_wire(wire).question[0]
        key = (_plain(question.name.to_text()), dns.rdatatype.to_text(question.rdtype))
        return self.manners.get(key, self.manner)

    def _replies(self, wire: bytes, transport: Literal["udp", "tcp"]) -> list[bytes]:
        """What is sent for a query, in this order."""
        asked = dns.message.from_wire(wire)
        question = asked.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        name = _plain(question.name.to_text())
        manner = self.manners.get((name, kind), self.manner)
        with self._asked:
            reply = dns.message.make_response(asked, recursion_available=True)
            if manner == "nxdomain":
                self._negative(reply, dns.rcode.NXDOMAIN)
            elif manner == "nodata":
                self._negative(reply, dns.rcode.NOERROR)
            elif manner == "servfail":
                reply.set_rcode(dns.rcode.SERVFAIL)
            elif manner == "refused":
                reply.set_rcode(dns.rcode.REFUSED)
            elif manner in ("truncate", "torn") and transport == "udp":
                reply.flags |= dns.flags.TC
            elif manner != "empty":
                self._fill(reply, name, kind)
            self.queries.append(Query(name, kind, transport))
            self._asked.notify_all()
        if manner == "stall":
            return []
        if manner == "garbage":
            return [wire[:2] + b"\x85\xff" + b"\xc0\x0c" * 20]
        if manner == "wrong_id":
            reply.id ^= 1
        elif manner == "wrong_question":
            reply.question[0].name = dns.name.from_text("another.test.")
        if manner == "forge":
            lie = dns.message.make_response(asked)
            lie.id ^= 1
            lie.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", "192.0.2.66"))
            return [lie.to_wire(), _wire(reply)]
        return [_cut(reply) if transport == "udp" else _wire(reply)]

    def _fill(self, reply: dns.message.Message, name: str, kind: str) -> None:
        """Answer by the records, along CNAMEs."""
        owner = name
        for _ in range(20):
            held = self._records.get((owner, kind))
            alias = None if held else self._records.get((owner, "CNAME"))
            if held is None and alias is None:
                known = any(key[0] == owner for key in self._records)
                self._negative(reply, dns.rcode.NOERROR if known else dns.rcode.NXDOMAIN)
                return
            shown = kind if held else "CNAME"
            ttl, values = held or alias or (0, [])
            reply.answer.append(dns.rrset.from_text_list(f"{owner}.", ttl, "IN", shown, values))
            if held is not None:
                if self.rotate:
                    values.append(values.pop(0))
                return
            owner = _plain(values[0])

    def _negative(self, reply: dns.message.Message, code: dns.rcode.Rcode) -> None:
        reply.set_rcode(code)
        if self.negative_ttl is not None:
            # The TTL of the SOA is longer than its MINIMUM: RFC 2308 takes the smaller.
            data = f"ns.test. root.test. 1 3600 600 86400 {self.negative_ttl}"
            reply.authority.append(
                dns.rrset.from_text(".", self.negative_ttl + 1000, "IN", "SOA", data)
            )


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _wire(reply: dns.message.Message) -> bytes:
    """The reply as bytes, its records in their order (dnspython would shuffle them)."""
    return reply.to_wire(max_size=65535, want_shuffle=False)


def _cut(reply: dns.message.Message) -> bytes:
    """The reply as a datagram of 512 bytes at most, truncated if need be (RFC 1035, 4.2.1)."""
    wire = _wire(reply)
    if len(wire) <= 512:
        return wire
    reply.answer.clear()
    reply.flags |= dns.flags.TC
    return _wire(reply)


def _sockets() -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on the same port."""
    for _ in range(100):
        tcp = socket.create_server((HOST, 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
        else:
            udp.settimeout(0.2)
            return udp, tcp
    raise OSError("no loopback port that is free for UDP and TCP")


def _shut(sock: socket.socket) -> None:
    """Wake whatever thread waits in the socket."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
