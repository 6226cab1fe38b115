"""The competitors, one a module, each in its own good configuration with the same features on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.plan import HttpPlan, Plan, Proxy, TcpPlan
from tests.benchmarks.proxies.envoy import Envoy
from tests.benchmarks.proxies.haproxy import HAProxy
from tests.benchmarks.proxies.meshproxy import Filtered, Meshproxy, Resilient
from tests.benchmarks.proxies.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Collection

FILTERS = (1, 5, 10)
PEER_NAMES = (
    "envoy",
    "haproxy-acl",
    "haproxy-map",
    "nginx",
    "meshproxy-resilient",
    *(f"meshproxy-filters-{number}" for number in FILTERS),
)


def ours() -> Proxy:
    """The proxy that the others are compared with."""
    return Meshproxy()


def peers(plan: Plan, wanted: Collection[str]) -> list[Proxy]:
    """The wanted peers for a plan; HAProxy in the variants that the plan tells apart."""
    found: list[Proxy] = []
    if "envoy" in wanted:
        found.append(Envoy())
    found.extend(HAProxy(name) for name in haproxy_variants(plan, wanted))
    if "nginx" in wanted:
        found.append(Nginx())
    if isinstance(plan, HttpPlan) and not plan.secured:
        if Resilient.name in wanted:
            found.append(Resilient())
        found.extend(peer for n in FILTERS if (peer := Filtered(n)).name in wanted)
    return found


def haproxy_variants(plan: Plan, wanted: Collection[str]) -> list[str]:
    """The variants for a plan: with routes those that are wanted, else all if any is.

    With TLS there is one: by map, and without splicing, which TLS rules out.
    """
    if isinstance(plan, HttpPlan) and not plan.secured:
        return [name for name in ("haproxy-acl", "haproxy-map") if name in wanted]
    if not any(name.startswith("haproxy") for name in wanted):
        return []
    if isinstance(plan, TcpPlan) and plan.bulk and not plan.secured:
        return ["haproxy", "haproxy-splice"]
    return ["haproxy"]
