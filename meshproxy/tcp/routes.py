"""
Where a connection goes by what its client says first.

The law it keeps: the routes of the configuration become one table
(:class:`meshproxy.tls.routes.HelloRoutes`) when the listener is made; a connection looks into it
once, and draws a group of endpoints by weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.tls.hello import Hello
from meshproxy.tls.routes import HelloRoutes
from meshproxy.upstream.cluster import weighted_pick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.group import Group


def hello_routes(
    routes: Iterable[Any], clusters: Mapping[str, Cluster]
) -> HelloRoutes[Callable[[], Group]]:
    """
    The table of ``routes``: each a ``match`` or None, the clusters that it leads ``to`` with their
    weights, and the labels of a ``subset``.

    KeyError when a cluster is missing.
    """
    return HelloRoutes([(route.match, _pick(route, clusters)) for route in routes])


def hello_of(facts: Any) -> Hello | None:
    """What stands for the hello of a client whose TLS was ended by us; None if nothing is known."""
    if facts is None:
        return None
    return Hello(facts.server_name, (facts.alpn,) if facts.alpn else (), (), b"", False, 0)


def _pick(route: Any, clusters: Mapping[str, Cluster]) -> Callable[[], Group]:
    groups = [clusters[name].group(getattr(route, "subset", None)) for name in route.to]
    return weighted_pick(groups, list(route.to.values()))
