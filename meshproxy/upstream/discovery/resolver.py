"""
From names to addresses: /etc/hosts, then the name servers, along the search list.

The laws it keeps:

- /etc/hosts is honoured first, always; /etc/resolv.conf only where no servers are configured.
- Only a server's word that there is no such name, or none of its kind, leads to the next suffix of
  the search list. A failure ends the look-up: another host of a similar name is not the answer.
- An address that nobody can connect to (0.0.0.0, multicast) is not taken, whoever says it.
- A bounded number of questions is under way at a time; the others wait.

It asks with dnspython's messages over sockets of its own (:mod:`.question`). twisted.names was
tried: it ends at the first SERVFAIL instead of asking the next server, takes answers to questions
that it did not ask, asks another server by TCP than the one that truncated, and leaves that
connection open.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import dns.exception
import dns.name
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
from dns.rdatatype import AAAA, SRV, A, RdataType
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from meshproxy.upstream.discovery.question import NoAnswer, Question, Reply, Server
from meshproxy.upstream.discovery.system import Hosts, ResolvConf, Settings

Family = Literal["any", "ipv4", "ipv6"]

_KINDS: dict[Family, tuple[RdataType, ...]] = {"any": (A, AAAA), "ipv4": (A,), "ipv6": (AAAA,)}
_FAMILIES = {A: socket.AF_INET, AAAA: socket.AF_INET6}
_AT_ONCE = 100

_T = TypeVar("_T")


class LookupFailed(Exception):
    """
    Nothing was learnt of a name; the text says why.

    ``ttl`` is how long a server says that this stays so, in seconds; None when none said it.
    """

    def __init__(self, reason: str, ttl: int | None = None) -> None:
        super().__init__(reason)
        self.ttl = ttl


@dataclass(frozen=True, slots=True)
class Addresses:
    """
    The addresses of a name by family (AF_INET, AF_INET6), in the order they were given.

    None in place of a family's addresses: nobody could tell, and ``problem`` says why. ``ttl`` is
    None for what nobody gave a time to.
    """

    by_family: dict[int, tuple[str, ...] | None]
    ttl: int | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A record of SRV (RFC 2782); ``target`` ends in a dot."""

    priority: int
    weight: int
    port: int
    target: str


def together(coroutines: Sequence[Coroutine[Any, Any, _T]]) -> Deferred[list[_T]]:
    """Run them at once. None may raise but by being cancelled, which ends all of them."""
    return gatherResults(
        [Deferred.fromCoroutine(coroutine) for coroutine in coroutines], consumeErrors=True
    )


