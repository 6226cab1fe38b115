"""What a proxy is asked to do, before it is written in that proxy's own language.

A plan names the work (routes and clusters, or one TCP upstream), a place says where on this
machine a proxy lives, and a launch is what comes out: a command and the files it reads.  Every
proxy gets the same plan; nothing in a plan favours one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ROUTE_COUNT = 100
CLUSTER_COUNT = 4

# Limits and timeouts of every proxy, in seconds and connections.
CONNECT_TIMEOUT = 5
REQUEST_TIMEOUT = 15
STREAM_IDLE_TIMEOUT = 300
IDLE_TIMEOUT = 3600
MAX_CONNECTIONS = 4000
POOL_CONNECTIONS = 1024

_NOUNS = (
    "users", "orders", "basket", "catalogue", "search",
    "payments", "api/internal/billing", "media", "reports", "notifications",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate for ``name`` and what either side of TLS needs of it, as files."""

    name: str
    chain: Path
    key: Path
    both: Path  # chain and key in one file, as HAProxy wants them
    authority: Path


@dataclass(frozen=True, slots=True)
class Route:
    """Requests whose path starts with ``prefix`` (it ends in a slash) go to ``cluster``."""

    prefix: str
    cluster: str


@dataclass(frozen=True, slots=True)
class HttpPlan:
    """Routes in order of precedence, and the loopback port behind each cluster.

    ``terminate``: the listener speaks TLS as this; ``originate``: the clusters speak it, and are
    verified to be this.  ``bodies``: requests or responses will have bodies of megabytes.
    """

    routes: tuple[Route, ...]
    clusters: Mapping[str, int]
    terminate: Identity | None = None
    originate: Identity | None = None
    bodies: bool = False

    @property
    def secured(self) -> bool:
        """Whether there is TLS anywhere."""
        return self.terminate is not None or self.originate is not None


@dataclass(frozen=True, slots=True)
class TcpPlan:
    """One TCP listener in front of one loopback port; ``bulk``: it will see streams.

    ``terminate``: the listener speaks TLS as this.
    """

    backend: int
    bulk: bool = False
    terminate: Identity | None = None

    @property
    def secured(self) -> bool:
        """Whether there is TLS anywhere."""
        return self.terminate is not None


Plan = HttpPlan | TcpPlan


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of its own, and loopback ports for listener and admin or statistics."""

    directory: Path
    port: int
    admin: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, its files (name in the directory -> text), its environment's additions."""

    argv: tuple[str, ...]
    files: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Proxy(Protocol):
    """One competitor: how it is called, whether it is here, and how it is started."""

    @property
    def name(self) -> str:
        """The name in tables, on the command line and in the JSON."""

    def missing(self, plan: Plan) -> str | None:
        """Why it cannot run this plan on this machine, or None when it can."""

    def version(self) -> str:
        """What it says of its own version."""

    def launch(self, plan: Plan, place: Place) -> Launch:
        """The plan in this proxy's own language."""


def http_plan(backend_ports: Sequence[int]) -> HttpPlan:
    """A hundred prefix routes of several lengths, dealt in turn to a cluster a backend port."""
    clusters = {f"cluster{number}": port for number, port in enumerate(backend_ports)}
    names = list(clusters)
    routes = tuple(
        Route(
            f"/{_NOUNS[number % len(_NOUNS)]}/v{number // len(_NOUNS)}/", names[number % len(names)]
        )
        for number in range(ROUTE_COUNT)
    )
    return HttpPlan(routes, clusters)


def asked_prefixes(plan: HttpPlan, every: int = 4) -> tuple[str, ...]:
    """The prefixes that the load asks for: each ``every``-th, about the middle on average."""
    return tuple(route.prefix for route in plan.routes[every // 2 :: every])
