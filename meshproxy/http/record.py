"""
What the access log asks of an exchange beside its attributes.

The law it keeps: nothing here is stored; each answer is looked up when somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.observe.record import Facts

if TYPE_CHECKING:
    from meshproxy.http.filtering import Filtering
    from meshproxy.http.listener import HttpListener
    from meshproxy.http.router import Route
    from meshproxy.http.stream import Downstream
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint


NO_FACTS = Facts({})


class Recorded:
    """Completes :class:`meshproxy.observe.record.AccessRecord` for an exchange."""

    __slots__ = ()

    if TYPE_CHECKING:
        listener: HttpListener
        stream: Downstream
        endpoint: Endpoint | None
        filtering: Filtering | None
        cluster: Cluster | None
        route: Route | None

    #: TLS that passes unread is no HTTP.
    server_name = b""

    @property
    def facts(self) -> Facts:
        """What filters noted, by name."""
        filtering = self.filtering
        return NO_FACTS if filtering is None else Facts(filtering.metadata)

    @property
    def scheme(self) -> bytes:
        """``b"http"`` or ``b"https"``."""
        return self.listener.scheme

    @property
    def local(self) -> bytes:
        """``b"ip:port"`` that the client connected to."""
        return self.stream.local

    @property
    def upstream(self) -> bytes:
        """``b"ip:port"`` of the endpoint, or ``b""``."""
        return self.endpoint.text if self.endpoint is not None else b""

    @property
    def cluster_name(self) -> bytes:
        """The cluster's name, or ``b""``."""
        return self.cluster.name_bytes if self.cluster is not None else b""

    @property
    def route_name(self) -> bytes:
        """The route's name, or ``b""``."""
        return self.route.name_bytes if self.route is not None else b""

    @property
    def listener_name(self) -> bytes:
        """The listener's name."""
        return self.listener.name_bytes