class Resolver:
    """
    Looks names up. ``servers`` () takes those of /etc/resolv.conf, with its search list.

    ``timeout`` is seconds for a question to all servers. ``hosts`` and ``resolv_conf`` are paths
    for tests.
    """

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[Server],
        family: Family,
        timeout: float,
        hosts: Hosts | None = None,
        resolv_conf: ResolvConf | None = None,
    ) -> None:
        self._reactor = reactor
        self._configured = Settings(tuple(servers), (), 0) if servers else None
        self._kinds = _KINDS[family]
        self._timeout = timeout
        self._hosts = hosts or Hosts()
        self._resolv_conf = resolv_conf or ResolvConf()
        self._room = DeferredSemaphore(_AT_ONCE)

    def settings(self) -> Settings:
        """Whom it asks now."""
        return self._configured or self._resolv_conf.settings()

    async def addresses(self, name: str) -> Addresses:
        """The addresses of ``name``; one with a dot at its end is absolute. Or LookupFailed."""
        written = self._hosts.find(name.lower().removesuffix("."))
        by_family: dict[int, tuple[str, ...] | None] = {
            _FAMILIES[kind]: tuple(
                _usable(address for address in written if (":" in address) == (kind == AAAA))
            )
            for kind in self._kinds
        }
        if any(by_family.values()):
            return Addresses(by_family, None)
        replies, ttl = await self._search(name, self._kinds)
        found: dict[int, tuple[str, ...] | None] = {}
        problems = []
        for kind, reply in zip(self._kinds, replies, strict=True):
            if isinstance(reply, NoAnswer):
                found[_FAMILIES[kind]] = None
                problems.append(f"{kind.name}: {reply}")
            else:
                found[_FAMILIES[kind]] = tuple(
                    _usable(
                        record.address
                        for record in reply.records
                        if isinstance(record, (dns.rdtypes.IN.A.A, dns.rdtypes.IN.AAAA.AAAA))
                    )
                )
        if not any(found.values()):
            raise LookupFailed(
                "; ".join(problems) or "its addresses are none to connect to",
                None if problems else ttl,
            )
        return Addresses(found, ttl, "; ".join(problems))

    async def services(self, name: str) -> tuple[list[Service], int | None]:
        """The SRV records of ``name`` and their TTL. Raises LookupFailed."""
        (reply,), ttl = await self._search(name, (SRV,))
        assert isinstance(reply, Reply)
        services = [
            Service(record.priority, record.weight, record.port, record.target.to_text())
            for record in reply.records
            if isinstance(record, dns.rdtypes.IN.SRV.SRV)
        ]
        return services, ttl

    async def _search(
        self, name: str, kinds: Sequence[RdataType]
    ) -> tuple[list[Reply | NoAnswer], int | None]:
        """What is said of the first candidate that has records, and the smallest TTL of these."""
        negative: list[int] = []
        reason = ""
        settings = self.settings()
        for candidate in _candidates(name, settings):
            replies = await together([self._ask(candidate, kind, settings) for kind in kinds])
            ttls = [reply.ttl for reply in replies if isinstance(reply, Reply) and reply.records]
            if ttls:
                return replies, min(ttl for ttl in ttls if ttl is not None)
            failures = [reply for reply in replies if isinstance(reply, NoAnswer)]
            if failures:
                raise LookupFailed("; ".join(dict.fromkeys(map(str, failures))))
            said = [reply for reply in replies if isinstance(reply, Reply)]
            if not reason or all(reply.exists for reply in said):
                what = "/".join(kind.name for kind in kinds)
                exists = all(reply.exists for reply in said)
                reason = f"it has no {what} records" if exists else "there is no such name"
            negative += [reply.ttl for reply in said if reply.ttl is not None]
        raise LookupFailed(reason, min(negative, default=None))

    async def _ask(
        self, name: dns.name.Name, kind: RdataType, settings: Settings
    ) -> Reply | NoAnswer:
        def begin() -> Deferred[Reply]:
            return Question(self._reactor, settings.servers, name, kind, self._timeout).ask()

        try:
            reply: Reply = await self._room.run(begin)
        except NoAnswer as error:
            return error
        return reply


def _candidates(name: str, settings: Settings) -> list[dns.name.Name]:
    """What is asked for, in order (resolv.conf(5), ``search`` and ``ndots``)."""
    suffixes = [""]
    if not name.endswith("."):
        searched = [f"{suffix}." for suffix in settings.search]
        suffixes = ["", *searched] if name.count(".") >= settings.ndots else [*searched, ""]
    names = []
    for suffix in suffixes:
        text = f"{name.removesuffix('.')}.{suffix}"
        try:
            names.append(dns.name.from_text(text))
        except (dns.exception.DNSException, UnicodeError, ValueError):
            continue  # too long with this suffix
    if not names:
        raise LookupFailed("it is no name that can be asked for")
    return names


def _usable(addresses: Any) -> list[str]:
    """Those that one can connect to, each once, as they are written canonically."""
    found: dict[str, None] = {}
    for text in addresses:
        number = ipaddress.ip_address(text.partition("%")[0])
        if not (number.is_unspecified or number.is_multicast or str(number) == "255.255.255.255"):
            found[str(number)] = None
    return list(found)
