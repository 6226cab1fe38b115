"""
A proxy before three servers for each fault, one of which has it.

The law it keeps: the clusters of all faults are alike but for their servers, so that what differs
in the outcome is the fault. ``/WAY/NAME/`` leads to a fault's cluster; :data:`WAYS` are the ways
that tell what it costs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import quote

from tests.harness import Proxy
from tests.integration.faults.servers import Faulty, Honest
from tests.integration.faults.traffic import Ask
from tests.integration.wire import eventually

#: Opens after 3 failures, for a fifth of a second at first: several times in a run.
BREAKER = (
    "circuit_breaker: { failure_threshold: 3, base_ejection_time: 200ms, "
    "max_ejection_percent: 50 }, "
)
#: Streams are held back too, so that every fault of a body can be hidden.
RETRY = (
    "retry: { on: [connect-failure, reset, refused-stream, 5xx], attempts: 3, "
    "per_try_timeout: 300ms, buffer_streams: true, backoff: { base: 5ms } }, "
)
_EVERY_WAY = {
    "plain": ("", ""),
    "breaker": (BREAKER, ""),
    "retries": ("", RETRY),
    "both": (BREAKER, RETRY),
    # A slow try is not given up: another is begun beside it.
    "hedged": ("", RETRY.replace("300ms", "100ms, hedge: true")),
    # Nothing is held back.
    "direct": ("", RETRY.replace("buffer_streams: true", "response_buffer: 0")),
}
WAYS = ("plain", "breaker", "retries", "both")

#: A way and a fault.
Pair = tuple[str, type[Faulty]]


def slug(kind: type[Faulty]) -> str:
    """The fault as a part of a path and of a cluster's name."""
    return kind.__name__.lower()


@dataclass(frozen=True, slots=True)
class Mesh:
    """The running proxy, and the servers behind it by the slug of their fault."""

    proxy: Proxy
    faulty: Mapping[str, Faulty]
    honest: tuple[Honest, Honest]

    def ask(self, way: str, kind: type[Faulty], **rest: object) -> Ask:
        """Where a fault is met; the rest as :class:`Ask` has it."""
        prefix = f"/{way}/{slug(kind)}/"
        return Ask(self.proxy.ports["web"], prefix, **rest)  # type: ignore[arg-type]

    def count(self, way: str, kind: type[Faulty], name: str) -> float:
        """The sum of a metric of a fault's cluster, without its ``meshproxy_cluster_``."""
        # All metrics of so many clusters take a second to be read.
        pattern = f'meshproxy_cluster_{name}.*cluster="{slug(kind)}-{way}"'
        shown = self.proxy.get("admin", f"/stats?format=json&filter={quote(pattern)}").body
        found = json.loads(shown)["stats"]
        assert found, f"there is no metric {pattern}"
        return float(sum(entry["value"] for entry in found))

    def second_tries(self, way: str, kind: type[Faulty]) -> float:
        """Requests that were sent again, for whatever reason."""
        return sum(self.count(way, kind, f"{name}_total") for name in ("retries", "replays"))

    def settled(self) -> bool:
        """Wait until nothing is under way in any cluster: whatever was counted was taken off."""
        eventually(lambda: not under_way(self.proxy), "everything that was under way to end")
        return True


def under_way(proxy: Proxy) -> list[str]:
    """What the clusters have in flight and waiting, as the admin shows it."""
    found = []
    for cluster in json.loads(proxy.get("admin", "/clusters").body)["clusters"]:
        for name, (used, _) in cluster["limits"]["default"].items():
            if used:
                found.append(f"{cluster['name']}: {used} {name}")
        found += [
            f"{cluster['name']}: {endpoint['active']} at {endpoint['address']}"
            for endpoint in cluster["endpoints"]
            if endpoint["active"]
        ]
    return found


def configuration(
    pairs: Iterable[Pair], addresses: Mapping[str, str], honest: Sequence[str]
) -> str:
    """The configuration for pairs of way and fault, with the faults' addresses by slug."""
    routes, clusters = [], []
    others = ", ".join(f"'{address}'" for address in honest)
    for way, kind in pairs:
        name = slug(kind)
        breaker, retry = _EVERY_WAY[way]
        routes.append(
            f"        - {{ match: {{ prefix: /{way}/{name}/ }}, {retry}"
            f"timeout: 5s, to: {name}-{way} }}\n"
        )
        clusters.append(
            f"  {name}-{way}: {{ {breaker}connect_timeout: 300ms, limits: {{ retries: 1000 }}, "
            f"endpoints: ['{addresses[name]}', {others}] }}\n"
        )
    return (
        "listeners:\n  web:\n    listen: '127.0.0.1:$web'\n    http:\n      routes:\n"
        f"{''.join(routes)}clusters:\n{''.join(clusters)}"
    )


@contextmanager
def mesh(pairs: Iterable[Pair]) -> Iterator[Mesh]:
    """A proxy before these faults, each in its way; a fault has one server for all its ways."""
    pairs = list(pairs)
    with ExitStack() as stack:
        honest = (stack.enter_context(Honest()), stack.enter_context(Honest()))
        faulty: dict[str, Faulty] = {}
        for _, kind in pairs:
            if slug(kind) not in faulty:
                server = faulty[slug(kind)] = kind()
                stack.enter_context(server)
        addresses = {name: server.address for name, server in faulty.items()}
        text = configuration(pairs, addresses, [server.address for server in honest])
        yield Mesh(stack.enter_context(Proxy(text)), faulty, honest)
