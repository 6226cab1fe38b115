"""
The endpoints that a name of the configuration stands for.

The laws they keep:

- What a look-up could not tell (a family, a target of SRV) stays as it was told last.
- The same answer in another order is the same endpoints, in the same order.
- A name gives at most 1000 endpoints, the first by their addresses.
- TLS verifies the name that was asked for, for what a name server answers is nobody's word: of a
  host the name as it is written, whatever it is an alias of; of SRV records the domain that they
  are of (RFC 6125, 6.2.1), never their targets. An endpoint's ``server_name`` takes its place.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.upstream.discovery.resolver import (
    Addresses,
    LookupFailed,
    Resolver,
    Service,
    together,
)
from meshproxy.upstream.endpoint import EndpointSpec

if TYPE_CHECKING:
    from meshproxy.config import Endpoint as EndpointConfig

MOST = 1000
"""Addresses of one name."""

_AT_ONCE = 16
_HEAVIEST = 1000
_LAST_PRIORITY = 15


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a look-up taught: endpoints, for how long (seconds, None: unsaid), and what it lacks."""

    specs: tuple[EndpointSpec, ...]
    ttl: int | None
    problem: str = ""


class _Known:
    """What is known of a host's addresses."""

    def __init__(self) -> None:
        self._by_family: dict[int, tuple[str, ...]] = {}

    def take(self, told: Addresses) -> None:
        for family, addresses in told.by_family.items():
            if addresses is not None:
                self._by_family[family] = addresses

    def all(self) -> list[str]:
        """Every address, IPv4 first, in the order of their last answers."""
        families = (socket.AF_INET, socket.AF_INET6)
        return [address for family in families for address in self._by_family.get(family, ())]


class HostName:
    """
    An address with a host name.

    ``logical``: one endpoint, at the first IPv4 address if there is one and else at the first of
    IPv6 (Envoy's V4_PREFERRED; its AUTO is the other way round, which where IPv6 is not routed
    reaches nobody), and it stays there while that address is among the answers. Otherwise each
    address of both families (Envoy's ALL) is an endpoint.
    """

    def __init__(self, config: EndpointConfig, resolver: Resolver, logical: bool) -> None:
        assert config.address is not None
        self.text: str = config.address.text
        self._config = config
        self._host = config.address.host
        self._port = config.address.port
        self._resolver = resolver
        self._logical = logical
        self._known = _Known()
        self._at = ""

    async def look(self) -> Learnt:
        """Look it up once. Raises LookupFailed when there is nothing new to know."""
        told = await self._resolver.addresses(self._host)
        self._known.take(told)
        addresses = self._known.all()
        if self._logical:
            if self._at not in addresses:
                self._at = addresses[0]
            addresses = [self._at]
        config = self._config
        name = self._host.removesuffix(".")
        specs = tuple(
            _spec(
                config,
                address,
                self._port,
                name,
                config.weight,
                config.priority,
                name,
                self.text if self._logical else "",
            )
            for address in sorted(addresses, key=_order)[:MOST]
        )
        return Learnt(specs, told.ttl, told.problem)


class ServiceName:
    """
    A name of SRV records (RFC 2782): each address of each target is an endpoint.

    Weights and priorities are the records'; a priority of the configuration is added, so that a
    whole service can be a backup. A target ``.`` says that there is no such service.
    """

    def __init__(self, config: EndpointConfig, resolver: Resolver) -> None:
        assert config.srv is not None
        self.text: str = config.srv
        self._config = config
        self._resolver = resolver
        self._known: dict[str, _Known] = {}

    async def look(self) -> Learnt:
        """Look it up once, with all targets. Raises LookupFailed when nothing is known then."""
        told, ttl = await self._resolver.services(self.text.lower())
        ordered = sorted(told, key=lambda one: (one.priority, one.target, one.port, one.weight))
        services = [one for one in ordered if one.target != "."][:MOST]
        targets = list(dict.fromkeys(one.target.lower() for one in services))
        self._known = {target: self._known.get(target, _Known()) for target in targets}
        ttls = [ttl]
        problems = []
        for start in range(0, len(targets), _AT_ONCE):
            some = targets[start : start + _AT_ONCE]
            answers = await together([self._target(target) for target in some])
            for target, answer in zip(some, answers, strict=True):
                if isinstance(answer, Addresses):
                    self._known[target].take(answer)
                    ttls.append(answer.ttl)
                    if answer.problem:
                        problems.append(f"{target} {answer.problem}")
                else:
                    problems.append(f"{target} {answer}")
        specs = self._specs(services)
        problem = "; ".join(problems[:4])
        if services and not specs:
            raise LookupFailed(problem)
        return Learnt(specs, min((t for t in ttls if t is not None), default=None), problem)

    async def _target(self, target: str) -> Addresses | LookupFailed:
        try:
            return await self._resolver.addresses(target)
        except LookupFailed as error:
            return error

    def _specs(self, services: Sequence[Service]) -> tuple[EndpointSpec, ...]:
        weights = scaled([one.weight for one in services])
        ranks = ranked([one.priority for one in services])
        config = self._config
        domain = domain_of(self.text)
        found: dict[str, EndpointSpec] = {}
        for one, weight, rank in zip(services, weights, ranks, strict=True):
            priority = min(config.priority + rank, _LAST_PRIORITY)
            for address in sorted(self._known[one.target.lower()].all(), key=_order):
                name = one.target.lower().removesuffix(".")
                spec = _spec(config, address, one.port, name, weight, priority, domain)
                if one.port and len(found) < MOST:
                    found.setdefault(spec.key, spec)
        return tuple(found.values())


def domain_of(srv: str) -> str:
    """The domain that the SRV records of the name ``srv`` are of: ``_service._proto.domain``."""
    return srv.split(".", 2)[2].removesuffix(".")


def scaled(weights: Sequence[int]) -> list[int]:
    """SRV weights (0 to 65535) as 1 to 1000, in the same proportions as far as that goes."""
    most = max(weights, default=0)
    if most <= _HEAVIEST:
        return [max(weight, 1) for weight in weights]
    return [max(round(weight * _HEAVIEST / most), 1) for weight in weights]


def ranked(priorities: Iterable[int]) -> list[int]:
    """SRV priorities (0 to 65535, the lowest first) as 0 to 15 in order; what is more is last."""
    given = list(priorities)
    ranks = {value: rank for rank, value in enumerate(sorted(set(given)))}
    return [min(ranks[value], _LAST_PRIORITY) for value in given]


def _order(address: str) -> tuple[int, int]:
    number = ipaddress.ip_address(address)
    return number.version, int(number)


def _spec(
    config: EndpointConfig,
    address: str,
    port: int,
    name: str,
    weight: int,
    priority: int,
    server_name: str,
    key: str = "",
) -> EndpointSpec:
    check = config.health_check
    six = ":" in address
    text = f"[{address}]:{port}" if six else f"{address}:{port}"
    return EndpointSpec(
        key or text,
        socket.AF_INET6 if six else socket.AF_INET,
        (address, port),
        text,
        weight,
        priority,
        config.labels,
        config.zone,
        name,
        (check.port or 0) if check is not None else 0,
        check is None or not check.disabled,
        config.server_name or server_name,
    )
