"""
One address that a cluster can send to, and what is known of it at this moment.

The law it keeps: an endpoint lives as long as its source names its ``key``; whatever else the
source says of it may change, and what was learnt of it (health, breaker, pool, counts) stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshproxy.tls.sessions import Session
    from meshproxy.upstream.rate import TokenBucket

#: More than anything is ever in flight.
UNLIMITED = 1 << 62

# What an endpoint's circuit breaker is.
CLOSED = 0
OPEN = 1
HALF_OPEN = 2
#: The same in words, by the number in ``Endpoint.breaker``.
BREAKERS = ("closed", "open", "half_open")

#: What an endpoint is to a cluster, by the number in ``Endpoint.state``.
STATES = ("healthy", "unhealthy", "ejected", "half_open")
HEALTHY, UNHEALTHY, EJECTED, PROBED = range(4)


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """
    What a source says of an endpoint.

    ``key`` tells it from the others of its cluster: the address's text, or for logical DNS the
    name. ``sockaddr`` is what ``socket.connect`` takes for ``family``; ``text`` is ``host:port``.
    ``name`` is the host name that it was resolved from, or "". ``check_port`` 0: its own.
    ``server_name`` is what TLS asks it for and finds in its certificate, unless the cluster says
    something else: what was written down, never what a name server made of it; "" for addresses.
    """

    key: str
    family: int
    sockaddr: Any
    text: str
    weight: int = 1
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    zone: str = ""
    name: str = ""
    check_port: int = 0
    checked: bool = True
    server_name: str = ""


class Endpoint:
    """
    An upstream address.

    ``active`` counts the requests (HTTP) or connections (TCP) in flight: whoever uses an
    endpoint adds one and takes it off again, and least_request reads it. ``connections``
    counts open sockets. ``pool`` belongs to the protocol that pools connections.

    ``answered`` and ``failed`` count verdicts for ever: responses that were no failures, and
    failures. ``failures`` and ``local_failures`` are those in a row, at least one of which stays
    above 0 while the breaker is not closed; they belong to :mod:`meshproxy.upstream.breaker`.

    ``usable`` says whether a balancer may choose it: healthy (or the checks are not believed),
    its breaker closed, not removed. It belongs to :mod:`meshproxy.upstream.group`; ``healthy``
    to :mod:`meshproxy.upstream.health`.
    """

    __slots__ = (
        "active",
        "adaptive",
        "answered",
        "breaker",
        "bucket",
        "connections",
        "failed",
        "failures",
        "family",
        "healthy",
        "local_failures",
        "max_active",
        "memory",
        "pool",
        "removed",
        "server_name",
        "session",
        "share",
        "since",
        "sockaddr",
        "spec",
        "state",
        "text",
        "token",
        "usable",
        "weight",
    )

    def __init__(self, spec: EndpointSpec) -> None:
        self.active = 0
        self.connections = 0
        self.pool: Any = None
        self.healthy = True
        self.usable = True
        self.removed = False
        self.breaker = CLOSED
        #: What it was when its cluster last looked: an index of STATES.
        self.state = HEALTHY
        self.answered = 0
        self.failed = 0
        self.failures = 0
        self.local_failures = 0
        #: What the breaker remembers of it (ejections, until when).
        self.memory: Any = None
        #: When it came or came back, for slow start; seconds of the wheel's clock.
        self.since = 0.0
        #: Most in flight at a time, and a cap on the rate.
        self.max_active = UNLIMITED
        self.bucket: TokenBucket | None = None
        #: The gradient's limiter, which sets max_active; ``sample(seconds)`` tells it a latency.
        self.adaptive: Any = None
        #: The TLS session that its next connection resumes; :mod:`meshproxy.tls.sessions` has it.
        self.session: Session | None = None
        #: What stands for it in a sticky cookie; 16 hexadecimal digits.
        self.token = b""
        self.tell(spec)

    def tell(self, spec: EndpointSpec) -> None:
        """What its source says of it now."""
        self.spec = spec
        self.family = spec.family
        self.sockaddr = spec.sockaddr
        self.text = spec.text.encode()
        self.server_name = spec.server_name.encode()
        self.weight = spec.weight
        #: The weight that counts: less than ``weight`` during slow start.
        self.share: float = spec.weight

    def state_now(self) -> int:
        """What it is, by health and breaker: an index of STATES."""
        if self.breaker == CLOSED:
            return HEALTHY if self.healthy else UNHEALTHY
        return EJECTED if self.breaker == OPEN else PROBED

    def room(self, now: float) -> bool:
        """Whether its limits allow one more; takes a token of its rate if so."""
        if self.active >= self.max_active:
            return False
        bucket = self.bucket
        return bucket is None or bucket.take(now)

    def __repr__(self) -> str:
        return f"<Endpoint {self.spec.text} weight={self.weight} active={self.active}>"
